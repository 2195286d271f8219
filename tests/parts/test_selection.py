"""Relevance, allocation, predicted errors, plans, ledgers: against their formulas and by sense."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data import Processor, Suite, TaskBatches
from polytask.errors import InputError
from polytask.parts.selection import (
    Ledger,
    SourcePlan,
    allocate,
    held_out_penalty,
    keep_labels,
    plan_sources,
    predicted_error,
    relevance,
)
from polytask.testing import mixed_suite

K, M = 4, 40
SEEDS = range(8)


def heads(seed: int, k: int = K, sources: int = M) -> tuple[np.ndarray, np.ndarray]:
    """Sources and a target made of four of them."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(k, sources))
    return W, W[:, :4] @ rng.normal(size=4)


def bound(nu: np.ndarray, counts: np.ndarray) -> float:
    """F(ν, n) = Σ ν_t² / n_t."""
    return float((nu[nu != 0] ** 2 / counts[nu != 0]).sum())


def named(W: np.ndarray) -> dict[str, np.ndarray]:
    return {f"s{t}": W[:, t] for t in range(W.shape[1])}


# -- relevance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_both_relevances_reach_the_target_each_with_its_smallest_norm(seed: int) -> None:
    W, w = heads(seed)
    one, two = relevance(W, w, "l1", penalty=0), relevance(W, w, "l2")
    np.testing.assert_allclose(W @ one, w, atol=1e-8)
    np.testing.assert_allclose(W @ two, w, atol=1e-8)
    np.testing.assert_allclose(two, np.linalg.pinv(W) @ w, atol=1e-10)
    assert np.abs(one).sum() <= np.abs(two).sum()
    assert np.linalg.norm(two) <= np.linalg.norm(one)
    assert np.count_nonzero(one) <= K


@pytest.mark.parametrize("seed", SEEDS)
def test_the_dual_of_basis_pursuit_proves_that_it_is_the_smallest(seed: int) -> None:
    """Some y with |Wᵀy| ≤ 1 has wᵀy = ||ν¹||₁: no feasible ν can be smaller."""
    W, w = heads(seed)
    nu = relevance(W, w, "l1", penalty=0)
    used = nu != 0
    y = np.linalg.lstsq(W[:, used].T, np.sign(nu[used]), rcond=None)[0]
    assert np.abs(W.T @ y).max() <= 1 + 1e-8
    assert w @ y == pytest.approx(np.abs(nu).sum())


def test_orthonormal_sources_leave_no_choice() -> None:
    w = np.array([0.5, -2.0, 1.0, 0.1])
    for norm in ("l1", "l2"):
        np.testing.assert_allclose(relevance(np.eye(4), w, norm, penalty=0), w, atol=1e-12)
    one = bound(w, allocate(w, 1, 1, whole=False))
    assert one < bound(w, allocate(w, 1, 2, whole=False))
    flat = np.array([1.0, -1.0, 1.0, 1.0])
    assert bound(flat, allocate(flat, 1, 1, whole=False)) == pytest.approx(
        bound(flat, allocate(flat, 1, 2, whole=False))
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_source_twice(seed: int) -> None:
    W, w = heads(seed)
    double = np.hstack([W, W[:, :1]])
    two = relevance(double, w, "l2")
    assert two[0] == pytest.approx(two[-1])
    orthonormal = relevance(np.hstack([np.eye(4), np.eye(4)[:, :1]]), w, "l2")
    assert orthonormal[0] == pytest.approx(w[0] / 2)
    once, twice = (relevance(V, w, "l1", penalty=0) for V in (W, double))
    assert np.abs(twice).sum() == pytest.approx(np.abs(once).sum())

    def value(V: np.ndarray, norm: str, power: int) -> float:
        return predicted_error(
            V, w, allocate(relevance(V, w, norm, penalty=0), 1, power, whole=False)
        )

    assert value(double, "l1", 1) == pytest.approx(value(W, "l1", 1))
    assert value(double, "l2", 2) >= value(double, "l1", 1) - 1e-9


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_only_the_product_of_head_and_relevance_is_identified(norm: str) -> None:
    """ν_t -> ν_t / a where source t is scaled by a, and what W ν reaches stays."""
    rng = np.random.default_rng(0)
    W, w = rng.normal(size=(K, K)), rng.normal(size=K)  # no choice: W is square
    scale = np.array([2.0, 0.5, -3.0, 1.0])
    before, after = relevance(W, w, norm, penalty=0), relevance(W * scale, w, norm, penalty=0)
    np.testing.assert_allclose(after, before / scale, atol=1e-10)
    np.testing.assert_allclose(W * scale @ after, w, atol=1e-10)


@pytest.mark.parametrize(
    ("norm", "penalty"), [("l1", 0.0), ("l1", 0.05), ("l1", None), ("l2", 0.0)]
)
def test_the_basis_of_the_features_does_not_matter(norm: str, penalty: float | None) -> None:
    W, w = heads(1)
    R = np.linalg.qr(np.random.default_rng(5).normal(size=(K, K)))[0]
    np.testing.assert_allclose(
        relevance(R.T @ W, R.T @ w, norm, penalty), relevance(W, w, norm, penalty), atol=1e-6
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lasso_from_nothing_to_basis_pursuit(seed: int) -> None:
    W, w = heads(seed)
    largest = np.abs(W.T @ w).max()
    assert not relevance(W, w, penalty=largest).any()
    assert relevance(W, w, penalty=0.99 * largest).any()
    exact = relevance(W, w, penalty=0)
    gaps = []
    for share in (0.1, 0.01, 0.001):
        near = relevance(W, w, penalty=share * largest)
        assert np.abs(near).sum() <= np.abs(exact).sum()
        gaps.append(np.abs(exact).sum() - np.abs(near).sum())
    assert gaps[2] < gaps[1] < gaps[0] and gaps[2] < 0.01 * np.abs(exact).sum()
    # KKT of argmin ½||Wν - w||² + λ||ν||₁, at the default λ.
    nu, slope = relevance(W, w), 0.01 * largest
    gradient = W.T @ (w - W @ nu)
    assert np.abs(gradient).max() <= slope * 1.01
    np.testing.assert_allclose(gradient[nu != 0], slope * np.sign(nu[nu != 0]), rtol=0.01)


def test_equal_prices_change_nothing_and_a_dear_source_is_replaced() -> None:
    W, w = heads(2)
    for norm in ("l1", "l2"):
        for penalty in (0.0, 0.06, None):
            plain = relevance(W, w, norm, penalty)
            # λ Σ √c |ν|: three times the norm for the same λ.
            same = relevance(W, w, norm, penalty and penalty / 3, prices=np.full(M, 9.0))
            np.testing.assert_allclose(same, plain, atol=1e-6)
    plain = relevance(W, w, penalty=0)
    dearest = int(np.abs(plain).argmax())
    prices = np.ones(M)
    prices[dearest] = 1e6
    assert abs(relevance(W, w, penalty=0, prices=prices)[dearest]) < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_priced_relevance_has_the_least_error_for_the_money(seed: int) -> None:
    rng = np.random.default_rng(seed)
    W, w = heads(seed)
    prices = rng.uniform(0.2, 5, M)
    priced, plain = (relevance(W, w, penalty=0, prices=p) for p in (prices, None))
    best, other = (
        predicted_error(W, w, allocate(nu, 100, prices=prices, whole=False))
        for nu in (priced, plain)
    )
    assert best == pytest.approx((np.sqrt(prices) @ np.abs(priced)) ** 2 / 100)
    assert best <= other + 1e-12


def test_few_sources_only() -> None:
    W, w = heads(3)
    for norm in ("l1", "l2"):
        whole, few = (relevance(W, w, norm, 0.0, max_sources=n) for n in (None, 2))
        kept = np.flatnonzero(few)
        assert set(kept) == set(np.argsort(-np.abs(whole))[:2])
        # Two columns cannot reach a head of four numbers: the best they can do is least squares.
        np.testing.assert_allclose(
            few[kept], np.linalg.lstsq(W[:, kept], w, rcond=None)[0], atol=1e-9
        )


def test_a_target_outside_of_the_span_gets_its_nearest_point() -> None:
    W = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    for norm in ("l1", "l2"):
        np.testing.assert_allclose(relevance(W, [2.0, -1.0, 5.0], norm, 0.0), [2, -1], atol=1e-9)


def test_several_outputs_are_reached_each_and_chosen_together() -> None:
    rng = np.random.default_rng(0)
    W, w = rng.normal(size=(3, 8)), rng.normal(size=(3, 2))
    nu = relevance(W, w, penalty=0)
    assert nu.shape == (8, 2)
    np.testing.assert_allclose(W @ nu, w, atol=1e-9)
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    few = relevance(W, w, penalty=0, max_sources=2, groups=groups)
    assert len({groups[c] for c in np.flatnonzero(few.any(1))}) == 2


def test_the_held_out_penalty_drops_what_only_one_half_sees() -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(20, 30))
    truth = W[:, :2] @ [1.0, -1.0]
    halves = [truth + 0.3 * rng.normal(size=20) for _ in range(2)]
    penalty = held_out_penalty(W, *halves)
    largest = np.abs(W.T @ halves[0]).max()
    assert 1e-3 * largest < penalty < largest

    priced = held_out_penalty(W, *halves, prices=np.full(30, 4.0))
    assert priced == pytest.approx(penalty / 2)  # λ Σ √c |ν|: the same ν

    def error(nu: np.ndarray) -> float:
        return float(np.square(W @ nu - truth).sum())

    assert error(relevance(W, halves[0], penalty=penalty)) < error(
        relevance(W, halves[0], penalty=1e-3 * largest)
    )


# -- predicted errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_predicted_errors_are_the_closed_forms(seed: int) -> None:
    W, w = heads(seed)
    budget = 7.0
    one, two = relevance(W, w, penalty=0), relevance(W, w, "l2")
    best = np.abs(one).sum() ** 2 / budget
    first, second = (
        allocate(one, budget, 1, whole=False),
        allocate(two, budget, 2, whole=False),
    )
    assert bound(one, first) == pytest.approx(best)
    assert predicted_error(W, w, first) == pytest.approx(best)
    assert bound(two, second) == pytest.approx(M * (two**2).sum() / budget)
    assert best <= predicted_error(W, w, second) <= bound(two, second)
    equal = np.full(M, budget / M)
    assert predicted_error(W, w, equal) == pytest.approx(M * (two**2).sum() / budget)
    # The ν that attains F* in closed form.
    nu = equal * (W.T @ np.linalg.solve((W * equal) @ W.T, w))
    assert bound(nu, equal) == pytest.approx(predicted_error(W, w, equal))


def test_no_plan_of_the_same_budget_is_better() -> None:
    rng = np.random.default_rng(0)
    W, w = heads(0)
    best = np.abs(relevance(W, w, penalty=0)).sum() ** 2
    # From nearly equal to nearly all on one source.
    plans = np.concatenate([rng.dirichlet(np.full(M, a), 2500) for a in (0.05, 0.3, 1.0, 10.0)])
    assert min(predicted_error(W, w, plan) for plan in plans) >= best * (1 - 1e-9)


def test_what_is_not_covered_is_infinite() -> None:
    assert predicted_error(np.eye(2), [1.0, 1.0], [5, 0]) == np.inf
    assert predicted_error(np.eye(2), [1.0, 0.0], [5, 0]) == pytest.approx(0.2)


# -- allocation ------------------------------------------------------------------------------------


@given(
    sources=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    power=st.sampled_from([1, 2]),
    priced=st.booleans(),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_any_allocation_spends_the_budget_between_floors_and_pools(
    sources: int, seed: int, power: int, priced: bool
) -> None:
    rng = np.random.default_rng(seed)
    nu = rng.normal(size=sources) * (rng.random(sources) < 0.6)
    floor = rng.integers(0, 5, sources)
    pool = floor + rng.integers(1, 60, sources)
    prices = rng.uniform(0.5, 4, sources) if priced else np.ones(sources)
    budget = float(prices @ floor + rng.integers(1, 200))
    counts = allocate(nu, budget, power, floor, prices, None, pool)
    assert (counts >= floor).all() and (counts <= pool).all()
    spent, everything = prices @ counts, prices @ pool
    assert spent <= budget * (1 + 1e-9)
    assert min(budget, everything) - spent <= (prices.sum() if priced else 1e-6)
    order = rng.permutation(sources)
    moved = allocate(nu[order], budget, power, floor[order], prices[order], None, pool[order])
    assert np.abs(moved - counts[order]).max() <= 1  # ties of rounding go by position


def test_allocation_is_permutation_equivariant_before_rounding() -> None:
    rng = np.random.default_rng(3)
    nu, prices, order = rng.normal(size=9), rng.uniform(1, 3, 9), rng.permutation(9)
    for power in (1, 2):
        np.testing.assert_allclose(
            allocate(nu[order], 100, power, 2, prices[order], whole=False),
            allocate(nu, 100, power, 2, prices, whole=False)[order],
        )


def test_l1_goes_by_the_absolute_value_and_l2_by_the_square() -> None:
    np.testing.assert_array_equal(allocate([1.0, -3.0, 0.0], 400), [100, 300, 0])
    np.testing.assert_array_equal(allocate([1.0, -3.0, 0.0], 400, power=2), [40, 360, 0])


def test_twice_the_price_is_fewer_labels_by_the_root_of_two() -> None:
    one = allocate([1.0, 1.0], 100, whole=False)
    two = allocate([1.0, 1.0], 100, prices=[2.0, 1.0], whole=False)
    assert (two[0] / two[1]) / (one[0] / one[1]) == pytest.approx(1 / np.sqrt(2))
    assert np.dot(two, [2, 1]) == pytest.approx(100)


def test_a_relevant_source_gets_a_label_however_small_its_share() -> None:
    np.testing.assert_array_equal(allocate([1.0, 1e-4, 0.0], 50), [49, 1, 0])
    np.testing.assert_array_equal(allocate([1.0, 1e-4, 0.0], 1), [1, 0, 0])  # no money for both


def test_nothing_relevant_is_an_equal_share() -> None:
    np.testing.assert_array_equal(allocate(np.zeros(4), 40, prices=[1, 1, 1, 1]), [10] * 4)


def test_what_a_source_cannot_take_goes_to_the_others() -> None:
    np.testing.assert_array_equal(
        allocate([1.0, 1.0, 0, 0], 100, available=[20, 30, 90, 90])[:2], [20, 30]
    )
    assert allocate([1.0, 1.0, 0, 0], 100, available=[20, 30, 90, 90]).sum() == 100
    np.testing.assert_array_equal(allocate([1.0, 1.0], 100, available=[20, 30]), [20, 30])


def test_fees_are_paid_before_labels() -> None:
    assert allocate([1.0, 1.0, 0.0], 100, fees=[10, 20, 40]).sum() == 70
    assert allocate([1.0, 1.0, 0.0], 100, fees=[10, 20, 40], available=[5, 5, 90]).sum() == 10


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": float("nan")}, "budget is nan"),
        ({"budget": 5, "floor": 3}, "budget 5 does not pay"),
        ({"budget": 9, "prices": [1, -1]}, "prices of source 1 is -1"),
        ({"budget": 9, "fees": [-2, 0]}, "fees of source 0 is -2"),
        ({"budget": 9, "floor": 3, "available": [5, 2]}, "source 1 has only 2"),
        ({"budget": 9, "prices": [1, 2, 3]}, "prices has shape"),
        ({"budget": 9, "nu": [np.nan, 1]}, "relevance of source 0"),
    ],
)
def test_an_allocation_that_cannot_be_is_refused(arguments: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        allocate(**{"nu": [1.0, 1.0], **arguments})


@pytest.mark.parametrize(
    ("W", "w", "more", "named"),
    [
        ([[1.0, np.inf]], [1.0], {}, "W hold"),
        ([[1.0, 2.0]], [np.nan], {}, "w hold"),
        ([[1.0, 2.0]], [1.0, 2.0], {}, "do not match"),
        ([[1.0, 2.0]], [1.0], {"penalty": -1}, "penalty is -1"),
        ([[1.0, 2.0]], [1.0], {"max_sources": 0}, "max_sources is 0"),
        ([[1.0, 2.0]], [1.0], {"norm": "l3"}, "norm is 'l3'"),
        ([[1.0, 2.0]], [1.0], {"prices": [1.0, 0.0]}, "prices of source 1"),
    ],
)
def test_heads_that_cannot_be_are_refused(W: list, w: list, more: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        relevance(W, w, **more)


# -- plans -----------------------------------------------------------------------------------------


def test_a_plan_tells_what_is_bought_and_why() -> None:
    W, w = heads(0)
    plan = plan_sources("t", named(W), w, 1000, penalty=0, floor=5, target_labels=50)
    nu = relevance(W, w, penalty=0)
    assert sum(plan.counts.values()) == 1000 == plan.cost
    np.testing.assert_array_equal(list(plan.counts.values()), allocate(nu, 1000, floor=5))
    assert plan.residual < 1e-8 and plan.warning == ""
    assert plan.predicted == pytest.approx(
        predicted_error(W, w, list(plan.counts.values())), rel=1e-6
    )
    assert plan.equal == pytest.approx(predicted_error(W, w, np.full(M, 25)), rel=1e-6)
    reasons = {s.source: s.reason for s in plan.shares}
    for t in range(M):
        assert ("make-up" in reasons[f"s{t}"]) == (nu[t] != 0)
        assert ("turned round" in reasons[f"s{t}"]) == (nu[t] < 0)
    assert sum(plan.weights.values()) == pytest.approx(1)
    assert plan.weights["t"] == pytest.approx(50 / 1050)
    table = plan.table()
    assert all(f"s{t} " in table for t in range(M)) and "1000" in table
    assert SourcePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_target_that_the_sources_do_not_span_is_warned_of() -> None:
    plan = plan_sources("t", {"a": [1.0, 0.0], "b": [1.0, 0.1]}, [1.0, 0.0], 10, penalty=0)
    assert plan.warning == ""
    plan = plan_sources("t", {"a": [1.0, 0.0]}, [3.0, 4.0], 10, penalty=0)
    assert plan.residual == pytest.approx(0.8)
    assert "80% outside" in plan.warning and plan.warning in plan.table()


def test_nothing_that_stands_out_is_an_equal_plan() -> None:
    W, w = heads(0)
    plan = plan_sources("t", named(W), w, 400, penalty=1e9)
    assert set(plan.counts.values()) == {10}
    assert all("nothing stands out" in s.reason for s in plan.shares)
    assert SourcePlan.from_dict(plan.to_dict()).to_dict() == plan.to_dict()
    uniform = plan_sources("t", named(W), w, 400, rule="uniform")
    assert uniform.counts == plan.counts


def test_opening_fees_close_sources() -> None:
    """d is the sum of a and b: one dear source, or two cheap ones."""
    sources = {"a": [1.0, 0.0], "b": [0.0, 1.0], "d": [0.9, 0.9]}

    def opened(fees: dict[str, float]) -> set[str]:
        plan = plan_sources("t", sources, [1.0, 1.0], 100, penalty=0, fees=fees)
        assert plan.cost <= 100
        return {s for s, n in plan.counts.items() if n}

    assert opened({}) == {"d"}
    assert opened({"d": 90.0}) == {"a", "b"}
    assert opened({"d": 90.0, "a": 60.0, "b": 60.0}) == {"d"}
    # Two sources are both needed: no fee closes one of them.
    two = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    plan = plan_sources("t", two, [1.0, 1.0], 100, penalty=0, fees={"a": 30.0})
    assert plan.counts == {"a": 35, "b": 35} and plan.cost == 100


def test_sources_of_several_classes_count_as_one() -> None:
    rng = np.random.default_rng(0)
    sources = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(3, 1)), "c": rng.normal(size=3)}
    head = sources["a"][:, :2]
    plan = plan_sources("t", sources, head, 90, penalty=0)
    assert plan.counts["a"] > 60
    assert plan.residual < 1e-8
    few = plan_sources("t", sources, head, 90, penalty=0, max_sources=1)
    assert few.counts == {"a": 90, "b": 0, "c": 0}


@pytest.mark.parametrize(
    ("more", "named_"),
    [
        ({"prices": {"z": 1.0}}, "prices names 'z'"),
        ({"prices": {"s0": -1.0}}, "prices of source 's0' is -1"),
        ({"fees": {"s1": -1.0}}, "fees of source 's1' is -1"),
        ({"rule": "l3"}, "rule is 'l3'"),
        ({"heads": {}}, "'t' has no source"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(more: dict, named_: str) -> None:
    W, w = heads(0)
    with pytest.raises(InputError, match=named_):
        plan_sources(**{"target": "t", "heads": named(W), "head": w, "budget": 400, **more})


# -- what was bought -------------------------------------------------------------------------------


def test_the_ledger_books_every_label_and_refuses_what_is_not_there() -> None:
    ledger = Ledger(100, prices={"a": 2.0}, fees={"b": 10.0}, available={"a": 30, "b": 50})
    ledger.buy("explore", "a", 10)
    ledger.buy("explore", "b", 5)
    ledger.buy("exploit", "b", 20)
    ledger.buy("exploit", "a", 0)
    assert ledger.counts == {"a": 10, "b": 25}
    assert ledger.spent == 20 + (10 + 5) + 20 and ledger.remaining == 45
    with pytest.raises(InputError, match="'a' has 30 labels, of which 10"):
        ledger.buy("more", "a", 21)
    with pytest.raises(InputError, match="46 labels of 'c' cost 46"):
        ledger.buy("more", "c", 46)
    with pytest.raises(InputError, match="-1 labels of 'a'"):
        ledger.buy("more", "a", -1)
    assert ledger.spent == 55, "a refused purchase is not booked"
    again = Ledger.from_dict(json.loads(json.dumps(ledger.to_dict())))
    assert again == ledger
    assert [line.split() for line in ledger.table().splitlines()[1:]] == [
        ["explore", "2", "15", "35"],
        ["exploit", "1", "20", "20"],
        ["left", "45"],
    ]


def test_labels_kept_are_nested_and_the_same_in_suite_and_batch() -> None:
    suite = mixed_suite()
    processor = Processor.fit(suite)
    batch = processor.encode(suite, "train")
    few, more = (keep_labels(batch, {"price": n, "sold": n}, seed=1) for n in (10, 25))
    assert few.counts["price"] == 10 and more.counts["price"] == 25
    assert bool((few.masks["price"] <= more.masks["price"]).all())
    assert bool((more.masks["price"] <= batch.masks["price"]).all())
    assert few.counts["rent"] == batch.counts["rent"]
    thinned = keep_labels(suite, {"price": 10, "sold": 10}, seed=1)
    encoded = processor.encode(thinned, "train")
    for task, mask in few.masks.items():
        assert bool((encoded.masks[task] == mask).all())
        there = mask.numpy()
        np.testing.assert_array_equal(
            encoded.targets[task].numpy()[there], batch.targets[task].numpy()[there]
        )
    assert thinned.fingerprint != suite.fingerprint
    assert thinned.fingerprint == keep_labels(suite, {"price": 10, "sold": 10}, 1).fingerprint
    assert thinned.table("test").equals(suite.table("test"))
    other = keep_labels(batch, {"price": 10}, seed=2)
    assert not bool((other.masks["price"] == few.masks["price"]).all())


def test_a_plan_goes_with_any_learner_and_mixture() -> None:
    suite = mixed_suite()
    plan = plan_sources(
        "price",
        {"rent": [1.0, 0.1], "sold": [0.2, 1.0]},
        [1.0, 0.1],
        40,
        penalty=0,
        floor=4,
        target_labels=20,
    )
    bought = plan.apply(suite)
    processor = Processor.fit(bought)
    assert processor.encode(bought, "train").counts["rent"] == plan.counts["rent"] == 36
    batch = plan.apply(Processor.fit(suite).encode(suite, "train"))
    draws = list(TaskBatches().draws(batch, 4, seed=0, epoch=0))
    assert {task for draw in draws for task in draw.tasks or ()} <= set(batch.masks)
    with pytest.raises(InputError, match="'rent' has 6"):
        plan_sources("price", {"rent": [1.0]}, [1.0], 999).apply(suite)
    with pytest.raises(InputError, match="'rend' is not among the tasks"):
        keep_labels(suite, {"rend": 3})


def test_two_sources_in_one_table_of_nulls() -> None:
    """Tasks with rows of their own: a purchase never touches another task's rows."""
    y = np.arange(12.0)
    table = pa.table(
        {
            "x": np.arange(12.0) % 5,
            "a": pa.array(y, mask=np.arange(12) % 2 == 0),
            "b": pa.array(y, mask=np.arange(12) % 2 == 1),
            "part": ["train"] * 4 + ["validation"] * 4 + ["test"] * 4,
        }
    )
    table = pa.concat_tables([table, table])
    suite = Suite.from_table(table, ["a", "b"], split="column:part")
    thinned = keep_labels(suite, {"a": 2})
    assert thinned.labels(thinned.tasks[0], "train").null_count == 6
    assert thinned.labels(thinned.tasks[1], "train").equals(suite.labels(suite.tasks[1], "train"))


def test_tasks_by_group_are_bought_from_one_column() -> None:
    table = {"x": np.arange(60.0) % 7, "y": np.arange(60.0), "school": np.arange(60) % 3}
    suite = Suite.from_table(table, ["y"], by="school")
    counts = {"school=0": 3, "school=1": 5}
    thinned = keep_labels(suite, counts)
    batch = Processor.fit(thinned).encode(thinned, "train")
    assert batch.counts == {**counts, "school=2": 12}
    same = keep_labels(Processor.fit(suite).encode(suite, "train"), counts)
    assert all(bool((batch.masks[t] == same.masks[t]).all()) for t in batch.masks)


def test_greedy_drop_is_nearly_what_trying_every_set_of_sources_finds() -> None:
    budget, best = 100.0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        W, w, fees = rng.normal(size=(2, 5)), rng.normal(size=2), rng.uniform(0, 60, 5)

        def error(opened: np.ndarray, W: np.ndarray = W, w: np.ndarray = w, fees=fees) -> float:
            """F of the L1 rule on some sources, of the money that their fees leave."""
            nu = relevance(W[:, opened], w, penalty=0)
            money = budget - fees[opened][nu != 0].sum()
            reached = np.allclose(W[:, opened] @ nu, w)
            return float(np.abs(nu).sum() ** 2 / money) if reached and money > 0 else np.inf

        sets = [np.array(list(np.binary_repr(code, 5))) == "1" for code in range(1, 32)]
        every = min(error(opened) for opened in sets)
        plain = error(np.ones(5, bool))
        if not np.isfinite(plain):
            continue
        names = [f"s{t}" for t in range(5)]
        plan = plan_sources(
            "t", named(W), w, budget, penalty=0, fees=dict(zip(names, fees, strict=True))
        )
        found = error(np.array([n > 0 for n in plan.counts.values()]))
        assert every - 1e-9 <= found <= plain + 1e-9
        best += found <= every * 1.05
    assert best >= 8
