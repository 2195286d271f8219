"""Rendered plants: the labels are what the photograph shows."""

import numpy as np
import pytest

from polytask.data.plants import PLANT_TARGETS, SPECIES, WEEKS, plants
from polytask.errors import InputError


@pytest.fixture(scope="module")
def photographs():
    return plants(count=16, seed=3)


def test_columns_and_their_ranges(photographs):
    rows = 16 * WEEKS
    assert photographs["image"].shape == (rows, 64, 64, 3)
    assert photographs["mask"].shape == (rows, 64, 64)
    assert photographs["image"].dtype == photographs["mask"].dtype == np.uint8
    assert set(PLANT_TARGETS) < set(photographs)
    assert (photographs["height"] > 0).all()
    assert np.array_equal(np.unique(photographs["week"]), np.arange(WEEKS))
    assert np.array_equal(photographs["plant"], np.repeat(np.arange(16), WEEKS))


def test_a_mask_holds_soil_and_the_one_species_of_its_plant(photographs):
    for mask, plant in zip(photographs["mask"], photographs["plant"], strict=True):
        assert np.array_equal(np.unique(mask), [0, plant % len(SPECIES) + 1])


def test_the_mask_is_where_the_green_is(photographs):
    image = photographs["image"].astype(float)
    green = image[..., 1] - image[..., [0, 2]].mean(-1)
    plant = photographs["mask"] > 0
    assert green[plant].mean() > green[~plant].mean() + 40


def test_stems_are_as_long_as_the_heights_say():
    big = plants(count=8, seed=0, size=192)
    for mask, height in zip(big["mask"], big["height"], strict=True):
        rows = np.flatnonzero(mask.any(1))
        assert rows[-1] - rows[0] >= 0.8 * height * 2 - 2  # 192 pixels see 96 cm
    area = (big["mask"] > 0).sum((1, 2))
    assert np.corrcoef(area, big["height"])[0, 1] < 0.95  # area alone does not give it away


def test_plants_grow_with_the_weeks(photographs):
    heights = photographs["height"].reshape(16, WEEKS)
    assert (heights[:, -1] > heights[:, 0] + 8).all()
    for kind, species in enumerate(SPECIES):
        weekly = np.diff(heights[kind :: len(SPECIES)].mean(0)).mean()
        assert weekly == pytest.approx(species.rate, rel=0.3)


def test_equal_seeds_give_equal_photographs_and_plants_do_not_depend_on_their_number(photographs):
    again = plants(count=5, seed=3)
    for name, values in again.items():
        assert np.array_equal(values, photographs[name][: 5 * WEEKS]), name
    other = plants(count=1, seed=4)
    assert not np.array_equal(other["image"], photographs["image"][:WEEKS])


@pytest.mark.parametrize(("count", "size"), [(0, 64), (3, 8)])
def test_no_plants_and_tiny_pictures_are_refused(count, size):
    with pytest.raises(InputError, match=f"not {count} and {size}"):
        plants(count, size=size)
