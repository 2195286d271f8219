import gzip

import numpy as np
import pytest

from polytask.data import Processor
from polytask.data.overlays import (
    Items,
    digits,
    idx_items,
    overlaid_digits,
    overlaid_fashion,
    overlay,
    overlay_suite,
    with_noise,
)
from polytask.errors import InputError


def items(count: int = 6, side: int = 3, level: float = 1.0) -> Items:
    rng = np.random.default_rng(0)
    pictures = level * rng.random((count, side, side), dtype=np.float32)
    return Items(pictures, np.arange(count) % 3)


def write_idx(folder, part, images, labels) -> None:
    for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1", labels)):
        name = name if "ubyte" in name else f"{name}-ubyte"
        head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(head + values.tobytes()))


def test_every_pixel_is_the_brighter_of_the_two_items():
    source = Items(items().images, np.arange(6))  # a label tells which item it was
    pictures, labels = overlay(source, 20, 5, np.random.default_rng(1))
    for picture, (left, right) in zip(pictures, labels, strict=True):
        assert left != right
        for row in range(5):
            for column in range(5):
                a = source.images[left, row, column] if row < 3 and column < 3 else 0.0
                b = source.images[right, row - 2, column - 2] if row > 1 and column > 1 else 0.0
                assert picture[row, column] == max(a, b)


def test_every_item_appears_on_both_sides():
    source = Items(items().images, np.arange(6))
    _, labels = overlay(source, 400, 5, np.random.default_rng(1))
    for side in labels.T:
        assert set(side) == set(range(6))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_noise_is_exactly_its_share_and_always_another_class(share):
    labels = np.random.default_rng(0).choice([2, 5, 9], 200)
    noisy = with_noise(labels, share, np.random.default_rng(1))
    assert np.sum(noisy != labels) == round(share * 200)
    assert set(noisy) <= {2, 5, 9}


def test_wrong_labels_are_spread_over_all_other_classes():
    labels = np.arange(10).repeat(300)
    noisy = with_noise(labels, 0.5, np.random.default_rng(1))
    counts = np.bincount((noisy - labels)[noisy != labels] % 10, minlength=10)
    assert counts[0] == 0 and counts[1:].min() > 100


def test_each_split_draws_from_its_own_items():
    levels = {"train": 0.3, "validation": 0.6, "test": 1.0}
    sources = {s: Items(np.full((4, 3, 3), v, np.float32), np.arange(4)) for s, v in levels.items()}
    suite = overlay_suite("levels", sources, (40, 30, 20), canvas=4)
    for split, level in levels.items():
        picture = np.array(suite.table(split)["picture"].to_pylist(), np.float32)
        assert picture.shape == ({"train": 40, "validation": 30, "test": 20}[split], 4, 4)
        assert picture.max() == np.float32(level)


def test_noise_reaches_one_task_and_never_the_test():
    rows = {"train": 300, "validation": 200, "test": 100}
    clean, noisy = (overlaid_digits(tuple(rows.values()), noise, seed=3) for noise in (0.0, 0.4))
    for split, share in (("train", 0.4), ("validation", 0.4), ("test", 0.0)):
        a, b = clean.table(split).to_pydict(), noisy.table(split).to_pydict()
        assert a["picture"] == b["picture"] and a["left"] == b["left"]
        wrong = np.sum(np.array(a["right"]) != np.array(b["right"]))
        assert wrong == round(share * rows[split])


def test_digits_of_the_test_are_not_those_of_training():
    suite = overlaid_digits(rows=(1500, 500, 1500), seed=0)

    def upper_halves(split):  # the four top rows show the left digit alone
        pictures = np.array(suite.table(split)["picture"].to_pylist(), np.float32)
        return {p[:4].tobytes() for p in pictures}

    train, validation, test = (upper_halves(s) for s in ("train", "validation", "test"))
    assert len(validation & train) > 0.5 * len(validation)  # same 900 digits
    assert len(test & train) < 0.05 * len(test)  # a few digits look alike in their upper half


def test_a_seed_is_a_suite():
    one, same, other = (overlaid_digits(rows=(60, 30, 30), seed=s) for s in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.task_names == ("left", "right")
    assert [t["kind"] for t in one.describe()["tasks"]] == ["classification"] * 2
    assert any("40%" in note for note in one.describe()["notes"])


def test_a_learner_gets_pictures():
    suite = overlaid_digits(rows=(80, 40, 40))
    processor = Processor.fit(suite)
    assert processor.arrays["picture"].shape == (12, 12)
    assert processor.encode(suite, "test").inputs["picture"].shape == (40, 12, 12)


def test_digits_lie_between_zero_and_one():
    found = digits()
    assert found.images.shape == (1797, 8, 8) and len(found) == 1797
    assert found.images.min() == 0 and found.images.max() == 1
    assert set(found.labels) == set(range(10))


def test_idx_files_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        write_idx(tmp_path, part, images, (np.arange(count) % 3).astype(np.uint8))
    found = idx_items(tmp_path, "t10k")
    np.testing.assert_array_equal(np.round(found.images * 255).astype(np.uint8), images)
    assert found.labels.tolist() == [0, 1, 2] * 10
    suite = overlaid_fashion(tmp_path, rows=(50, 20, 20))
    assert np.array(suite.table("train")["picture"].to_pylist()).shape == (50, 36, 36)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"has no file 'train-images-idx3-ubyte.gz'"):
        idx_items(tmp_path, "train")
    write_idx(tmp_path, "train", np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.uint8))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for broken in (b"text", whole[: len(whole) // 2], gzip.compress(b"\0\0\x08"), b""):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz' cannot be read"):
            idx_items(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"canvas": 2}, "canvas is 2; items of 3 pixels need 3 to 6"),
        ({"canvas": 7}, "canvas is 7"),
        ({"noise": 1.5}, "noise is 1.5"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change, sentence):
    given = {"canvas": 5, "noise": 0.1} | change
    with pytest.raises(InputError, match=sentence):
        overlay_suite(
            "x", dict.fromkeys(("train", "validation", "test"), items()), (9, 9, 9), **given
        )


def test_one_item_makes_no_pair():
    with pytest.raises(InputError, match="two items"):
        overlay(items(1), 4, 5, np.random.default_rng(0))
