"""Two views of one latent: graded similarity and retrieval that want different geometries.

A latent z in R^16 of norm 4 is seen as a sentence, a query or a document: ``x = tanh(z M) + noise``
in R^96, plus one number that says whether it is a query (1) or not (0).

- Similarity: two sentences (M = A); gold is the cosine of D z and D z' with D = diag(2.5 four
  times, 0.5 twelve times), clipped at 0 and rounded to fifths. Four directions decide nearly all.
- Retrieval: a query (M = B) and documents (M = A + B/2) of latents near its own: two positives
  (0.25 of noise per direction) and four hard negatives (1.2). All sixteen directions count alike.

So an encoder that is best for one task has thrown away what the other needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from polytask.data.batch import Batch

LATENT, SEEN, NORM = 16, 96, 4.0
POSITIVES, NEGATIVES = 2, 4
_D = np.array([2.5] * 4 + [0.5] * 12)


@dataclass(frozen=True)
class TwoViews:
    """Encoded rows of both tasks, one above the other; a row has a label for one of them.

    Inputs are ``text`` and ``text_pair`` ``[N, 97]`` and ``texts`` ``[N, 6, 97]``; targets are
    ``similarity`` ``[N]`` in 0..1 and ``retrieval`` ``[N, 6]`` relevances.
    """

    train: Batch
    validation: Batch
    test: Batch


def two_views(
    rows: tuple[int, int, int] = (4000, 500, 1000), noise: float = 0.25, seed: int = 0
) -> TwoViews:
    """So many rows per task and split; another seed is another world (A and B), too."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1 / np.sqrt(LATENT), (2, LATENT, SEEN))
    return TwoViews(*(_split(rng, n, a, b, noise) for n in rows))


def _split(rng: np.random.Generator, n: int, a: NDArray, b: NDArray, noise: float) -> Batch:
    def seen(z: NDArray, view: NDArray, is_query: float) -> NDArray[np.float32]:
        x = np.tanh(z @ view) + noise * rng.normal(size=(*z.shape[:-1], SEEN))
        role = np.full((*z.shape[:-1], 1), is_query)
        return np.concatenate([x, role], axis=-1, dtype=np.float32)

    first, second, asked = (_on_sphere(rng.normal(size=(n, LATENT))) for _ in range(3))
    # Partners of every likeness, not of chance alone, where nearly all would be strangers.
    share = rng.uniform(0, 1, (n, 1))
    second = _on_sphere(share * first + (1 - share) * second)
    spread = np.array([0.25] * POSITIVES + [1.2] * NEGATIVES)[:, None]
    found = asked[:, None] + spread * rng.normal(size=(n, len(spread), LATENT))
    cosine = _cosine(first * _D, second * _D).clip(0)
    relevance = np.tile([1.0] * POSITIVES + [0.0] * NEGATIVES, (n, 1))
    empty = np.zeros((n, SEEN + 1), np.float32)
    inputs = {
        "text": np.concatenate([seen(first, a, 0.0), seen(asked, b, 1.0)]),
        "text_pair": np.concatenate([seen(second, a, 0.0), empty]),
        "texts": np.concatenate(
            [np.repeat(empty[:, None], len(spread), 1), seen(_on_sphere(found), a + b / 2, 0.0)]
        ),
    }
    nothing = np.full_like(relevance, np.nan)
    targets = {
        "similarity": np.concatenate([np.round(cosine * 5) / 5, np.zeros(n)]),
        "retrieval": np.concatenate([nothing, relevance]),
    }
    is_pair = torch.arange(2 * n) < n
    return Batch(
        {name: torch.from_numpy(x) for name, x in inputs.items()},
        {name: torch.from_numpy(y.astype(np.float32)) for name, y in targets.items()},
        {"similarity": is_pair, "retrieval": ~is_pair},
    )


def _on_sphere(z: NDArray) -> NDArray:
    return NORM * z / np.linalg.norm(z, axis=-1, keepdims=True)


def _cosine(x: NDArray, y: NDArray) -> NDArray:
    size = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return (x * y).sum(-1) / size
