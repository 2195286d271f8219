"""Merging: weights per tensor, and what comes of special checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from polytask.errors import InputError
from polytask.parts.merging import RULES, fusion_weights, greedy_soup, merge, uniform_soup

State = dict[str, Tensor]


def state(seed: int, scale: float = 1.0) -> State:
    g = torch.Generator().manual_seed(seed)
    return {
        "a.weight": scale * torch.randn(4, 3, generator=g),
        "a.bias": scale * torch.randn(4, generator=g),
        "scale": scale * torch.randn((), generator=g),
        "places": torch.arange(5),
    }


def moved(base: State, by: State) -> State:
    return {k: v + by[k] if v.is_floating_point() else v for k, v in base.items()}


def equal(one: State, other: State) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one) and set(one) == set(other)


@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one_in_every_tensor(rule: str) -> None:
    base = state(0)
    parts = [moved(base, state(i)) for i in (1, 2, 3)]
    found = fusion_weights(parts, base, rule)
    assert set(found) == {"a.weight", "a.bias", "scale"}
    for weights in found.values():
        torch.testing.assert_close(weights.sum(0), torch.ones_like(weights[0]))
        assert bool((weights >= 0).all())


@pytest.mark.parametrize("rule", RULES)
def test_identical_checkpoints_give_themselves(rule: str) -> None:
    one = state(1)
    assert equal(merge([one, one, one], state(0), rule), one)
    assert equal(merge([one, one], one, rule), one)


def test_a_checkpoint_that_is_the_base_counts_for_nothing() -> None:
    base, other = state(0), state(1)
    for rule in ("delta", "elementwise"):
        merged = merge([base, other], base, rule)
        for name, tensor in other.items():
            torch.testing.assert_close(merged[name], tensor)
    for name, weights in fusion_weights([base, other], base).items():
        assert weights.tolist() == [0, 1], name
    assert equal(merge([base, other], base, "inverse"), base)


def test_weights_follow_the_deviation_of_each_tensor() -> None:
    base = state(0)
    one, other = moved(base, state(1)), moved(base, state(1, scale=3))
    one["a.bias"] = base["a.bias"] + 5.0
    other["a.bias"] = base["a.bias"] - 5.0
    found = fusion_weights([one, other], base)
    torch.testing.assert_close(found["a.weight"].float(), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(found["a.bias"].float(), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(merge([one, other], base)["a.bias"], base["a.bias"])
    back = fusion_weights([one, other], base, "inverse")["a.weight"]
    torch.testing.assert_close(back.float(), torch.tensor([0.75, 0.25]))


def test_softmax_runs_from_the_soup_to_the_one_that_moved_most() -> None:
    base = state(0)
    parts = [moved(base, state(1)), moved(base, state(1, scale=3))]
    for name, tensor in merge(parts, base, "softmax(beta=0)").items():
        torch.testing.assert_close(tensor, uniform_soup(parts)[name])
    for name, tensor in merge(parts, base, "softmax(beta=100)").items():
        torch.testing.assert_close(tensor, parts[1][name])


def test_elementwise_takes_each_element_from_who_moved_it() -> None:
    base = {"w": torch.zeros(4)}
    parts = [{"w": torch.tensor([1.0, 0, 0, 2])}, {"w": torch.tensor([0, 3.0, 0, 2])}]
    assert merge(parts, base, "elementwise")["w"].tolist() == [1, 3, 0, 2]


def test_a_greedy_soup_is_never_worse_than_its_best_member() -> None:
    parts = [{"w": torch.tensor([float(x)])} for x in (3, -1, 10)]

    def score(one: State) -> float:
        return -abs(float(one["w"]) - 1.0)

    assert greedy_soup(parts, score)["w"].item() == 1.0  # -1 and 3; 10 is left out
    assert greedy_soup(parts[2:], score)["w"].item() == 10.0


def test_what_cannot_be_merged_is_refused() -> None:
    base = state(0)
    cases = [
        ([], "no checkpoint"),
        ([{**base, "b": torch.ones(1)}], "'b'"),
        ([base, {**base, "scale": torch.ones(2)}], "checkpoint 2.*'scale'"),
        ([base, {**base, "places": torch.ones(5, dtype=torch.long)}], "'places'"),
    ]
    for parts, culprit in cases:
        with pytest.raises(InputError, match=culprit):
            merge(parts, base)
    with pytest.raises(InputError, match="fusion 'dleta'"):
        merge([base], base, "dleta")
    for soup in (uniform_soup, lambda parts: greedy_soup(parts, lambda one: 0.0)):
        with pytest.raises(InputError, match="no checkpoint"):
            soup([])
