"""The generator of two tasks that pull one space apart."""

from __future__ import annotations

import numpy as np
import torch

from polytask.data.two_views import NEGATIVES, POSITIVES, SEEN, two_views


def test_rows_labels_and_roles() -> None:
    data = two_views(rows=(30, 10, 20), seed=1)
    for part, n in ((data.train, 30), (data.validation, 10), (data.test, 20)):
        pairs, asked = part.masks["similarity"], part.masks["retrieval"]
        assert len(part) == 2 * n and part.counts == {"similarity": n, "retrieval": n}
        assert not bool((pairs & asked).any())
        assert part.inputs["texts"].shape == (2 * n, POSITIVES + NEGATIVES, SEEN + 1)
        role = part.inputs["text"][:, -1]
        assert bool((role[asked] == 1).all()) and not role[pairs].any()
        gold = part.targets["similarity"][pairs]
        assert bool(((gold * 5 - (gold * 5).round()).abs() < 1e-5).all())
        assert gold.min() >= 0 and gold.max() <= 1 and len(gold.unique()) > 3
        relevance = part.targets["retrieval"][asked]
        assert bool((relevance.sum(1) == POSITIVES).all())
        assert bool(part.targets["retrieval"][pairs].isnan().all())


def test_a_seed_is_a_world() -> None:
    one, again, other = (two_views(rows=(8, 4, 4), seed=s).train for s in (3, 3, 4))
    assert torch.equal(one.inputs["texts"], again.inputs["texts"])
    assert not torch.equal(one.inputs["texts"], other.inputs["texts"])


def test_positives_lie_nearer_than_hard_negatives() -> None:
    data = two_views(rows=(4, 4, 300), noise=0.0)
    seen = data.test.inputs["texts"][data.test.masks["retrieval"], :, :-1].numpy()
    middle = seen[:, :1]  # documents of one query, seen without noise
    apart = np.linalg.norm(seen - middle, axis=-1).mean(0)
    assert apart[1] < 0.5 * apart[POSITIVES:].min()
