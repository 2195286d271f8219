"""Corrupted pictures: each way does what it says, and the suite keeps pictures apart."""

from __future__ import annotations

import numpy as np
import pytest

from polytask.data.corruptions import CORRUPTIONS, corrupt, corrupted_suite
from polytask.data.overlays import Items, digits
from polytask.errors import InputError

PICTURES = digits().images[:40]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_way_gives_pictures_of_the_same_kind(name: str) -> None:
    made = corrupt(PICTURES, name)
    assert made.shape == PICTURES.shape and made.dtype == np.float32
    assert made.min() >= 0 and made.max() <= 1
    assert np.array_equal(made, PICTURES) == (name == "identity")
    np.testing.assert_array_equal(made, corrupt(PICTURES, name))
    # What one picture becomes does not depend on the others, random or not.
    random = name in ("noise", "occlude")
    assert np.array_equal(made, corrupt(PICTURES, name, seed=1)) != random
    if not random:
        np.testing.assert_allclose(made[:3], corrupt(PICTURES[:3], name), atol=1e-6)


def test_what_each_way_does() -> None:
    np.testing.assert_array_equal(corrupt(PICTURES, "invert"), 1 - PICTURES)
    np.testing.assert_array_equal(corrupt(PICTURES, "shift")[:, 1:, 1:], PICTURES[:, :-1, :-1])
    dull = corrupt(PICTURES, "contrast")
    np.testing.assert_allclose(dull.mean((1, 2)), PICTURES.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(dull.std((1, 2)), PICTURES.std((1, 2)) / 3, rtol=1e-5)
    blocks = corrupt(PICTURES, "pixelate").reshape(-1, 4, 2, 4, 2)
    np.testing.assert_allclose(
        blocks,
        PICTURES.reshape(-1, 4, 2, 4, 2).mean((2, 4), keepdims=True) + np.zeros_like(blocks),
        atol=1e-6,
    )
    hidden = corrupt(PICTURES, "occlude")
    assert ((hidden == 0.5) & (hidden != PICTURES)).sum((1, 2)).max() <= 9
    assert ((hidden != PICTURES).sum((1, 2)) > 0).mean() > 0.9
    assert (
        np.abs(np.diff(corrupt(PICTURES, "blur"))).mean() < 0.7 * np.abs(np.diff(PICTURES)).mean()
    )
    bar = np.zeros((1, 9, 9), np.float32)
    bar[0, 4, 1:8] = 1
    turned = corrupt(bar, "rotate")[0]
    rows, columns = np.nonzero(turned > 0.3)
    slope = np.degrees(np.arctan2(np.ptp(rows), np.ptp(columns)))
    assert 20 < slope < 40
    noisy = corrupt(np.full((500, 8, 8), 0.5, np.float32), "noise")
    assert noisy.std() == pytest.approx(0.24, abs=0.01)


def test_the_suite_has_a_task_for_each_way_and_class() -> None:
    data = digits()
    small = Items(data.images[:200], data.labels[:200])
    suite = corrupted_suite(small, ["shift", "invert"], seed=3)
    assert suite.task_names == tuple(f"{w}_{c}" for w in ("shift", "invert") for c in range(10))
    assert sum(len(s) for s in suite.splits.values()) == 400
    table = suite.table("train")
    shifted = table.filter(table["shift_0"].is_valid())
    assert shifted["invert_0"].null_count == len(shifted)
    answers = np.stack([shifted[f"shift_{c}"].to_numpy() for c in range(10)])
    assert (answers.astype(int).sum(0) == 1).all()
    pictures = {
        split: {np.asarray(p, np.float32).tobytes() for p in _seen(suite, split)}
        for split in suite.splits
    }
    assert not pictures["train"] & pictures["test"]
    # Both ways of a picture are in one split: undo one of them.
    inverted = {(1 - np.frombuffer(p, np.float32)).round(4).tobytes() for p in pictures["train"]}
    other = {np.frombuffer(p, np.float32).round(4).tobytes() for p in pictures["test"]}
    assert not inverted & other


def _seen(suite, split: str) -> list:  # type: ignore[no-untyped-def]
    return suite.table(split)["picture"].to_pylist()


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match=r"'blurr' is not known \(did you mean 'blur'"):
        corrupt(PICTURES, "blurr")
