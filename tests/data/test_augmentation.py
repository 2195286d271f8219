"""Random views: labels follow the picture, randomness follows seed, epoch and row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytask.data import Augmented, Processor, Suite, as_augmentation
from polytask.data.augmentation import Dense
from polytask.errors import InputError

H, W = 12, 16


def suite() -> Suite:
    """Every map says the place of its pixels, so that a view can be checked against its picture."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (12, H, W, 3), dtype=np.uint8)
    table = {
        "image": image,
        "red": image[..., 0].astype(np.float32),  # a map that must stay with its picture
        "bright": (image[..., 1] > 127).astype(np.uint8),
        "normals": np.tile(np.array([0.6, 0, 0.8], np.float32)[None, :, None, None], (12, 1, H, W)),
        "height": rng.random(12),
    }
    kinds = {
        "red": {"kind": "map", "distance": True},
        "bright": {"kind": "segmentation", "classes": ["no", "yes"]},
        "normals": "normals",
        "height": {"kind": "regression", "unit": "cm"},
    }
    return Suite.from_table(table, kinds, inputs={"image": "picture"})


def rows(augmentation: Dense) -> Augmented:
    processor = Processor.fit(suite())
    data = processor.encode(suite(), "train")
    return Augmented(data, augmentation, ("image",), processor.tasks)


ALL = torch.arange(6)


def test_maps_stay_with_their_picture() -> None:
    batch = rows(Dense(flip=0.5, crop=(7, 9)))[ALL]
    assert batch.inputs["image"].shape == (6, 3, 7, 9)
    assert torch.allclose(batch.inputs["image"][:, 0] * 255, batch.targets["red"], atol=1e-3)
    bright = (batch.inputs["image"][:, 1] * 255).round() > 127
    assert torch.equal(bright, batch.targets["bright"].bool())


def test_normals_are_mirrored_with_the_picture() -> None:
    plain, turned = rows(Dense(flip=0.0))[ALL], rows(Dense(flip=1.0))[ALL]
    assert torch.equal(turned.inputs["image"], plain.inputs["image"].flip(-1))
    x = turned.targets["normals"][:, 0]
    assert torch.allclose(x, torch.full_like(x, -0.6))


def test_zooming_divides_distances_and_leaves_row_labels_alone() -> None:
    kinds = {t.name: t.kind for t in Processor.fit(suite()).tasks if t.kind.dense}
    maps = {"red": torch.full((H, W), 8.0)}
    factors = set()
    for seed in range(20):
        views = Dense(flip=0.0, zoom=2.0)(
            {"image": torch.ones(3, H, W)}, maps, kinds, np.random.default_rng(seed)
        )
        (value,) = views[1]["red"][torch.isfinite(views[1]["red"])].unique().tolist()
        filled = int(views[0]["image"][0, :, 0].sum())  # what a smaller picture fills of the view
        assert filled == min(H, round(H * 8 / value))
        factors.add(8 / value)
    assert 0.5 <= min(factors) < 0.8 and 1.6 < max(factors) <= 2
    data = rows(Dense(flip=0.0, zoom=2.0))
    assert torch.equal(data[ALL].targets["height"], data.data[ALL].targets["height"])


def test_what_a_small_picture_does_not_fill_has_no_label() -> None:
    batch = rows(Dense(flip=0.0, crop=(H + 4, W + 4)))[ALL]
    outside = (
        batch.inputs["image"][:, :, H:].abs().sum(),
        batch.inputs["image"][..., W:].abs().sum(),
    )
    assert outside == (0, 0)
    assert torch.isnan(batch.targets["red"][:, H:]).all()
    assert (batch.targets["bright"][:, H:] == 255).all()
    assert torch.isnan(batch.targets["normals"][..., W:]).all()


def test_every_offset_of_a_crop_occurs_and_none_beyond() -> None:
    data = rows(Dense(flip=0.0, crop=(H - 1, W)))
    first = data.data[torch.tensor([0])].targets["red"][0]
    seen = set()
    for epoch in range(40):
        view = data.turn(0, epoch)[torch.tensor([0])].targets["red"][0]
        seen.add(next(top for top in (0, 1) if torch.equal(view, first[top : top + H - 1])))
    assert seen == {0, 1}


def test_randomness_follows_seed_epoch_and_row_alone() -> None:
    data = rows(Dense(zoom=2.0, crop=(8, 8))).turn(3, 1)
    batch = data[ALL]
    again = data[torch.tensor([4, 2])]  # divided otherwise
    assert torch.equal(again.inputs["image"], batch.inputs["image"][[4, 2]])
    assert not torch.equal(data.turn(3, 2)[ALL].inputs["image"], batch.inputs["image"])
    assert not torch.equal(data.turn(4, 1)[ALL].inputs["image"], batch.inputs["image"])


def test_views_of_one_row_differ() -> None:
    data = rows(Dense(crop=(5, 5)))
    views = data[torch.tensor([1, 1 + len(data), 1 + 2 * len(data)])]
    assert not torch.equal(views.inputs["image"][0], views.inputs["image"][1])
    assert views.targets["height"].unique().numel() == 1


def test_crops_full_of_one_class_are_drawn_again() -> None:
    picture = torch.zeros(3, 20, 40)
    classes = torch.zeros(20, 40, dtype=torch.uint8)
    classes[:, 30:] = 1
    kind = next(t.kind for t in Processor.fit(suite()).tasks if t.name == "bright")

    def full(largest: float) -> int:
        augmentation = Dense(flip=0.0, crop=(20, 14), largest=largest)
        views = [
            augmentation({"p": picture}, {"c": classes}, {"c": kind}, np.random.default_rng(i))[1]
            for i in range(40)
        ]
        return sum(bool((view["c"] == 0).all()) for view in views)

    assert full(1.0) > 15
    assert full(0.75) < full(1.0) / 3


def test_colours_change_the_picture_alone() -> None:
    plain, batch = rows(Dense(flip=0.0))[ALL], rows(Dense(flip=0.0, colour=0.5))[ALL]
    assert not torch.equal(batch.inputs["image"], plain.inputs["image"])
    assert batch.inputs["image"].min() >= 0 and batch.inputs["image"].max() <= 1
    assert torch.equal(batch.targets["red"], plain.targets["red"])


def test_text_and_errors() -> None:
    made = as_augmentation("dense(flip=0.5, zoom=2.0, crop=(512, 512))")
    assert made == Dense(flip=0.5, zoom=2.0, crop=(512, 512))
    assert as_augmentation("none") is None
    assert as_augmentation(str(made)) == made
    for text in ("dense(zoom=0.5)", "dense(flip=2)", "dense(colour=1.0)", "dense(crop=(0, 3))"):
        with pytest.raises(InputError, match="augment"):
            as_augmentation(text)
    with pytest.raises(InputError, match="did you mean 'dense'"):
        as_augmentation("dens")
