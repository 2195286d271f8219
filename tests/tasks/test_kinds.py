"""Kinds: what they learn from labels, losses against torch, answers, and the way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.tasks import Classification, Kind, Regression, Task, kind_from_dict


def column(*values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


MINUTES = Regression("min").fitted(column(10.0, None, 20.0, 30.0))
YES_NO = Classification().fitted(column(True, False, None))
TOWNS = Classification().fitted(column("Ulm", "Bonn", None, "Kiel", "Bonn"))


def test_regression_learns_scale_from_labels() -> None:
    assert (MINUTES.mean, MINUTES.std) == (20.0, pytest.approx(np.std([10, 20, 30])))
    assert MINUTES.unit == "min"
    assert MINUTES.outputs == 1


def test_regression_of_huge_whole_numbers() -> None:
    kind = Regression().fitted(column(2**60, 2**60 + 2**50))
    assert kind.mean == pytest.approx(2**60 + 2**49)


def test_regression_encodes_a_missing_label_as_masked() -> None:
    target, mask = MINUTES.encode(column(10, None, 30))
    assert mask.tolist() == [True, False, True]
    assert target[mask].tolist() == [10, 30]
    assert np.isfinite(target).all()


def test_regression_loss_is_mse_on_the_standardised_scale() -> None:
    output, target = torch.randn(4, 1), torch.tensor([10.0, 20, 30, 99])
    mask = torch.tensor([True, True, True, False])
    scaled = (target - MINUTES.mean) / MINUTES.std
    expected = F.mse_loss(output[:3, 0], scaled[:3])
    assert MINUTES.loss(output, target, mask) == pytest.approx(expected.item())


def test_regression_decodes_into_its_unit() -> None:
    decoded = MINUTES.decode(torch.tensor([[0.0], [1.0]]))
    assert decoded.tolist() == pytest.approx([20.0, 20.0 + MINUTES.std])
    assert MINUTES.answer(decoded) is decoded


def test_classes_are_those_seen_in_order() -> None:
    assert TOWNS.classes == ("Bonn", "Kiel", "Ulm")
    assert TOWNS.outputs == 3
    assert YES_NO.classes == (False, True)
    assert YES_NO.outputs == 1


def test_classification_encodes_codes_and_masks() -> None:
    target, mask = TOWNS.encode(column("Kiel", None, "Bonn"))
    assert mask.tolist() == [True, False, True]
    assert target[mask].tolist() == [1, 0]
    assert (target >= 0).all(), "cross-entropy needs a lawful placeholder"


def test_an_unseen_class_is_named() -> None:
    with pytest.raises(InputError, match="class 'Rom' does not occur in the training labels"):
        TOWNS.encode(column("Kiel", "Rom"))


def test_losses_against_torch_on_labelled_rows() -> None:
    mask = torch.tensor([True, False, True, True])
    output, target = torch.randn(4, 3), torch.tensor([0, 0, 2, 1])
    expected = F.cross_entropy(output[mask], target[mask])
    assert TOWNS.loss(output, target, mask) == pytest.approx(expected.item())
    output, target = torch.randn(4, 1), torch.tensor([0, 0, 1, 1])
    expected = F.binary_cross_entropy_with_logits(output[mask, 0], target[mask].float())
    assert YES_NO.loss(output, target, mask) == pytest.approx(expected.item())


@pytest.mark.parametrize("kind", [MINUTES, YES_NO, TOWNS])
def test_masked_rows_have_no_gradient_and_no_row_no_loss(kind: Kind) -> None:
    output = torch.randn(4, kind.outputs, requires_grad=True)
    target = torch.tensor([0, 1, 0, 1])
    target = target.float() if kind is MINUTES else target
    mask = torch.tensor([True, False, True, False])
    (gradient,) = torch.autograd.grad(kind.loss(output, target, mask), output)
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()
    nothing = kind.loss(output, target, torch.zeros(4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(nothing, output)
    assert nothing == 0 and (gradient == 0).all()


def test_chances_and_answers() -> None:
    decoded = YES_NO.decode(torch.tensor([[0.0], [5.0]]))
    assert decoded.sum(1).tolist() == pytest.approx([1, 1])
    assert decoded[0].tolist() == [0.5, 0.5]
    assert YES_NO.answer(decoded)[1] is True
    decoded = TOWNS.decode(torch.tensor([[0.0, 9.0, 1.0]]))
    assert decoded.sum() == pytest.approx(1)
    assert TOWNS.answer(decoded).tolist() == ["Kiel"]


@pytest.mark.parametrize("kind", [Regression(), Classification(), MINUTES, YES_NO, TOWNS])
def test_through_json(kind: Kind) -> None:
    assert kind_from_dict(json.loads(json.dumps(kind.to_dict()))) == kind


def test_scores_hold_every_metric_and_the_first_is_primary() -> None:
    target, decoded = np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 1]]
    scores = TOWNS.scores(target, decoded)
    assert list(scores) == ["auroc", "accuracy", "log_loss", "f1", "kappa"]
    assert scores["accuracy"] == 0.75
    assert TOWNS.primary.name == "auroc"
    assert MINUTES.primary.name == "ev"


def test_a_task_is_named_after_its_column_unless_told() -> None:
    assert Task("late", YES_NO).target == "late"
    assert Task("late", YES_NO, "arr_late").target == "arr_late"
