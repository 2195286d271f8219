"""Predictions as pictures: every colour says what it should."""

import io

import numpy as np
import pytest
from PIL import Image

from polytask.comparing.pictures import (
    Span,
    as_picture,
    as_png,
    as_rgb,
    bar,
    class_colours,
    error,
    error_picture,
    overlay,
    span_of,
    strongest_of,
)
from polytask.errors import InputError
from polytask.tasks import (
    Classification,
    DenseRegression,
    Edges,
    Normals,
    Picture,
    Regression,
    Saliency,
    Segmentation,
)

GREY = (119, 119, 119)  # no label
CLASSES = Segmentation(classes=("soil", "crop", "weed"))


def colours(image):
    return np.asarray(image.convert("RGB")).astype(int)


def light(image):
    return colours(image) @ [0.2126, 0.7152, 0.0722]


def test_class_colours_differ():
    assert len({tuple(c) for c in class_colours(24)}) == 24
    assert np.array_equal(class_colours(30)[24:], class_colours(6))


def test_a_class_map_keeps_its_indices_and_ignored_pixels_are_grey():
    codes = np.array([[0, 1, 2], [2, 255, 7]])
    image = as_picture(CLASSES, codes)
    again = Image.open(io.BytesIO(as_png(image)))
    assert np.array_equal(np.asarray(again)[0], [0, 1, 2])
    shown = colours(again)
    assert np.array_equal(shown[0], class_colours(3))
    assert tuple(shown[1, 1]) == tuple(shown[1, 2]) == GREY


def test_overlay_tints_a_picture_of_any_size():
    picture = np.full((8, 6, 3), 200, np.uint8)
    shown = colours(overlay(picture, np.array([[0, 1], [2, 255]]), CLASSES.classes))
    assert shown.shape == (8, 6, 3)
    corners = shown[[0, 0, -1], [0, -1, 0]]
    for corner, colour in zip(corners, class_colours(3).astype(int), strict=True):
        assert np.abs(corner - (0.35 * 200 + 0.65 * colour)).max() <= 1
    assert tuple(shown[-1, -1]) == (200, 200, 200)
    assert np.array_equal(shown[3, 2], shown[0, 0]) and np.array_equal(shown[4, 2], shown[-1, 0])


def test_overlay_of_a_coloured_picture_has_the_colours_of_the_legend():
    green, red = np.zeros((2, 3, 4, 4))
    green[1], red[0] = 0.5, 0.5 * 0.587 / 0.299
    first, second = (colours(overlay(p, np.ones((4, 4)), CLASSES.classes)) for p in (green, red))
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize(
    "picture",
    [
        np.random.default_rng(0).random((3, 5, 4), dtype=np.float32),
        np.random.default_rng(0).random((1, 5, 4)),
        np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (5, 4), np.uint8),
    ],
)
def test_pictures_of_all_sorts_are_read(picture):
    shown = as_rgb(picture)
    assert shown.shape == (5, 4, 3) and shown.dtype == np.uint8
    values = picture if picture.dtype == np.uint8 else 255 * picture.transpose(1, 2, 0)
    values = values[..., None] if values.ndim == 2 else values
    assert np.abs(shown.astype(float) - values).max() <= 0.51


def test_a_picture_of_two_channels_is_refused():
    with pytest.raises(InputError, match=r"shape \(2, 5, 4\) has neither 1 nor 3 channels"):
        as_rgb(np.zeros((2, 5, 4)))


def test_a_map_gets_lighter_as_its_numbers_grow():
    image = as_picture(DenseRegression(unit="m"), np.linspace(1, 4, 40)[None])
    assert (np.diff(light(image)[0]) > 0).all()


def test_maps_of_one_span_share_their_colours():
    kind, span = DenseRegression(), Span(0, 10)
    first, second = (as_picture(kind, np.array([[2.0, top]]), span) for top in (3.0, 50.0))
    assert np.array_equal(colours(first)[0, 0], colours(second)[0, 0])
    edge = as_picture(kind, np.array([[10.0]]), span)
    assert np.array_equal(colours(second)[0, 1], colours(edge)[0, 0])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DenseRegression(), np.array([[1.0, np.nan]])),
        (Edges(), np.array([[1.0, np.nan]])),
        (Saliency(), np.array([[1.0, np.nan]])),
        (Normals(), np.array([[[0, np.nan]], [[0, np.nan]], [[1, np.nan]]])),
        (CLASSES, np.array([[0, 255]])),
    ],
)
def test_a_pixel_without_a_label_is_grey(kind, values):
    assert tuple(colours(as_picture(kind, values))[0, 1]) == GREY


def test_a_constant_map_is_drawn():
    assert as_picture(DenseRegression(), np.full((2, 2), 3.0)).size == (2, 2)


def test_normals_probabilities_and_pictures():
    towards = np.array([0.0, 0.0, 1.0]).reshape(3, 1, 1)
    assert tuple(colours(as_picture(Normals(), towards))[0, 0]) == (128, 128, 255)
    chances = colours(as_picture(Edges(), np.array([[0.0, 0.5, 1.0]])))[0]
    assert (chances[0] == 0).all() and (chances[2] == 255).all()
    assert np.abs(chances[1] - 127).max() <= 2
    picture = np.random.default_rng(0).random((3, 4, 4), dtype=np.float32)
    assert np.array_equal(colours(as_picture(Picture(), picture)), as_rgb(picture))


@pytest.mark.parametrize("kind", [Regression(), Classification(classes=("a", "b"))])
def test_kinds_without_a_map_are_refused(kind):
    with pytest.raises(InputError, match=f"kind '{kind.name}' answers no map"):
        as_picture(kind, np.zeros((2, 2)))


def test_errors_are_those_of_the_kind():
    nan = np.nan
    wrong = error(CLASSES, np.array([[0, 1, 255]]), np.array([[0, 2, 1]]))
    assert np.array_equal(wrong, [[0, 1, nan]], equal_nan=True)
    depth = error(DenseRegression(), np.array([[1.0, nan, 3.0]]), np.array([[1.5, 2.0, 2.0]]))
    assert np.array_equal(depth, [[0.5, nan, -1.0]], equal_nan=True)
    chance = error(Edges(), np.array([[0.0, 1.0, nan]]), np.array([[0.25, 0.25, 0.5]]))
    assert np.array_equal(chance, [[0.25, -0.75, nan]], equal_nan=True)
    true = np.array([[1.0, 0, nan], [0, 0, nan], [0, 1, nan]])[:, None]
    said = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])[:, None]
    assert np.allclose(error(Normals(), true, said), [[90, 0, nan]], equal_nan=True)
    picture = error(Picture(), np.zeros((3, 1, 1)), np.array([0.3, 0.6, 0.0]).reshape(3, 1, 1))
    assert picture == pytest.approx(0.3)


def test_errors_have_a_sign_in_blue_and_red():
    kind = DenseRegression()
    low, none, high, unknown = colours(error_picture(kind, np.array([[-2, 0, 2, np.nan]]), 2.0))[0]
    assert low[2] > low[0] + 50 and high[0] > high[2] + 50
    assert none.min() > 240
    assert tuple(unknown) == GREY


def test_errors_without_a_sign_grow_from_black():
    image = error_picture(Normals(), np.linspace(0, 60, 30)[None], 60.0)
    assert (np.diff(light(image)[0]) > 0).all() and light(image)[0, 0] < 5


def test_wrong_classes_stand_out():
    right, wrong, unknown = light(error_picture(CLASSES, np.array([[0, 1, np.nan]]), 1.0))[0]
    assert right > unknown > wrong


def test_bars_have_the_colours_of_their_maps():
    whole = as_picture(DenseRegression(), np.linspace(0, 1, 128)[None])
    assert np.array_equal(colours(bar(DenseRegression())), colours(whole))
    errors = error_picture(Normals(), np.linspace(0, 1, 128)[None], 1.0)
    assert np.array_equal(colours(bar(Normals(), of_errors=True)), colours(errors))
    assert bar(CLASSES) is None and bar(CLASSES, of_errors=True) is None
    assert bar(Picture()) is None


def test_spans_leave_out_what_is_not_known():
    nan = np.nan
    assert span_of([np.array([1.0, nan]), np.array([-2.0, np.inf]), np.array([nan])]) == (-2, 1)
    assert span_of([np.array([nan])]) == (0, 1)
    errors = np.concatenate([np.linspace(0, 1, 1000), [100.0, nan]])
    assert 0.95 < strongest_of([errors, -errors]) < 1
    assert strongest_of([np.zeros(3), np.array([nan])]) == 1
    assert strongest_of([]) == 1


def test_files_have_the_asked_size_and_mix_no_classes():
    codes = np.zeros((40, 80), np.uint8)
    codes[:, 41:] = 2
    again = Image.open(io.BytesIO(as_png(as_picture(CLASSES, codes), side=20)))
    assert again.size == (20, 10)
    assert set(np.unique(np.asarray(again))) == {0, 2}
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8))
    assert Image.open(io.BytesIO(as_png(photograph, side=20))).size == (20, 10)
    whole = Image.open(io.BytesIO(as_png(photograph, side=500)))
    assert np.array_equal(np.asarray(whole), np.asarray(photograph))
    fewer = Image.open(io.BytesIO(as_png(photograph, colours=16)))
    assert len(np.unique(colours(fewer).reshape(-1, 3), axis=0)) <= 16
