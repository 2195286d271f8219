"""Metrics of text tasks: answers in words, similarities, segmentations, rankings.

Rows that vary in length come as object arrays: strings, or one array per row.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polytask.errors import InputError
from polytask.tasks.metrics import Metric

# -- answers in words ------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """SQuAD's form of an answer: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def word_f1(reference: str, answer: str) -> float:
    """F1 of the two bags of words, normalised; two empty answers agree."""
    wanted, given = normalised(reference).split(), normalised(answer).split()
    if not wanted or not given:
        return float(wanted == given)
    shared = sum((Counter(wanted) & Counter(given)).values())
    return 2 * shared / (len(wanted) + len(given))


def _references(target: Any) -> list[str]:
    """One reference, or several: then the best counts."""
    return [target] if isinstance(target, str) else list(target)


def nf1(target: NDArray, answer: NDArray) -> float:
    """Mean over rows of the best word F1 among the row's references."""
    pairs = zip(target, answer, strict=True)
    return float(np.mean([max(word_f1(r, a) for r in _references(t)) for t, a in pairs]))


def exact_match(target: NDArray, answer: NDArray) -> float:
    """Share of rows whose normalised answer is one of the normalised references."""
    pairs = zip(target, answer, strict=True)
    return float(np.mean([normalised(a) in map(normalised, _references(t)) for t, a in pairs]))


def bleu(target: NDArray, answer: NDArray) -> float:
    """Corpus BLEU of sacrebleu over lower-cased text, 0 to 100; the first reference counts."""
    import sacrebleu

    references = [[_references(t)[0] for t in target]]
    return float(sacrebleu.corpus_bleu(list(answer), references, lowercase=True).score)


def rouge(target: NDArray, answer: NDArray) -> float:
    """Mean of the F values of ROUGE-1, ROUGE-2 and ROUGE-L, stemmed, 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = []
    for wanted, given in zip(target, answer, strict=True):
        found = [scorer.score(r, given) for r in _references(wanted)]
        rows.append(max(np.mean([s.fmeasure for s in f.values()]) for f in found))
    return float(np.mean(rows))


# -- similarity ------------------------------------------------------------------------------------


def _correlation(kind: Literal["spearmanr", "pearsonr"], a: NDArray, b: NDArray) -> float:
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        value = float(getattr(stats, kind)(a, b).statistic)
    return 0.0 if np.isnan(value) else value  # constant answers order nothing


def spearman(target: NDArray, prediction: NDArray) -> float:
    """Correlation of the ranks; 0 if all answers are equal."""
    return _correlation("spearmanr", target, prediction)


def pearson(target: NDArray, prediction: NDArray) -> float:
    """Linear correlation; 0 if all answers are equal."""
    return _correlation("pearsonr", target, prediction)


# -- spans -----------------------------------------------------------------------------------------


def span_f1(target: NDArray, span: NDArray) -> float:
    """Mean F1 of the tokens of two spans ``[N, 2]`` (first token, one past the last)."""
    shared = np.minimum(target[:, 1], span[:, 1]) - np.maximum(target[:, 0], span[:, 0])
    sizes = (target[:, 1] - target[:, 0]) + (span[:, 1] - span[:, 0])
    return float(np.mean(2 * shared.clip(min=0) / sizes.clip(min=1)))


def span_match(target: NDArray, span: NDArray) -> float:
    """Share of spans with both ends right."""
    return float(np.mean((target == span).all(axis=1)))


# -- segmentation ----------------------------------------------------------------------------------
# A document of n sentences is its n - 1 gaps: True where a section ends between two sentences.

Mode = Literal["per_document", "concatenated"]


def window(gaps: NDArray) -> int:
    """Half the mean length of a reference section, as (N - S) / 2S, rounded to even, at least 1."""
    sections = int(gaps.sum()) + 1
    return max(1, round((len(gaps) + 1 - sections) / (2 * sections)))


def pk(
    target: Sequence[NDArray],
    predicted: Sequence[NDArray],
    mode: Mode = "per_document",
    k: int | Literal["auto"] = "auto",
) -> float:
    """Beeferman's P_k: chance that two sentences k apart are wrongly joined or wrongly parted.

    Args:
        target, predicted: the gaps of each document, True where a section ends.
        mode: ``"per_document"`` averages over documents. ``"concatenated"`` joins all documents
            first, whose ends then count as boundaries that were found: a smaller, other number.
        k: window, or ``"auto"``: see ``window``, of each document, or of the whole.
    """
    return _windowed(target, predicted, mode, k, lambda r, p: (r > 0) != (p > 0))


def windowdiff(
    target: Sequence[NDArray],
    predicted: Sequence[NDArray],
    mode: Mode = "per_document",
    k: int | Literal["auto"] = "auto",
) -> float:
    """Share of windows of k gaps with another number of boundaries; arguments as of ``pk``."""
    return _windowed(target, predicted, mode, k, lambda r, p: r != p)


def _windowed(
    target: Sequence[NDArray],
    predicted: Sequence[NDArray],
    mode: Mode,
    k: int | Literal["auto"],
    wrong: Callable[[NDArray, NDArray], NDArray],
) -> float:
    pairs = [
        (np.asarray(t, bool), np.asarray(p, bool)) for t, p in zip(target, predicted, strict=True)
    ]
    if mode == "concatenated":
        pairs = [(_joined([t for t, _ in pairs]), _joined([p for _, p in pairs]))]
    elif mode != "per_document":
        raise InputError(f"mode is 'per_document' or 'concatenated', not {mode!r}")
    shares = []
    for reference, guess in pairs:
        if len(reference):
            size = min(window(reference) if k == "auto" else k, len(reference))
            counts = [
                np.convolve(gaps.astype(int), np.ones(size, int), "valid")
                for gaps in (reference, guess)
            ]
            shares.append(wrong(*counts).mean())
    return float(np.mean(shares)) if shares else float("nan")


def _joined(documents: Sequence[NDArray]) -> NDArray:
    """Gaps of all documents one after the other, a boundary between each two."""
    return np.concatenate([part for d in documents for part in (d, [True])])[:-1].astype(bool)


def boundary_f1(target: Sequence[NDArray], predicted: Sequence[NDArray]) -> float:
    """F1 of boundaries at exactly the right gap, counted over all documents."""
    wanted, given = (
        np.concatenate([np.asarray(g, bool) for g in gaps]) for gaps in (target, predicted)
    )
    total = int(wanted.sum() + given.sum())
    return 2 * int((wanted & given).sum()) / total if total else 1.0


# -- ranking ---------------------------------------------------------------------------------------


def ranking(name: str) -> Callable[[NDArray, NDArray], float]:
    """A measure of ir-measures (``"nDCG@10"``) over candidate lists.

    The function takes relevances and scores, one array per query; a query without a relevant
    candidate says nothing and is left out.
    """

    def compute(target: NDArray, scores: NDArray) -> float:
        import ir_measures

        qrels, run = {}, {}
        for query, (relevance, score) in enumerate(zip(target, scores, strict=True)):
            if (relevance > 0).any():
                ids = [f"{i:06d}" for i in range(len(relevance))]
                qrels[str(query)] = dict(zip(ids, map(int, relevance), strict=True))
                run[str(query)] = dict(zip(ids, map(float, score), strict=True))
        if not qrels:
            return float("nan")
        measure = ir_measures.parse_measure(name)
        return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])

    return compute


NF1 = Metric("nf1", True, nf1)
EXACT_MATCH = Metric("em", True, exact_match)
BLEU = Metric("bleu", True, bleu)
ROUGE = Metric("rouge", True, rouge)
SPEARMAN = Metric("spearman", True, spearman)
PEARSON = Metric("pearson", True, pearson)
SPAN_F1 = Metric("span_f1", True, span_f1)
SPAN_MATCH = Metric("span_em", True, span_match)
PK = Metric("pk", False, pk)
WINDOWDIFF = Metric("windowdiff", False, windowdiff)
BOUNDARY_F1 = Metric("boundary_f1", True, boundary_f1)
NDCG = Metric("ndcg@10", True, ranking("nDCG@10"))
MRR = Metric("mrr@10", True, ranking("RR@10"))
MAP = Metric("map", True, ranking("AP"))
RECALL = Metric("recall@10", True, ranking("R@10"))
