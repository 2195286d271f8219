"""The formation model: half discs, exact averages, layers, and suites of captures."""

import numpy as np
import pytest

from polytask.data import Processor
from polytask.data.dual_pixel_views import (
    RADII,
    as_bytes,
    half_discs,
    photograph,
    scene_suite,
    textured,
    two_layers,
)
from polytask.errors import InputError


@pytest.mark.parametrize("radius", [*RADII, -1, 0, 1])
def test_halves_of_a_disc(radius):
    left, right = half_discs(radius)
    assert left.sum() == pytest.approx(1) and right.sum() == pytest.approx(1)
    reach = np.arange(-abs(radius), abs(radius) + 1)
    whole = (left + right) / 2
    disc = reach[:, None] ** 2 + reach[None] ** 2 <= radius**2
    np.testing.assert_allclose(whole[disc], 1 / disc.sum())
    assert (whole[~disc] == 0).all()
    np.testing.assert_array_equal(left, right[:, ::-1])
    if radius:
        assert np.sign((left * reach).sum()) == -np.sign(radius)


def test_the_sign_of_the_radius_swaps_the_halves():
    for one, other in zip(half_discs(3), half_discs(-3)[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_point_becomes_its_half_discs():
    sharp = np.zeros((11, 11, 1))
    sharp[5, 5] = 1
    capture = photograph(sharp, np.full((11, 11), 3))
    for view, kernel in zip(capture[1:], half_discs(3), strict=True):
        np.testing.assert_allclose(view[2:9, 2:9, 0], kernel, atol=1e-12)
    assert capture.left[:, :5].sum() > capture.left[:, 6:].sum()


@pytest.mark.parametrize("seed", range(3))
def test_the_picture_is_the_mean_of_its_views(seed):
    rng = np.random.default_rng(seed)
    capture = photograph(textured(rng, 24), two_layers(rng, (24, 24)))
    np.testing.assert_allclose(capture.combined, (capture.left + capture.right) / 2, atol=1e-15)
    small = as_bytes(capture)
    assert all(part.dtype == np.uint8 for part in small)
    assert (2 * small.combined.astype(int) == small.left.astype(int) + small.right).all()
    for part, exact in zip(small, capture, strict=True):
        assert np.abs(part / 255 - exact).max() <= 1.01 / 255


def test_what_is_in_focus_stays_as_it_is():
    sharp = textured(np.random.default_rng(0), 16)
    capture = photograph(sharp, np.zeros((16, 16), int))
    for view in capture:
        np.testing.assert_allclose(view, sharp)


def test_a_near_layer_is_laid_over_a_far_one():
    sharp = np.zeros((16, 16, 1))
    sharp[:, 8:] = 1  # white is near and in focus, black is far and blurred
    radius = np.where(np.arange(16) < 8, 3, 0) * np.ones((16, 1), int)
    capture = photograph(sharp, radius)
    np.testing.assert_allclose(capture.combined[:, 8:], 1)
    assert capture.combined[:, :8].max() == 0
    behind = photograph(sharp, np.where(np.arange(16) < 8, -3, 0) * np.ones((16, 1), int))
    assert behind.combined[:, 8:10].max() < 1  # black is near now: its blur covers some white


def test_grey_pictures_have_no_channel_axis():
    assert photograph(np.ones((8, 9)), np.full((8, 9), 2)).left.shape == (8, 9)


def test_what_cannot_be_photographed_is_refused():
    with pytest.raises(InputError, match=r"\(8, 8\).*\(8, 9\)"):
        photograph(np.ones((8, 8)), np.full((8, 9), 2))
    with pytest.raises(InputError, match="whole numbers"):
        photograph(np.ones((8, 8)), np.full((8, 8), 1.5))


def test_scenes_as_a_suite():
    suite = scene_suite(views_only=5, pairs=3, validation=2, test=2, size=16)
    data = Processor.fit(suite).encode(suite, "train")
    assert data.counts == {"sharp": 3, "left": 8, "right": 8}
    rows = data[slice(0, 8)]
    mean = (rows.targets["left"] + rows.targets["right"]) / 2
    np.testing.assert_allclose(mean, rows.inputs["blurred"], atol=1e-6)


def test_seeds_tell_scenes_and_pairs_do_not_move_each_other():
    few, more = (
        scene_suite(views_only=2, pairs=n, validation=1, test=1, size=16, seed=1) for n in (1, 2)
    )
    other = scene_suite(views_only=2, pairs=1, validation=1, test=1, size=16, seed=2)
    pictures = [s.table("train")["blurred"].to_pylist() for s in (few, more, other)]
    assert pictures[0] == pictures[1][:3] and pictures[0] != pictures[2]


def test_at_one_depth_a_photograph_does_not_tell_the_side_of_the_focal_plane():
    sharp = textured(np.random.default_rng(0), 16)
    front, behind = (photograph(sharp, np.full((16, 16), r)) for r in (-3, 3))
    np.testing.assert_allclose(front.combined, behind.combined, atol=1e-12)
    np.testing.assert_allclose(front.left, behind.right, atol=1e-12)
    assert np.abs(front.left - behind.left).max() > 0.1
