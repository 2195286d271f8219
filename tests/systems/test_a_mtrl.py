"""A-MTRL as a learner: what it buys, what it learns from it, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.parts.lowrank import low_rank
from polytask.parts.selection import allocate, keep_labels, relevance
from polytask.systems.a_mtrl import AMTRL, FeatureNet
from polytask.testing import check_system, mixed_suite, picture_suite
from polytask.training import Training
from polytask.training.saved import load

D, K, SOURCES, ROWS = 20, 3, 12, 400


@lru_cache(maxsize=2)
def planted(seed: int = 0) -> tuple[Suite, np.ndarray, np.ndarray]:
    """Twelve linear sources of one subspace; the target is made of the first two of them."""
    rng = np.random.default_rng(seed)
    B = np.linalg.qr(rng.normal(size=(D, K)))[0]
    W = rng.normal(size=(K, SOURCES)) * [[0.3], [0.3], [1.0]]
    W[:, :2] = np.eye(K)[:, :2]  # the others look mostly another way
    W /= np.linalg.norm(W, axis=0)
    w = 2.0 * W[:, 0] - 1.0 * W[:, 1]
    x = rng.normal(size=(2 * ROWS, D))
    table: dict[str, Any] = {f"x{i}": x[:, i] for i in range(D)}
    heads = {f"s{t}": W[:, t] for t in range(SOURCES)} | {"goal": w}
    for name, head in heads.items():
        y = 10 + x @ B @ head + 0.5 * rng.normal(size=len(x))
        few = np.zeros(len(x), bool)
        few[ROWS + 40 :] = True
        table[name] = pa.array(y, mask=few if name == "goal" else None)
    table["part"] = np.repeat(["train", "validation", "test"], [2 * ROWS - 200, 100, 100])
    table["part"][:80] = "test"
    table["part"][80:140] = "validation"
    suite = Suite.from_table(table, list(heads), split="column:part")
    return keep_labels(suite, {"goal": 40}), B, W


def learner(**settings: Any) -> AMTRL:
    return AMTRL(**{"target": "goal", "budget": 900, "floor": 30, "rank": K, **settings})


@pytest.mark.parametrize(
    ("settings", "suite"),
    [
        ({"budget": 60, "floor": 8}, mixed_suite),
        ({"budget": 60, "floor": 8, "representation": "mlp", "target": "price"}, mixed_suite),
        ({"budget": 20}, picture_suite),
        ({"budget": 20, "representation": "cnn", "hidden": (4,)}, picture_suite),
    ],
    ids=["linear", "mlp", "pictures", "cnn"],
)
def test_promises(settings: dict[str, Any], suite: Any) -> None:
    broken = [c for c in check_system(AMTRL, suite=suite(), **settings) if c.passed is False]
    assert broken == []


# -- what is bought --------------------------------------------------------------------------------


def test_the_sources_that_make_up_the_target_are_bought() -> None:
    suite, _, _ = planted()
    fitted = learner().fit(suite)
    plan, ledger = fitted.plans_["goal"], fitted.ledgers_["goal"]
    assert sum(plan.counts.values()) == 900 == ledger.spent
    assert ledger.counts == plan.counts
    assert set(sorted(plan.counts, key=plan.counts.__getitem__)[-2:]) == {"s0", "s1"}
    assert plan.counts["s0"] + plan.counts["s1"] > 0.7 * (900 - 10 * 30)
    signs = {s.source: np.sign(s.relevance) for s in plan.shares}
    assert signs["s0"] == 1 and signs["s1"] == -1
    assert min(plan.counts.values()) == 30
    assert [e.stage for e in ledger.purchases[:SOURCES]] == ["explore"] * SOURCES
    assert plan.predicted < plan.equal
    told = fitted.explain()["goal"]
    assert "s0" in told["sentence"] and told["ledger"]["budget"] == 900
    assert plan.target_labels == 40


def test_l2_buys_from_all_and_uniform_the_same_of_each() -> None:
    suite, _, _ = planted()
    dense = learner(rule="l2").fit(suite).plans_["goal"]
    sparse = learner().fit(suite).plans_["goal"]
    above = {p.rule: sum(n > 30 for n in p.counts.values()) for p in (dense, sparse)}
    assert above["l1"] <= K < above["l2"]
    equal = learner(rule="uniform").fit(suite)
    assert set(equal.plans_["goal"].counts.values()) == {75}
    assert [e.stage for e in equal.ledgers_["goal"].purchases] == ["equal shares"] * SOURCES


def test_the_plan_is_the_papers_computed_by_hand() -> None:
    """Explore, low-rank regression, least squares, Lasso, n ∝ |ν|: the second, slower route."""
    suite, _, _ = planted()
    fitted = learner(penalty=0.01, ridge=1e-6).fit(suite)
    pool = fitted.processor_.encode(suite, "train")
    names = [f"s{t}" for t in range(SOURCES)]
    first = keep_labels(pool, dict.fromkeys(names, 30), 0)
    x = first.inputs["numeric"].double().numpy()
    rows = {n: first.masks[n].numpy() for n in [*names, "goal"]}
    y = {n: first.targets[n].double().numpy()[rows[n]] for n in [*names, "goal"]}
    xs = [x[rows[n]] - x[rows[n]].mean(0) for n in names]
    ys = [(y[n] - y[n].mean()) / y[n].std() for n in names]
    B, _ = low_rank(xs, ys, K)
    features = x @ B
    features = features @ np.linalg.inv(np.linalg.cholesky(np.cov(features.T, bias=True))).T
    heads = {}
    for n, r in rows.items():
        f = features[r] - features[r].mean(0)
        heads[n] = np.linalg.lstsq(f, (y[n] - y[n].mean()) / y[n].std(), rcond=None)[0]
    nu = relevance(np.stack([heads[n] for n in names], axis=1), heads["goal"], penalty=0.01)
    plan = fitted.plans_["goal"]
    np.testing.assert_allclose([s.relevance for s in plan.shares], nu, atol=2e-3)
    counts = allocate(nu, 900, floor=30, available=[pool.counts[n] for n in names])
    assert np.abs(np.array(list(plan.counts.values())) - counts).max() <= 3


def test_rounds_keep_what_was_bought_and_spend_the_same() -> None:
    suite, _, _ = planted()
    ledger = learner(rounds=3).fit(suite).ledgers_["goal"]
    assert ledger.spent == 900
    stages = list(dict.fromkeys(e.stage for e in ledger.purchases))
    assert stages == ["explore", "exploit 1", "exploit 2", "exploit 3"]
    assert all(e.labels > 0 for e in ledger.purchases)


def test_prices_fees_and_few_sources() -> None:
    suite, _, _ = planted()
    cheap = learner().fit(suite).plans_["goal"]
    dear = learner(prices=("s0=9",), fees=("s1=5",), budget=1500).fit(suite)
    plan = dear.plans_["goal"]
    assert plan.counts["s0"] < cheap.counts["s0"]
    assert dear.ledgers_["goal"].spent == pytest.approx(plan.cost)
    assert 1500 - 9 <= plan.cost <= 1500
    many_own = learner(rank=2, prices=("s0=9",), budget=1500).fit(suite)  # 40 labels, 20 for each k
    assert many_own.ledgers_["goal"].spent <= 1500
    few = learner(rule="l2", max_sources=1).fit(suite).plans_["goal"]
    assert sum(n > 30 for n in few.counts.values()) == 1


def test_labels_that_were_not_bought_have_no_influence() -> None:
    suite, _, _ = planted()
    fitted = learner().fit(suite)
    plan = fitted.plans_["goal"]
    kept = plan.apply(suite, seed=0)
    rows = suite.table("test")
    table = suite.table("train")
    for name in plan.counts:
        at = table.column_names.index(name)
        bought = kept.table("train")[name].is_valid().to_numpy()
        values = np.where(bought, table[name].to_numpy(), 1e6)
        table = table.set_column(at, name, pa.array(values))
    from datasets import Dataset

    changed = replace(suite, splits={**suite.splits, "train": Dataset(table)})
    again = learner().fit(changed)
    assert again.plans_["goal"].counts == plan.counts
    for name, values in fitted.predict(rows).items():
        np.testing.assert_array_equal(again.predict(rows)[name], values)


def test_a_budget_beyond_the_pool_buys_everything() -> None:
    suite, _, _ = planted()
    for rule in ("l1", "uniform"):
        fitted = learner(budget=1e6, rule=rule).fit(suite)
        pool = fitted.processor_.encode(suite, "train").counts
        assert all(n == pool[s] for s, n in fitted.plans_["goal"].counts.items())


# -- what is learned -------------------------------------------------------------------------------


def test_sources_help_a_small_target() -> None:
    suite, _, _ = planted()
    small = keep_labels(suite, {"goal": 12})
    rmse = {}
    for name, on in (("alone", small.only("goal")), ("l1", small)):
        rmse[name] = learner().fit(on).score(on)["goal"]["rmse"]
    assert rmse["l1"] < 0.75 * rmse["alone"]
    assert rmse["l1"] < 0.7  # the noise is 0.5


def test_the_representation_is_the_planted_subspace() -> None:
    suite, B, _ = planted()
    fitted = learner(budget=4000).fit(suite)
    found = np.linalg.qr(fitted.models_["goal"].matrix)[0]
    assert np.linalg.norm(found @ found.T - B @ B.T) < 0.25
    x = fitted.processor_.encode(suite, "train")
    features = fitted.models_["goal"].features(x, fitted.processor_)
    np.testing.assert_allclose(np.cov(features.T, bias=True), np.eye(K), atol=1e-8)


def test_without_sources_it_is_the_ridge_regression_of_the_target() -> None:
    suite, _, _ = planted()
    alone = suite.only("goal")
    fitted = learner().fit(alone)
    assert fitted.plans_ == {} and fitted.explain() == {}
    x = fitted.processor_.encode(alone, "train")
    test = fitted.processor_.encode(alone, "test")
    mask = x.masks["goal"].numpy()
    a, y = x.inputs["numeric"].double().numpy()[mask], x.targets["goal"].double().numpy()[mask]
    centre = a - a.mean(0)
    errors = []
    for ridge in (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0):
        w = np.linalg.solve(centre.T @ centre + ridge * np.eye(D), centre.T @ (y - y.mean()))
        predicted = (test.inputs["numeric"].double().numpy() - a.mean(0)) @ w + y.mean()
        errors.append(np.abs(fitted.predict(alone.table("test"))["goal"] - predicted).max())
    assert min(errors) < 1e-5


def test_a_network_finds_features_that_no_linear_map_has() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 6))
    features = np.tanh(2 * x @ np.linalg.qr(rng.normal(size=(6, 3)))[0])
    W = rng.normal(size=(3, 8))
    heads = {f"s{t}": W[:, t] for t in range(8)} | {"goal": W[:, 0] - W[:, 1]}
    table = {f"x{i}": x[:, i] for i in range(6)}
    table |= {n: features @ head + 0.1 * rng.normal(size=500) for n, head in heads.items()}
    suite = keep_labels(Suite.from_table(table, list(heads)), {"goal": 20})
    training = Training(lr=2e-2, batch=64, epochs=15, patience=15)
    rmse = {}
    for name, on, representation in (
        ("mlp", suite, "mlp"),
        ("linear", suite, "linear"),
        ("mlp alone", suite.only("goal"), "mlp"),
    ):
        settings = {"representation": representation, "hidden": (32,), "training": training}
        model = learner(rule="uniform", budget=1600, **settings).fit(on)
        rmse[name] = model.score(on)["goal"]["rmse"]
    assert rmse["mlp"] < 0.6 * min(rmse["linear"], rmse["mlp alone"])


def test_every_task_is_the_target_once() -> None:
    suite = mixed_suite()
    fitted = AMTRL(budget=60, floor=8).fit(suite)
    assert set(fitted.plans_) == set(fitted.models_) == set(suite.task_names)
    for target, plan in fitted.plans_.items():
        assert target not in plan.counts and len(plan.counts) == 3
        assert set(fitted.models_[target].heads) == {target}


def test_one_target_answers_for_its_sources_too() -> None:
    suite, _, _ = planted()
    scores = learner(budget=2000).fit(suite).score(suite)
    assert len(scores) == SOURCES + 1
    assert all(s["rmse"] < 1.2 for s in scores.values())


@pytest.mark.parametrize("representation", ["linear", "mlp"])
def test_saved_and_loaded(representation: str, tmp_path: Path) -> None:
    suite = mixed_suite()
    settings: dict[str, Any] = {"prices": ("rent=2.5",), "fees": ("sold=3",), "target": "price"}
    fitted = AMTRL(
        budget=90,
        floor=8,
        representation=representation,
        **settings,
        training=Training(epochs=1, batch=16),
    ).fit(suite)
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert isinstance(loaded, AMTRL)
    assert loaded.plans_ == fitted.plans_ and loaded.ledgers_ == fitted.ledgers_
    assert loaded.prices == ("rent=2.5",) and loaded.parameters_ == fitted.parameters_
    rows = suite.table("test")
    for name, values in fitted.predict(rows).items():
        np.testing.assert_array_equal(loaded.predict(rows)[name], values)
    assert not [
        p for p in (tmp_path / "model").iterdir() if p.suffix not in (".json", ".safetensors")
    ]


def test_the_networks_of_the_papers() -> None:
    """Two convolutions with ReLU and a layer to k = 50 for pictures of 28 x 28; linear heads."""
    suite = picture_suite(size=28)
    processor = Processor.fit(suite)
    config = AMTRL(representation="cnn", rank=50, hidden=(16,))
    net = FeatureNet(processor, processor.tasks, config)
    convolutions = (1 * 9 + 1) * 16 + (16 * 9 + 1) * 32
    assert sum(p.numel() for p in net.trunk.parameters()) == convolutions + (7 * 7 * 32 + 1) * 50
    assert sum(p.numel() for p in net.heads.parameters()) == (50 + 1) * 2
    inputs = processor.encode(suite, "test").inputs
    outputs = net.outputs(inputs, ["bright"])["bright"]
    features = net.represent(inputs, ["bright"])
    assert (features @ net.heads["all"].weight[1:].T + net.heads["all"].bias[1:]).allclose(outputs)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": -5}, "budget is -5"),
        ({"budget": 11, "floor": 1}, "budget 11 does not pay 1 labels of each of the 12 sources"),
        ({"budget": 11, "rule": "uniform"}, "budget 11 does not pay 1 labels"),
        ({"floor": 0}, "floor is 0"),
        ({"floor": 580, "budget": 1e5}, "floor is 580 labels, but source 's0' has only 460"),
        ({"target": "gaol"}, "target 'gaol' is not a task .*did you mean .goal."),
        ({"prices": ("s0=-1",)}, "prices: 's0=-1' must be above 0"),
        ({"prices": ("s0=0",)}, "prices: 's0=0' must be above 0"),
        ({"prices": ("s0",)}, "prices: 's0' is not of the form"),
        ({"fees": ("s0=-1",)}, "fees: 's0=-1' must be at least 0"),
        ({"fees": ("s0=nan",)}, "fees: 's0=nan' is not of the form"),
        ({"fees": ("s0=900",)}, "does not pay 30 labels"),
        ({"rank": 0}, "rank is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"max_sources": -1}, "max_sources is -1"),
        ({"representation": "cnn"}, "'cnn' reads exactly one picture"),
    ],
)
def test_bad_settings_are_refused_before_any_work(settings: dict[str, Any], named: str) -> None:
    suite, _, _ = planted()
    with pytest.raises(InputError, match=named) as caught:
        learner(**settings).fit(suite)
    assert "\n" not in str(caught.value)


def test_a_source_of_one_class_among_its_first_labels_is_no_failure() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    table = {f"x{i}": x[:, i] for i in range(3)}
    table |= {"rare": x[:, 0] > 1.8, "often": x[:, 0] > 0, "goal": x[:, 0] > 0.1}
    suite = Suite.from_table(table, ["rare", "often", "goal"])
    fitted = AMTRL(target="goal", budget=60, floor=4, rank=2).fit(suite)
    assert fitted.score(suite)["goal"]["auroc"] > 0.95


def test_a_price_of_no_task_is_told() -> None:
    told: list[dict[str, Any]] = []
    suite = planted()[0]
    learner(prices=("s1=2", "s01=3")).fit(suite, progress=told.append)
    warnings = [record["warning"] for record in told if "warning" in record]
    assert len(warnings) == 1 and "'s01=3' is about no task" in warnings[0]
