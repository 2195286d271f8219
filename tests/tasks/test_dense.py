"""Dense kinds: losses, metrics and geometry against their formulas, by a second route."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import (
    DenseKind,
    DenseRegression,
    Edges,
    Normals,
    Picture,
    Saliency,
    Segmentation,
    kind_from_dict,
)

CLASSES = Segmentation(("soil", "crop", "weed"))
DEPTH = DenseRegression("m", distance=True, mean=3.0, std=2.0)
KINDS: list[DenseKind] = [CLASSES, DEPTH, Normals(), Edges(), Saliency(), Picture()]
B, H, W = 4, 6, 8


def name(kind: DenseKind) -> str:
    return kind.name


def maps(kind: DenseKind, rng: np.random.Generator) -> np.ndarray:
    """Labels ``[B, ...]`` as ``read`` would give them, without gaps."""
    if isinstance(kind, Segmentation):
        return rng.integers(0, 3, (B, H, W)).astype(np.uint8)
    if isinstance(kind, DenseRegression):
        return rng.uniform(1, 9, (B, H, W)).astype(np.float32)
    if isinstance(kind, Normals):
        vectors = rng.normal(size=(B, 3, H, W)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if isinstance(kind, Picture):
        return rng.random((B, 3, H, W), dtype=np.float32)
    return (rng.random((B, H, W)) < 0.3).astype(np.float32)


def output(kind: DenseKind, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, kind.outputs, H, W, generator=generator, requires_grad=True)


def png(values: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(file, format="PNG")
    return file.getvalue()


# -- what all kinds promise ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_through_json(kind: DenseKind) -> None:
    assert kind_from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_pixels_and_rows_without_label_have_no_gradient(kind: DenseKind) -> None:
    target = torch.from_numpy(maps(kind, np.random.default_rng(0)))
    target[1, ..., :3, :] = kind.blank
    mask = torch.tensor([True, True, True, False])
    y = output(kind)
    kind.loss(y, target, mask).backward()
    assert y.grad is not None
    assert torch.isfinite(y.grad).all()
    assert (y.grad[1, :, :3] == 0).all() and (y.grad[3] == 0).all()
    assert (y.grad[1, :, 3:] != 0).any() and (y.grad[0] != 0).any()


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_maps_without_any_label_cost_nothing(kind: DenseKind) -> None:
    target = torch.from_numpy(maps(kind, np.random.default_rng(0)))
    blank = torch.full_like(target, kind.blank)
    for labels, mask in ((blank, torch.ones(B)), (target, torch.zeros(B))):
        y = output(kind)
        loss = kind.loss(y, labels, mask.bool())
        loss.backward()
        assert loss.item() == 0
        assert y.grad is not None and (y.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_scores_do_not_depend_on_how_rows_are_divided(kind: DenseKind) -> None:
    target = maps(kind, np.random.default_rng(0))
    decoded = kind.decode(output(kind))
    whole = kind.scores(target, decoded)
    parts = [kind.tally(target[r], decoded[r]) for r in (slice(0, 1), slice(1, 4))]
    assert kind.judge(parts) == pytest.approx(whole)
    assert list(whole) == [metric.name for metric in kind.metrics]


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_the_perfect_answer_has_the_best_scores(kind: DenseKind) -> None:
    target = maps(kind, np.random.default_rng(0))
    best = kind.scores(target, target)
    worse = kind.scores(target, kind.decode(output(kind)))
    for metric in kind.metrics:
        assert metric.sign * best[metric.name] > metric.sign * worse[metric.name]
    assert 0.9 < kind.quality(best) < 2.6  # 100 dB is the most that PSNR says


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_mirroring_twice_changes_nothing(kind: DenseKind) -> None:
    one = torch.from_numpy(maps(kind, np.random.default_rng(0)))[0]
    assert torch.equal(kind.mirrored(kind.mirrored(one)), one)
    assert not torch.equal(kind.mirrored(one), one)


# -- segmentation ----------------------------------------------------------------------------------


def test_segmentation_loss_is_cross_entropy_over_labelled_pixels() -> None:
    target = torch.from_numpy(maps(CLASSES, np.random.default_rng(1)))
    target[0, :2] = 255
    y = output(CLASSES)
    expected = F.cross_entropy(y, target.long(), ignore_index=255)
    assert torch.allclose(CLASSES.loss(y, target, torch.ones(B).bool()), expected)


def test_segmentation_scores_by_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    target, decoded = rng.integers(0, 3, (2, B, H, W)).astype(np.uint8)
    target[0, :3] = 255
    known = target != 255
    y, p = target[known], decoded[known]
    scores = CLASSES.scores(target, decoded)
    assert scores["miou"] == pytest.approx(sk.jaccard_score(y, p, average="macro"))
    assert scores["mf1"] == pytest.approx(sk.f1_score(y, p, average="macro"))
    assert scores["pixel_accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    assert scores["mean_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p))


def test_a_class_nobody_names_is_left_out_of_the_mean() -> None:
    target = np.array([[[0, 0, 1, 1]]], np.uint8)
    assert CLASSES.scores(target, target)["miou"] == 1


def test_wrong_values_of_a_label_map_are_listed() -> None:
    with pytest.raises(InputError, match=r"holds 3, 7; 3 classes are numbered 0 to 2, and 255"):
        CLASSES.read(png(np.array([[0, 7], [3, 255]], np.uint8)), None)


def test_a_palette_is_read_by_its_numbers_and_colours_are_refused() -> None:
    index = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), mode="P")
    index.putpalette([200, 10, 10] * 256)
    file = io.BytesIO()
    index.save(file, format="PNG")
    assert CLASSES.read(file.getvalue(), None).tolist() == [[0, 1], [2, 255]]
    with pytest.raises(InputError, match=r"shape \(2, 2, 3\)"):
        CLASSES.read(png(np.zeros((2, 2, 3), np.uint8)), None)


def test_classes_that_were_not_given_are_counted() -> None:
    cells = pa.chunked_array([[png(np.array([[0, 4], [1, 255]], np.uint8)), None]])
    assert Segmentation().fitted(cells).classes == ("0", "1", "2", "3", "4")


# -- numbers ---------------------------------------------------------------------------------------


def test_map_loss_is_standardised_and_scores_are_in_the_unit() -> None:
    target = maps(DEPTH, np.random.default_rng(3))
    target[0, 0, :4] = np.nan
    known = np.isfinite(target)
    y = output(DEPTH)
    decoded = DEPTH.decode(y)
    error = (decoded - target)[known].astype(float)
    loss = DEPTH.loss(y, torch.from_numpy(target), torch.ones(B).bool())
    assert loss.item() == pytest.approx(np.abs(error).mean() / 2.0, rel=1e-5)
    scores = DEPTH.scores(target, decoded)
    assert scores["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert scores["mae"] == pytest.approx(np.abs(error).mean())
    assert scores["ev"] == pytest.approx(sk.explained_variance_score(target[known], decoded[known]))


def test_distances_shrink_when_the_camera_zooms_in() -> None:
    values = torch.rand(H, W) + 1
    assert torch.allclose(DEPTH.zoomed(values, 2.0), values / 2)
    assert torch.equal(DenseRegression("cm").zoomed(values, 2.0), values)


def test_the_scale_is_learned_and_missing_values_are_not_part_of_it() -> None:
    kind = DenseRegression(missing=0.0)
    cells = pa.chunked_array([pa.array([[1.0, 3.0, 0.0, 0.0]], pa.list_(pa.float64(), 4))])
    cells = pa.chunked_array([pa.FixedSizeListArray.from_arrays(cells.chunk(0).flatten(), 2)])
    cells = pa.chunked_array([pa.FixedSizeListArray.from_arrays(cells.chunk(0), 2)])
    fitted = kind.fitted(cells)
    assert (fitted.mean, fitted.std) == (2.0, 1.0)


# -- normals ---------------------------------------------------------------------------------------


def test_normals_do_not_depend_on_the_length_of_the_prediction() -> None:
    target = torch.from_numpy(maps(Normals(), np.random.default_rng(4)))
    y, mask = output(Normals()), torch.ones(B).bool()
    assert torch.allclose(Normals().loss(y, target, mask), Normals().loss(7 * y, target, mask))


def test_angles_of_known_vectors() -> None:
    target = np.zeros((1, 3, 1, 5), np.float32)
    target[:, 2] = 1
    decoded = np.zeros_like(target)
    for i, degrees in enumerate((5, 20, 28, 40, 60)):
        decoded[0, :, 0, i] = math.sin(math.radians(degrees)), 0, math.cos(math.radians(degrees))
    scores = Normals().scores(target, decoded)
    assert scores["mean_angle"] == pytest.approx(153 / 5, abs=1e-3)
    assert scores["median_angle"] == pytest.approx(28, abs=0.25)
    assert [scores[f"within_{n}"] for n in (11, 22, 30)] == pytest.approx([0.2, 0.4, 0.6])


def test_mirroring_turns_normals_around() -> None:
    one = torch.tensor([0.6, 0.0, 0.8]).view(3, 1, 1).expand(3, 2, 2)
    assert torch.allclose(Normals().mirrored(one)[:, 0, 0], torch.tensor([-0.6, 0.0, 0.8]))


def test_normals_of_an_8_bit_picture() -> None:
    values = np.full((1, 2, 3), 0, np.uint8)
    values[0, 0] = (255, 128, 128)
    read = Normals().read(png(values), None)
    assert read[0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert np.isnan(read[:, 0, 1]).all()


# -- yes and no ------------------------------------------------------------------------------------


def test_edge_loss_at_one_half_is_half_the_plain_one() -> None:
    target = torch.from_numpy(maps(Edges(), np.random.default_rng(5)))
    y, mask = output(Edges()), torch.ones(B).bool()
    plain = F.binary_cross_entropy_with_logits(y.squeeze(1), target)
    assert torch.allclose(Edges(0.5).loss(y, target, mask), 0.5 * plain)
    for weight in (0.0, 1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            Edges(weight)


def test_edges_forgive_a_pixel_beside_and_no_more() -> None:
    true = np.zeros((1, 20, 20), np.float32)
    true[0, :, 10] = 1
    beside, far = np.roll(true, 1, axis=2), np.roll(true, 4, axis=2)
    assert Edges().scores(true, beside)["ods_f"] == pytest.approx(1)
    assert Edges().scores(true, far)["ods_f"] == 0


def test_saliency_loss_is_weighted_two_class_cross_entropy() -> None:
    target = torch.from_numpy(maps(Saliency(), np.random.default_rng(6)))
    y, mask = output(Saliency()), torch.ones(B).bool()
    share = float((target == 0).float().mean())
    two = torch.cat([torch.zeros_like(y), y], dim=1)
    expected = F.cross_entropy(two, target.long(), weight=torch.tensor([1 - share, share]))
    assert torch.allclose(Saliency().loss(y, target, mask), expected, rtol=1e-4)


def test_max_f_by_a_second_route() -> None:
    rng = np.random.default_rng(7)
    true, chance = maps(Saliency(), rng), rng.random((B, H, W), dtype=np.float32)
    best = max(
        sk.fbeta_score(true.ravel(), chance.ravel() >= t, beta=math.sqrt(0.3))
        for t in np.linspace(0.05, 0.95, 19)
    )
    assert Saliency().scores(true, chance)["max_f"] == pytest.approx(best)


@pytest.mark.parametrize(
    ("stored", "read"),
    [([0, 1, 255], [0, 1, math.nan]), ([0, 255, 0], [0, 1, 0]), ([0, 0, 0], [0, 0, 0])],
)
def test_yes_and_no_in_files(stored: list[int], read: list[float]) -> None:
    values = Edges().read(png(np.array([stored], np.uint8)), None)
    np.testing.assert_array_equal(values, np.array([read], np.float32))


def test_a_map_of_yes_and_no_with_other_values_is_refused() -> None:
    with pytest.raises(InputError, match="holds 0, 1 and 255, this one 0, 3"):
        Saliency().read(png(np.array([[0, 3]], np.uint8)), None)


# -- pictures --------------------------------------------------------------------------------------


def test_picture_scores_by_scikit_image() -> None:
    from skimage import metrics as si

    rng = np.random.default_rng(8)
    target = rng.random((2, 3, 24, 24), dtype=np.float32)
    noise = rng.normal(0, 0.1, target.shape).astype(np.float32)
    decoded = (target + noise).clip(0, 1)
    pairs = list(zip(target, decoded, strict=True))
    scores = Picture().scores(target, decoded)
    psnr = [si.peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs]
    assert scores["psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
    ssim = [
        si.structural_similarity(
            a,
            b,
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in pairs
    ]
    assert scores["ssim"] == pytest.approx(np.mean(ssim), abs=0.02)  # borders are padded otherwise
    assert scores["picture_mae"] == pytest.approx(np.abs(target - decoded).mean(), rel=1e-5)


def test_whole_numbers_become_brightness() -> None:
    half = np.full((2, 2, 3), 32768, np.uint16)
    assert Picture().read(half, None) == pytest.approx(32768 / 65535)
    assert Picture(channels=1).read(np.full((2, 2), 255, np.uint8), None) == pytest.approx(1)
    with pytest.raises(InputError, match="3 channels is wanted, not 1"):
        Picture().read(np.zeros((2, 2), np.uint8), None)
