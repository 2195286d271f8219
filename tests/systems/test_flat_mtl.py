"""F-MTL as a learner: paper scale, life cycle, and the relation its paper stands for.

The step's own identities (Algorithm 1, ASAM, frozen statistics) are tests of the training room.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from polytask.data import Processor, Suite
from polytask.data.overlays import Items, overlaid_digits, overlay_suite
from polytask.data.splits import SPLITS
from polytask.errors import InputError
from polytask.parts.probes import sharpness
from polytask.systems.flat_mtl import FlatMTL
from polytask.training import Training


def small(**changes) -> FlatMTL:
    budget = Training(lr=3e-3, batch=32, epochs=2, patience=2, device="cpu")
    return FlatMTL(**{"trunk": "mlp", "hidden": (16, 8), "training": budget} | changes)


def two_classes() -> Items:
    rng = np.random.default_rng(0)
    return Items(rng.random((16, 14, 14), dtype=np.float32), np.arange(16) % 2)


def pairs(items: Items, rows: tuple[int, int, int], canvas: int = 18) -> Suite:
    return overlay_suite("pairs", dict.fromkeys(SPLITS, items), rows, canvas=canvas)


@pytest.fixture(scope="module")
def tiny() -> Suite:
    return overlaid_digits(rows=(96, 48, 48), seed=0)


@pytest.fixture(scope="module")
def clothes() -> Suite:
    """As large as MultiFashion: one picture of 36 x 36, two tasks of ten classes."""
    rng = np.random.default_rng(0)
    items = Items(rng.random((40, 28, 28), dtype=np.float32), np.arange(40) % 10)
    return pairs(items, (120, 60, 60), canvas=36)


def probabilities(learner: FlatMTL, suite: Suite) -> np.ndarray:
    found = learner.predict(suite.table("test"))
    return np.concatenate([found[task] for task in found], axis=1)


def test_defaults_are_the_papers():
    learner = FlatMTL()
    assert str(learner.balancer) == "cagrad(c=0.4)"
    assert str(learner.step) == "flat(rho=2.0, adaptive=True)"
    budget = learner.training
    assert (budget.lr, budget.batch, budget.epochs, budget.weight_decay) == (1e-3, 256, 200, 0.0)


def test_the_papers_network_is_a_resnet18_with_linear_heads(clothes):
    net = FlatMTL().build(Processor.fit(clothes))
    shared = sum(p.numel() for p in net.shared_parameters())
    heads = sum(p.numel() for p in net.private_parameters())
    # ResNet-18 has 11,689,512 parameters: 513,000 in its classifier; here one channel, not three.
    assert shared == 11_689_512 - 513_000 - 2 * 64 * 7 * 7
    assert heads == 2 * (512 * 10 + 10)


@pytest.mark.parametrize("trunk", ["resnet18", "conv", "mlp"])
def test_every_trunk_fits_pictures(trunk):
    budget = Training(lr=1e-3, batch=16, epochs=1, patience=1, device="cpu")
    suite = pairs(two_classes(), (16, 16, 16))
    learner = FlatMTL(trunk=trunk, training=budget, balancer="pcgrad").fit(suite)
    for found in learner.predict(suite.table("test")).values():
        assert found.shape == (16, 2)
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    assert np.isfinite(learner.history_[0]["loss"]["left"])


def test_equal_seeds_give_equal_models_and_other_seeds_others(tiny):
    one, same, other = (small().with_seed(s).fit(tiny) for s in (1, 1, 2))
    np.testing.assert_array_equal(probabilities(one, tiny), probabilities(same, tiny))
    assert np.abs(probabilities(one, tiny) - probabilities(other, tiny)).max() > 1e-3


@pytest.mark.parametrize("trunk", ["conv", "mlp"])
def test_a_saved_model_answers_as_before(tiny, tmp_path, trunk):
    learner = small(trunk=trunk).fit(tiny)
    learner.save_pretrained(tmp_path / "model")
    again = FlatMTL.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(probabilities(learner, tiny), probabilities(again, tiny))
    assert str(again.step) == str(learner.step)


@pytest.mark.parametrize("balancer", ["mgda", "pcgrad", "imtl_g"])
def test_without_a_radius_the_flat_step_is_its_aggregator(tiny, balancer):
    plain = small(balancer=balancer, step="plain").fit(tiny)
    still = small(balancer=balancer, step="flat(rho=0.0)").fit(tiny)
    wide = small(balancer=balancer, step="flat(rho=0.5)").fit(tiny)
    np.testing.assert_allclose(
        probabilities(still, tiny), probabilities(plain, tiny), rtol=0, atol=1e-6
    )
    assert np.abs(probabilities(wide, tiny) - probabilities(plain, tiny)).max() > 1e-3


def test_one_task_alone_is_sam(tiny):
    learner = small(balancer="mgda").fit(tiny.only("right"))
    assert set(learner.predict(tiny.table("test"))) == {"right"}
    assert set(learner.score(tiny.only("right"))) == {"right"}


def test_missing_labels_are_masked():
    """Six rows of 64 have a label for ``right``, so most batches hold none."""
    suite = pairs(two_classes(), (64, 32, 32))
    train = suite.table("train")
    right = train["right"].to_numpy()
    kept = np.concatenate([np.flatnonzero(right == c)[:3] for c in (0, 1)])
    missing = ~np.isin(np.arange(64), kept)
    column = pa.array(right, mask=missing)
    train = train.set_column(train.column_names.index("right"), "right", column)
    gaps = replace(suite, splits={**suite.splits, "train": Dataset(train)}, fingerprint="gaps")
    budget = Training(lr=3e-3, batch=4, epochs=3, patience=3, device="cpu")
    learner = small(balancer="mgda", training=budget).fit(gaps)
    assert np.isfinite(probabilities(learner, gaps)).all()
    assert all(np.isfinite(epoch["loss"]["right"]) for epoch in learner.history_)
    seen = learner.processor_.encode(gaps, "train").counts
    assert seen == {"left": 64, "right": 6}


def test_an_image_trunk_refuses_a_table():
    table = {"a": np.arange(60.0), "y": np.arange(60) % 2, "z": np.arange(60) % 3}
    suite = Suite.from_table(table, ["y", "z"])
    with pytest.raises(InputError, match="'conv' reads exactly one image column"):
        small(trunk="conv").fit(suite)


def test_a_table_is_learned_without_naming_a_trunk():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 3))
    table = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": x[:, 0] > 0, "z": x[:, 1] - x[:, 2]}
    suite = Suite.from_table(table, ["y", "z"])
    budget = Training(lr=3e-3, batch=64, epochs=15, patience=15, device="cpu")
    scores = FlatMTL(training=budget, step="flat(rho=0.5)").fit(suite).score(suite)
    assert scores["y"]["auroc"] > 0.95
    assert scores["z"]["ev"] > 0.9


def test_a_flat_step_is_refused_where_it_would_be_another_algorithm(tiny):
    with pytest.raises(InputError, match="step flat aggregates gradients at m different points"):
        small(balancer="features(mgda)").fit(tiny)


def test_flat_training_ends_in_a_flatter_place():
    """The paper's claim in small; benchmarks/flat_mtl.py has five seeds of 100 epochs."""
    suite = overlaid_digits(rows=(600, 100, 100), seed=0)
    budget = Training(lr=3e-3, batch=100, epochs=20, patience=20, device="cpu")
    found = {}
    for step in ("plain", "flat(rho=0.5)"):
        learner = small(hidden=(128, 64), training=budget, balancer="pcgrad", step=step).fit(suite)
        learner.module_.eval()
        found[step] = sharpness(learner.module_, learner.processor_.encode(suite, "train"), 0.5)
    for task in suite.task_names:
        assert found["flat(rho=0.5)"][task] < 0.75 * found["plain"][task]
