"""Patches: every batch is views of the same few rows."""

import numpy as np
import pytest
import torch

from polytask.data import Augmented, Batch, Processor
from polytask.data.augmentation import Dense
from polytask.data.dual_pixel_views import scene_suite
from polytask.data.mixtures import Patches
from polytask.errors import InputError


def rows(count):
    return Batch({"x": torch.arange(count).float()}, {}, {"y": torch.ones(count, dtype=torch.bool)})


def test_a_batch_is_views_of_one_row():
    draws = list(Patches().draws(rows(5), 4, seed=0, epoch=0))
    assert len(draws) == 5
    seen = set()
    for draw in draws:
        assert draw.tasks is None
        (row,) = set((draw.rows % 5).tolist())
        assert sorted((draw.rows // 5).tolist()) == [0, 1, 2, 3]
        seen.add(row)
    assert seen == set(range(5))


def test_several_images_share_a_batch_alike():
    for draw in Patches(images=2).draws(rows(5), 6, seed=0, epoch=0):
        found, counts = (draw.rows % 5).unique(return_counts=True)
        assert len(found) == 2 and counts.tolist() == [3, 3]


def test_the_plan_follows_from_seed_and_epoch():
    def plan(**when):
        return [draw.rows.tolist() for draw in Patches().draws(rows(9), 2, **when)]

    assert plan(seed=1, epoch=2) == plan(seed=1, epoch=2)
    assert plan(seed=1, epoch=2) != plan(seed=1, epoch=3) != plan(seed=2, epoch=3)


def test_views_of_a_row_are_other_crops_of_it():
    suite = scene_suite(views_only=3, pairs=1, validation=1, test=1, size=32)
    processor = Processor.fit(suite)
    data = processor.encode(suite, "train")
    crops = Dense(flip=0.0, crop=(8, 8))
    seen = Augmented(data, crops, tuple(processor.pictures), processor.tasks).turn(0, 0)
    draw = next(Patches().draws(seen, 4, seed=0, epoch=0))
    batch, whole = seen[draw.rows], data[draw.rows[:1] % 4].inputs["blurred"][0]
    views = batch.inputs["blurred"]
    assert views.shape == (4, 3, 8, 8)
    assert any(not torch.equal(views[0], view) for view in views[1:])
    windows = whole.unfold(1, 8, 1).unfold(2, 8, 1)
    for view in views:
        assert (windows == view[:, None, None]).all(dim=(0, 3, 4)).any()
    np.testing.assert_allclose(
        (batch.targets["left"] + batch.targets["right"]) / 2, views, atol=1e-6
    )


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        Patches(images=0)
    with pytest.raises(InputError, match="batch of 8"):
        list(Patches(images=3).draws(rows(5), 8, seed=0, epoch=0))
    assert str(Patches()) == "patches(images=1)"
