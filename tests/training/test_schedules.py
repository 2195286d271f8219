"""Learning rates over a fit, against their formulas."""

from __future__ import annotations

import math

import pytest

from polytask.errors import InputError
from polytask.training.loop import Training, _warmed
from polytask.training.schedules import as_schedule


def test_factors() -> None:
    cosine, poly, halving = map(as_schedule, ("cosine", "poly(power=0.9)", "halving(every=2)"))
    assert [as_schedule("constant")(s, 10, 100) for s in (0, 50)] == [1, 1]
    assert [cosine(s, 10, 100) for s in (0, 50)] == pytest.approx([1, 0.5])
    assert cosine(25, 10, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert [poly(s, 10, 100) for s in (0, 50, 100)] == pytest.approx([1, 0.5**0.9, 0])
    assert [halving(s, 10, 100) for s in (0, 19, 20, 40)] == [1, 1, 0.5, 0.25]


def test_warm_up_rises_from_a_tenth() -> None:
    assert [_warmed(10, s) for s in (0, 5, 10, 99)] == pytest.approx([0.1, 0.55, 1, 1])
    assert _warmed(0, 0) == 1


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        Training(schedule="cosin").validate()
    with pytest.raises(InputError, match="at least 1 epoch"):
        Training(schedule="halving(every=0)").validate()
    with pytest.raises(InputError, match="must not be negative"):
        Training(warmup=-1).validate()
