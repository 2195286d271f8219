"""Scenes: labels agree with each other, and brightness means what the light says."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from polytask.data.scenes import CLASSES, HUES, Scenes


@cache
def drawn() -> dict[str, NDArray]:
    return Scenes(noise=0.0).draw(60)


def test_columns() -> None:
    found = {name: (column.shape, column.dtype.name) for name, column in drawn().items()}
    assert found == {
        "image": ((60, 32, 32, 3), "uint8"),
        "segmentation": ((60, 32, 32), "uint8"),
        "depth": ((60, 32, 32), "float32"),
        "normals": ((60, 3, 32, 32), "float32"),
        "edges": ((60, 32, 32), "uint8"),
        "hue": ((60,), "object"),
    }
    assert set(np.unique(drawn()["segmentation"])) == set(range(len(CLASSES)))
    assert set(np.unique(drawn()["edges"])) == {0, 1} and set(drawn()["hue"]) == set(HUES)


def test_normals_are_the_slopes_of_depth() -> None:
    """Where a pixel and its neighbours are of one object: n is (dz/dx, dz/dy, -1), normalised."""
    depth, step = drawn()["depth"].astype(float), 2 / 32
    dy, dx = np.gradient(depth, step, axis=(1, 2))
    wanted = np.stack([dx, dy, -np.ones_like(dx)], 1)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    inner = np.zeros(depth.shape, bool)
    edges, flat = drawn()["edges"], drawn()["segmentation"] != CLASSES.index("cone")
    quiet = ~np.maximum.reduce(
        [np.roll(edges, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    )
    inner[:, 1:-1, 1:-1] = (quiet.astype(bool) & (edges == 0) & flat)[:, 1:-1, 1:-1]
    wide = inner & np.roll(inner, 1, 1) & np.roll(inner, -1, 1) & np.roll(inner, 1, 2)
    gap = np.abs(drawn()["normals"] - wanted).max(1)[wide & np.roll(inner, -1, 2)]
    assert len(gap) > 5000 and gap.max() < 1e-5
    assert np.allclose(np.linalg.norm(drawn()["normals"], axis=1), 1, atol=1e-6)


def test_cones_slope_all_the_way() -> None:
    """On a cone |(n_x, n_y)| / |n_z| is height / radius, with r between a quarter and a half."""
    normals, cone = drawn()["normals"], drawn()["segmentation"] == CLASSES.index("cone")
    slope = (np.hypot(normals[:, 0], normals[:, 1]) / -normals[:, 2])[cone]
    assert slope.min() >= 0.3 / 0.5 - 1e-5 and slope.max() <= 0.3 / 0.25 + 1e-5


@pytest.mark.parametrize(("hue", "sign"), [("warm", 1), ("cool", -1)])
def test_light_turns_the_meaning_of_brightness(hue: str, sign: int) -> None:
    """On the ground of one picture (one colour, one light) brightness is a line in depth."""
    rows = drawn()["hue"] == hue
    ground = drawn()["segmentation"] == 0
    slopes = []
    for row in np.flatnonzero(rows):
        bright = drawn()["image"][row][ground[row]].astype(float).mean(1)
        depth = drawn()["depth"][row][ground[row]]
        if depth.std() > 0.05:
            slopes.append(np.polyfit(depth, bright, 1)[0])
    assert len(slopes) > 5 and (np.sign(slopes) == -sign).all()


def test_hue_shows_everywhere() -> None:
    """Blue over red of a patch tells the light, wherever the patch of ground lies."""
    red, blue = (drawn()["image"][..., c].astype(float) for c in (0, 2))
    ground = drawn()["segmentation"] == 0
    cool = np.broadcast_to((drawn()["hue"] == "cool")[:, None, None], ground.shape)
    assert ((blue > red) == cool)[ground].mean() > 0.99


def test_edges_are_where_objects_meet() -> None:
    owner = np.array([[0, 0, 1], [0, 2, 1]])
    from polytask.data.scenes import _boundaries

    assert _boundaries(owner).tolist() == [[0, 1, 0], [1, 1, 0]]


def test_seeds_and_share() -> None:
    first, again, other = (Scenes(seed=s).draw(4, seed=d) for s, d in ((1, 0), (1, 0), (1, 1)))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["image"], other["image"])
    assert set(Scenes(cool=0.0).draw(9)["hue"]) == {"warm"}
    assert set(Scenes(cool=1.0).draw(9)["hue"]) == {"cool"}


@pytest.mark.parametrize("wrong", [{"size": 4}, {"shapes": 0}, {"cool": 1.2}, {"noise": -0.1}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Scenes(**wrong)
