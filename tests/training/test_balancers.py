"""The balancer book: every rule against its formula, its symmetries, its state."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchjd import aggregation as ag
from torchjd import scalarization as sc

from polytask.data.store import flatten, unflatten
from polytask.errors import InputError
from polytask.training.balancers import BALANCERS, Balancer, as_balancer
from polytask.training.gradients import Statistics

J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
AGGREGATORS = [
    "mgda",
    "pcgrad",
    "cagrad",
    "imtl_g",
    "nash_mtl(max_norm=0.0)",
    "fairgrad",
    "aligned_mtl",
    "upgrad",
    "dualproj",
    "gradvac",
    "config",
    "excess_mtl",
    "graddrop",
]


def statistics(rows: Tensor, losses: Tensor | None = None) -> Statistics:
    m = len(rows)
    losses = torch.ones(m) if losses is None else losses
    return Statistics(losses, list(range(m)), gramian=rows @ rows.T, jacobian=rows)


def direction(name: str | object, rows: Tensor) -> Tensor:
    balancer = as_balancer(name)
    balancer.prepare(len(rows))
    balancer.draw_from(3)
    found = balancer(statistics(rows))
    return found if balancer.needs == "jacobian" else found @ rows


def weights(balancer: Balancer, losses: list[float], present: list[int] | None = None) -> list:
    values = torch.tensor(losses, dtype=torch.float32)
    at = list(range(len(losses))) if present is None else present
    return balancer(Statistics(values, at)).tolist()


# -- gradient aggregation: the sheet's table -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mgda", (0, 1, 1)),
        ("pcgrad", (0.5848, 3.8012, 3.8012)),
        ("cagrad(c=0.4)", (0.3468, 1.1633, 1.1633)),
        ("imtl_g", (0.0767, 1, 1)),
        ("nash_mtl(max_norm=0.0)", (0.0766, 0.9985, 0.9985)),
        ("fairgrad", (0.0766, 0.9985, 0.9985)),
        ("fairgrad(alpha=2.0)", (0.0313, 0.7908, 0.7908)),
        ("aligned_mtl", (0.2133, 0.9673, 0.9673)),
        ("upgrad", (0.2929, 1.9004, 1.9004)),
        ("dualproj", (0.5563, 1.1109, 1.1109)),
        ("config", (0.1588, 2.0706, 2.0706)),
    ],
)
def test_the_table_of_directions(name: str, expected: tuple[float, ...]) -> None:
    torch.testing.assert_close(
        direction(name, J), torch.tensor(expected, dtype=torch.float32), rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize(("name", "expected"), [("mgda", (0.6, 0.4)), ("imtl_g", (0.5923, 0.4077))])
def test_the_table_of_weights(name: str, expected: tuple[float, float]) -> None:
    found = as_balancer(name)(statistics(J))
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_two_gradients_have_the_closed_form_of_mgda() -> None:
    for seed in range(5):
        g1, g2 = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
        alpha = ((g2 - g1) @ g2 / (g1 - g2).square().sum()).clamp(0, 1)
        torch.testing.assert_close(
            direction("mgda", torch.stack([g1, g2])),
            alpha * g1 + (1 - alpha) * g2,
            rtol=1e-3,
            atol=1e-3,
        )


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_fairgrad_solves_its_equation_at_every_scale(power: float, size: float) -> None:
    rows = torch.randn(4, 9) * size
    balancer = as_balancer(f"fairgrad(alpha={power})")
    alpha = balancer(statistics(rows)).double()
    product = (rows @ rows.T).double()
    torch.testing.assert_close(product @ alpha, alpha ** (-1 / power), rtol=2e-3, atol=0.0)


def test_nash_solves_its_equation() -> None:
    for loudness in (1.0, 100.0):
        rows = torch.randn(6, 9)
        rows[2] *= loudness
        alpha = as_balancer("nash_mtl(max_norm=0.0)")(statistics(rows))
        assert alpha.min() > 0
        torch.testing.assert_close(rows @ rows.T @ alpha, 1 / alpha, rtol=1e-3, atol=0.0)
    norm = (as_balancer("nash_mtl(max_norm=0.5)")(statistics(rows)) @ rows).norm()
    torch.testing.assert_close(norm, torch.tensor(0.5))


def test_nash_keeps_its_weights_between_bargains() -> None:
    balancer = as_balancer("nash_mtl(max_norm=0.0, update_weights_every=2)")
    found = [balancer(statistics(torch.randn(3, 5))) for _ in range(3)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_nash_stands_still_where_gradients_cancel() -> None:
    assert (
        direction("nash_mtl(max_norm=0.0)", torch.tensor([[1.0, 2.0], [-1.0, -2.0]])).norm() < 1e-3
    )


def test_orthogonal_gradients_are_only_averaged_or_summed() -> None:
    rows = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 3]])
    torch.testing.assert_close(direction("pcgrad", rows), rows.sum(0))
    for name in ("upgrad", "dualproj"):
        torch.testing.assert_close(direction(name, rows), rows.mean(0), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_identical_gradients_give_a_multiple_of_them(name: str) -> None:
    g = torch.tensor([3.0, -1.0, 2.0])
    found = direction(name, g.repeat(3, 1))
    assert torch.cosine_similarity(found, g, dim=0) > 1 - 1e-5


def test_cagrad_without_radius_is_the_mean() -> None:
    rows = torch.randn(4, 9)
    torch.testing.assert_close(direction("cagrad(c=0.0)", rows), rows.mean(0), rtol=1e-4, atol=1e-4)


def test_scaling_one_gradient_leaves_imtl_g_and_nash_where_they_are() -> None:
    rows = torch.randn(3, 6)
    louder = rows * torch.tensor([[1.0], [10.0], [1.0]])
    torch.testing.assert_close(
        torch.nn.functional.normalize(direction("imtl_g", louder), dim=0),
        torch.nn.functional.normalize(direction("imtl_g", rows), dim=0),
        rtol=1e-3,
        atol=1e-3,
    )
    name = "nash_mtl(max_norm=0.0)"
    torch.testing.assert_close(direction(name, louder), direction(name, rows), rtol=1e-4, atol=1e-4)
    alpha, scaled = (as_balancer(name)(statistics(r)) for r in (rows, louder))
    torch.testing.assert_close(scaled[1] * 10, alpha[1], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    "name", ["mgda", "pcgrad", "cagrad", "imtl_g", "aligned_mtl", "upgrad", "dualproj", "config"]
)
@pytest.mark.parametrize("size", [1e-5, 1e5])
def test_small_gradients_are_balanced_as_large_ones(name: str, size: float) -> None:
    # For torchjd gradients whose squares sum to less than 1e-4 are zero: CAGrad would stand still.
    torch.testing.assert_close(
        direction(name, J * size) / size, direction(name, J), rtol=2e-3, atol=2e-3
    )


def test_aligned_mtl_has_another_scale() -> None:
    values, vectors = torch.linalg.eigh(J @ J.T)
    for mode, scale in (("min", values.min()), ("rmse", values.mean())):
        b = scale.sqrt() * vectors @ torch.diag(values**-0.5) @ vectors.T
        found = as_balancer(f"aligned_mtl(scale_mode={mode!r})")(statistics(J))
        torch.testing.assert_close(found, b @ torch.full((2,), 0.5))


def test_pcgrad_projects_in_random_order() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 5)

    def slowly(seed: int) -> Tensor:
        torch.manual_seed(seed)
        total = torch.zeros(5)
        for i in range(4):
            g = rows[i].clone()
            for j in torch.randperm(4).tolist():
                if j != i and g @ rows[j] < 0:
                    g -= (g @ rows[j]) / rows[j].square().sum() * rows[j]
            total += g
        return total

    balancer = as_balancer("pcgrad")
    for seed in range(3):
        balancer.draw_from(seed)
        torch.testing.assert_close(
            balancer(statistics(rows)) @ rows, slowly(seed), rtol=1e-4, atol=1e-4
        )


def test_graddrop_keeps_one_sign_per_coordinate() -> None:
    rows = torch.randn(3, 2000)
    found = direction("graddrop", rows)
    positive, negative = rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)
    torch.testing.assert_close(torch.where(found > 0, positive, negative), found)
    chance = 0.5 * (1 + rows.sum(0) / rows.abs().sum(0))
    assert abs((found > 0).float().mean() - chance.mean()) < 0.03


# -- properties ----------------------------------------------------------------------------------

matrices = st.integers(0, 2**31).map(
    lambda seed: torch.randn(4, 7, generator=torch.Generator().manual_seed(seed))
)
quick = settings(max_examples=12, deadline=None)


@pytest.mark.parametrize(
    "name", [n for n in AGGREGATORS if n not in ("pcgrad", "gradvac", "graddrop")]
)  # these three depend on an order that is drawn
@quick
@given(rows=matrices, order=st.permutations(range(4)))
def test_the_order_of_tasks_does_not_matter(name: str, rows: Tensor, order: list[int]) -> None:
    torch.testing.assert_close(
        direction(name, rows[order]), direction(name, rows), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("name", AGGREGATORS)
@quick
@given(
    rows=matrices, dead=st.sets(st.integers(0, 3), max_size=4), size=st.sampled_from([1e-22, 1.0])
)
def test_gradients_of_zero_give_numbers(
    name: str, rows: Tensor, dead: set[int], size: float
) -> None:
    rows = rows.clone()
    rows[list(dead)] = 0
    rows[0] *= size  # its square underflows where its inner products do not
    assert direction(name, rows).isfinite().all()


@pytest.mark.parametrize("name", AGGREGATORS)
@quick
@given(rows=matrices)
def test_one_task_follows_its_gradient(name: str, rows: Tensor) -> None:
    found = direction(name, rows[:1])
    assert torch.cosine_similarity(found, rows[0], dim=0) > 1 - 1e-4


@pytest.mark.parametrize(
    "name", ["upgrad", "mgda", "dualproj", "cagrad(c=1.0)", "nash_mtl", "config", "imtl_g"]
)
@quick
@given(rows=matrices)
def test_directions_that_hurt_no_task(name: str, rows: Tensor) -> None:
    gains = rows @ direction(name, rows)
    assert gains.min() > -0.02 * gains.abs().max()


def test_a_gradient_that_is_not_finite_is_told() -> None:
    for name in ("upgrad", "nash_mtl", "config"):
        with pytest.raises(InputError, match="inf or NaN"):
            as_balancer(name)(statistics(J * float("nan")))


# -- loss weighting ------------------------------------------------------------------------------


def test_fixed_weights() -> None:
    assert weights(as_balancer("sum"), [1, 2, 3]) == [1, 1, 1]
    torch.testing.assert_close(
        torch.tensor(weights(as_balancer("mean"), [1, 2, 4])), torch.full((3,), 1 / 3)
    )
    balancer = as_balancer("constant(weights=(1, 2.5))")
    assert weights(balancer, [9, 9]) == [1, 2.5]
    assert weights(balancer, [9, 9], present=[1]) == [2.5]
    with pytest.raises(InputError, match="2 weights for 3 losses"):
        balancer.prepare(3)


def test_si_weighs_by_the_inverse_loss() -> None:
    assert weights(as_balancer("si"), [0.5, 4.0]) == [2.0, 0.25]
    with pytest.raises(InputError, match="negative"):
        weights(as_balancer("si"), [0.5, -4.0])


@pytest.mark.parametrize("name", ["si", "gls"])
def test_a_loss_of_zero_gives_numbers(name: str) -> None:
    assert np.isfinite(weights(as_balancer(name), [0.0, 4.0])).all()


def test_gls_is_the_geometric_mean() -> None:
    losses = [0.5, 4.0, 2.0]
    mean = math.prod(losses) ** (1 / 3)
    np.testing.assert_allclose(
        weights(as_balancer("gls"), losses), [mean / 3 / v for v in losses], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "weight", "slope"),
    [
        ("uw", lambda s: 0.5 * math.exp(-s), lambda s, v: -0.5 * math.exp(-s) * v + 0.5),
        ("imtl_l", lambda s: math.exp(s), lambda s, v: math.exp(s) * v - 1),
    ],
)
def test_learned_scales(name: str, weight, slope) -> None:  # type: ignore[no-untyped-def]
    balancer = as_balancer(name)
    balancer.prepare(3)
    (parameter,) = balancer.parameters()
    assert parameter.eq(0).all()
    s, losses = [0.3, -0.2, 0.0], [2.0, 1.0, 5.0]
    parameter.data = torch.tensor(s)
    np.testing.assert_allclose(weights(balancer, losses), [weight(x) for x in s], rtol=1e-6)
    expected = [slope(x, v) for x, v in zip(s, losses, strict=True)]
    np.testing.assert_allclose(parameter.grad, expected, rtol=1e-5, atol=1e-6)
    parameter.grad = None
    weights(balancer, losses, present=[0, 2])
    assert parameter.grad[1] == 0 and parameter.grad[0] != 0  # no label: its scale rests


def test_dwa_follows_the_last_two_epochs() -> None:
    balancer = as_balancer("dwa(temperature=2.0)")
    epochs = [[[4.0, 1.0], [2.0, 1.0]], [[1.5, 1.0], [1.5, 0.6]], [[1.0, 0.5]]]
    for epoch in epochs[:2]:
        for losses in epoch:
            assert weights(balancer, losses) == [1, 1]
        balancer.end_epoch()
    rates = np.mean(epochs[1], 0) / np.mean(epochs[0], 0)
    expected = 2 * np.exp(rates / 2) / np.exp(rates / 2).sum()
    np.testing.assert_allclose(weights(balancer, epochs[2][0]), expected, rtol=1e-6)
    balancer.end_epoch()
    rates = np.mean(epochs[2], 0) / np.mean(epochs[1], 0)
    expected = 2 * np.exp(rates / 2) / np.exp(rates / 2).sum()
    np.testing.assert_allclose(weights(balancer, [1.0, 1.0]), expected, rtol=1e-6)


def test_rlw_draws_the_softmax_of_normals() -> None:
    balancer = as_balancer("rlw")
    drawn = np.array([weights(balancer, [1.0, 2.0, 3.0]) for _ in range(2000)])
    np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-5)
    reference = np.exp(np.random.default_rng(0).normal(size=(20000, 3)))
    reference /= reference.sum(1, keepdims=True)
    for q in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(
            np.quantile(drawn, q, axis=0), np.quantile(reference, q), atol=0.04
        )


def test_famo_by_a_second_route() -> None:
    # z = softmax(ξ); ∂z/∂ξ = diag(z) - z zᵀ; Adam with L2 decay, written out.
    balancer = as_balancer("famo")
    balancer.prepare(3)
    xi, first, second, eps = np.zeros(3), np.zeros(3), np.zeros(3), 1e-8
    draw = np.random.default_rng(0)
    for step in range(1, 6):
        before, after = draw.uniform(0.5, 2, 3), draw.uniform(0.4, 1.5, 3)
        z = np.exp(xi) / np.exp(xi).sum()
        expected = z / (before + eps) / (z / (before + eps)).sum()
        np.testing.assert_allclose(weights(balancer, before.tolist()), expected, rtol=1e-4)
        balancer.after(torch.tensor(after, dtype=torch.float32))
        delta = np.log(before + eps) - np.log(after + eps)
        gradient = (np.diag(z) - np.outer(z, z)) @ delta + 1e-3 * xi
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        xi = xi - 0.025 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    assert balancer.looks_back


def test_stch_is_a_soft_maximum() -> None:
    losses, mu = np.array([1.0, 2.0, 4.0]), 0.5
    y = losses / 3
    expected = np.exp(y / mu) / np.exp(y / mu).sum() / 3
    np.testing.assert_allclose(
        weights(as_balancer("stch(mu=0.5)"), losses.tolist()), expected, rtol=1e-5
    )
    sharp = weights(as_balancer("stch(mu=0.001)"), losses.tolist())
    np.testing.assert_allclose(sharp, [0, 0, 1 / 3], atol=1e-6)


def test_gradnorm_by_a_second_route() -> None:
    balancer = as_balancer("gradnorm(alpha=1.5, lr=0.1)")
    balancer.prepare(3)
    draw = np.random.default_rng(1)
    w, first, second, start = np.ones(3), np.zeros(3), np.zeros(3), None
    for step in range(1, 6):
        norms, losses = draw.uniform(0.2, 3, 3), draw.uniform(0.5, 2, 3)
        start = losses if start is None else start
        found = balancer(
            Statistics(
                torch.tensor(losses).float(), [0, 1, 2], torch.tensor(np.diag(norms**2)).float()
            )
        )
        np.testing.assert_allclose(found, w, rtol=1e-4)
        pace = losses / start / (losses / start).mean()
        target = (w * norms).mean() * pace**1.5

        def objective(
            w: np.ndarray, norms: np.ndarray = norms, target: np.ndarray = target
        ) -> float:
            return np.abs(w * norms - target).sum()

        gradient = np.array(
            [(objective(w + h) - objective(w - h)) / 2e-6 for h in 1e-6 * np.eye(3)]
        )
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        w = w - 0.1 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        w = np.maximum(w, 1e-4) * 3 / np.maximum(w, 1e-4).sum()
    with pytest.raises(InputError, match="lr > 0"):
        as_balancer("gradnorm(lr=0.0)")


# -- state ---------------------------------------------------------------------------------------

NAMES = ["constant(weights=(1, 2, 3))" if n == "constant" else n for n in BALANCERS]
NAMES[NAMES.index("features")] = "features(gradvac)"
TORCHJD = {
    "CRMOGM": lambda: ag.CRMOGMWeighting(ag.UPGradWeighting()),
    "CRMOGM of ExcessMTL": lambda: ag.CRMOGMWeighting(ag.ExcessMTLWeighting()),
    "PCD": ag.PCD,
    "NashMTL": lambda: ag.NashMTL(3, max_norm=0.0),
    "NashMTL kept for 3 steps": lambda: ag.NashMTL(3, update_weights_every=3),
    "ExcessMTL warm": lambda: ag.ExcessMTL(n_warmup_steps=2),
}


def built(what: str) -> Balancer:
    balancer = as_balancer(TORCHJD[what]() if what in TORCHJD else what)
    balancer.prepare(3)
    return balancer


def lived(balancer: Balancer, steps: range) -> list[Tensor]:
    found = []
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        rows, losses = torch.randn(3, 5, generator=draw), torch.rand(3, generator=draw) + 0.1
        balancer.draw_from(step)
        found.append(balancer(statistics(rows, losses)).clone())
        if balancer.looks_back:
            balancer.after(losses * 0.9**step)
        if step % 2:
            balancer.end_epoch()
        with torch.no_grad():  # the model's optimiser
            for parameter in balancer.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    return found


@pytest.mark.parametrize("what", [*NAMES, *TORCHJD])
def test_a_balancer_goes_on_from_its_saved_state(what: str) -> None:
    whole = lived(built(what), range(8))
    stopped = built(what)
    lived(stopped, range(4))
    skeleton, tensors = flatten(stopped.state_dict())
    skeleton = json.loads(json.dumps(skeleton))  # as a checkpoint keeps it
    again = built(what)
    again.load_state_dict(unflatten(skeleton, {k: v.clone() for k, v in tensors.items()}))
    for expected, found in zip(whole[4:], lived(again, range(4, 8)), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("what", [*NAMES, *TORCHJD])
def test_a_balancer_goes_back_to_the_state_it_had(what: str) -> None:
    fresh = lived(built(what), range(3))
    used = built(what)
    start = {k: v.clone() if isinstance(v, Tensor) else v for k, v in used.state_dict().items()}
    lived(used, range(5, 8))
    used.load_state_dict(start)
    for expected, found in zip(fresh, lived(used, range(3)), strict=True):
        assert torch.equal(expected, found)


# -- any torchjd object --------------------------------------------------------------------------

W = torch.tensor([0.2, 0.3, 0.5])
MADE_WITH = {
    "Constant": {"weights": W},
    "ConstantWeighting": {"weights": W},
    "COSMOS": {"lambda_": 0.5, "weights": W},
    "PBI": {"theta": 1.0, "weights": W},
    "FAMO": {"shape": 3},
    "IMTLL": {"shape": 3},
    "UW": {"shape": 3},
    "STCH": {"mu": 1.0},
    "CAGrad": {"c": 0.4},
    "CAGradWeighting": {"c": 0.4},
    "FairGrad": {"alpha": 1.0},
    "FairGradWeighting": {"alpha": 1.0},
    "NashMTL": {"n_tasks": 3},
    "Krum": {"n_byzantine": 0},
    "KrumWeighting": {"n_byzantine": 0},
    "TrimmedMean": {"trim_number": 1},
    "CRMOGMWeighting": {"weighting": ag.MGDAWeighting()},
}
BASES = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Weighting", "Scalarizer"}
SOLVED_ELSEWHERE = {"NashMTL"}  # ours solves its equation; see its own tests
TWO_BATCHES = {"MoDoWeighting", "SDMGradWeighting"}  # weigh two independent batches per update


def public() -> list[tuple[str, type]]:
    found = [(n, getattr(module, n)) for module in (ag, sc) for n in module.__all__]
    return [(n, c) for n, c in found if n not in BASES | TWO_BATCHES | SOLVED_ELSEWHERE]


@pytest.mark.parametrize(("name", "kind"), public())
def test_any_object_of_torchjd_is_a_balancer(name: str, kind: type) -> None:
    thing = kind(**MADE_WITH.get(name, {}))
    balancer = as_balancer(thing)
    assert isinstance(str(balancer), str) and str(balancer)
    rows, losses = torch.randn(3, 5), torch.rand(3) + 0.5
    torch.manual_seed(2)
    found = balancer(statistics(rows, losses))
    again = kind(**MADE_WITH.get(name, {}))
    torch.manual_seed(2)
    if isinstance(again, sc.Scalarizer):
        values = losses.clone().requires_grad_()
        again(values).backward()
        torch.testing.assert_close(found, values.grad)
        return
    if isinstance(again, ag.Weighting):
        needs_rows = (
            "matrix" in inspect.signature(again.forward).parameters or name == "ExcessMTLWeighting"
        )
        reference = again(rows if needs_rows else rows @ rows.T) @ rows
    else:
        reference = again(rows)
    found = found if balancer.needs == "jacobian" else found @ rows
    torch.testing.assert_close(found, reference, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", sorted(TWO_BATCHES))
def test_what_weighs_two_batches_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*two independent batches"):
        as_balancer(getattr(ag, name)())


def test_nash_of_torchjd_keeps_its_options() -> None:
    balancer = as_balancer(ag.NashMTL(2, max_norm=0.0, update_weights_every=4))
    assert (balancer.max_norm, balancer.every) == (0.0, 4)
    expected = ag.NashMTL(2, max_norm=0.0)(J)
    torch.testing.assert_close(balancer(statistics(J)) @ J, expected, rtol=2e-3, atol=2e-3)


def test_names_are_read_and_mistakes_told() -> None:
    assert str(as_balancer("features(cagrad(c=0.5))")) == "features(cagrad(c=0.5))"
    with pytest.raises(InputError, match=r"mdga.*mgda"):
        as_balancer("mdga")
    with pytest.raises(InputError, match="takes a gramian balancer"):
        as_balancer("features(graddrop)")
    with pytest.raises(InputError, match="int is not a balancer"):
        as_balancer(3)
    for text in (
        "cagrad(c=-1.0)",
        "uw(scale=3)",
        "famo(lr=-1.0)",
        "fairgrad(alpha=0)",
        "nash_mtl(max_norm=-1.0)",
    ):
        with pytest.raises(InputError):
            as_balancer(text)
