"""Text columns: strings at rest, padded token ids when rows are drawn; and what reads them.

A drawn column is int64 ``[B, L]`` (``[B, S, L]`` where a row has several texts), ids without
special tokens, -1 past the end. A row without text is all -1.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.errors import InputError
from polytask.tasks.text import objects

_AT_ONCE = 4096  # texts per call of a tokenizer
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Reader(Protocol):
    """Turns texts into token ids and back; it travels with the weights.

    Attributes:
        limit: tokens of one text that the network can read; the rest is cut.
        tokens: how many different ones there are.
    """

    limit: int

    @property
    def tokens(self) -> int: ...

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each whole text, without special tokens."""
        ...

    def offsets(self, text: str) -> NDArray[np.int64]:
        """First character of each token and one past its last, ``[L, 2]``."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text that tokens spell."""
        ...

    def to_dict(self) -> dict[str, Any]: ...

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self: ...


# -- columns ---------------------------------------------------------------------------------------


class Ragged:
    """Rows of numbers that vary in length; drawing rows pads them with ``blank``."""

    def __init__(self, rows: Sequence[NDArray], blank: float) -> None:
        self.blank = blank
        self._starts, self._sizes, self._flat = _packed(rows)

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Numbers per row."""
        return self._sizes

    def take(self, rows: Tensor) -> Self:
        """The same column with some of its rows."""
        part = copy.copy(self)
        part._starts, part._sizes = self._starts[rows.numpy()], self._sizes[rows.numpy()]
        return part

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        at = rows if isinstance(rows, slice) else rows.numpy()
        return torch.from_numpy(_padded(self._flat, self._starts[at], self._sizes[at], self.blank))

    def numpy(self) -> NDArray[np.object_]:
        """One array a row."""
        pairs = zip(self._starts, self._sizes, strict=True)
        return objects([self._flat[start : start + size] for start, size in pairs])


class Texts:
    """A column of texts, or of several texts a row.

    Args:
        name: of the column, for errors.
        strings: a text or None per row; with ``several`` a list of texts or None.
        reader: None where nobody asks for tokens.
        several: whether a row has a list of texts.
    """

    def __init__(
        self,
        name: str,
        strings: Sequence[Any],
        reader: Reader | None,
        several: bool = False,
    ) -> None:
        self.name, self.reader, self.several = name, reader, several
        self.strings = objects(strings)
        self._rows = np.arange(len(self.strings))
        if reader is not None:
            self._read(reader)

    def _read(self, reader: Reader) -> None:
        lists = [row or () if self.several else (row,) for row in self.strings]
        flat = ["" if text is None else text for row in lists for text in row]
        distinct = list(dict.fromkeys(flat))
        place = {text: i for i, text in enumerate(distinct)}
        ids: list[NDArray] = []
        for start in range(0, len(distinct), _AT_ONCE):
            ids += reader.ids(distinct[start : start + _AT_ONCE])
        self._whole = np.array([len(row) for row in ids], np.int64)
        starts, sizes, self._flat = _packed([row[: reader.limit] for row in ids])
        which = np.array([place[text] for text in flat], np.int64)
        self._text_starts, self._text_sizes, self._text = starts, sizes, which
        counts = np.array([len(row) for row in lists], np.int64)
        self._first, self._count = np.cumsum(counts) - counts, counts

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self),)

    def take(self, rows: Tensor) -> Texts:
        """The same column with some of its rows."""
        part = copy.copy(self)
        picked = rows.numpy()
        part._rows, part.strings = self._rows[picked], self.strings[picked]
        return part

    def _of(self, rows: NDArray) -> NDArray[np.int64]:
        """Places of all texts of some rows, one row after the other."""
        counts, first = self._count[rows], self._first[rows]
        before = np.repeat(np.cumsum(counts) - counts, counts)
        return self._text[np.arange(int(counts.sum())) - before + np.repeat(first, counts)]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row, of all its texts."""
        return self._summed(self._text_sizes)

    @property
    def cut(self) -> NDArray[np.int64]:
        """Tokens per row beyond the reader's limit."""
        return self._summed(self._whole - self._text_sizes)

    def _summed(self, per_text: NDArray) -> NDArray[np.int64]:
        counts = self._count[self._rows]
        row = np.repeat(np.arange(len(self)), counts)
        values = per_text[self._of(self._rows)]
        return np.bincount(row, values, minlength=len(self)).astype(np.int64)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        if self.reader is None:
            raise InputError(
                f"column {self.name!r} holds text, and nothing here turns it to tokens"
            )
        picked = self._rows[rows if isinstance(rows, slice) else rows.numpy()]
        texts = self._of(picked)
        ids = _padded(self._flat, self._text_starts[texts], self._text_sizes[texts], -1)
        if not self.several:
            return torch.from_numpy(ids)
        counts = self._count[picked]
        inside = np.arange(max(1, counts.max(initial=1))) < counts[:, None]
        out = np.full((*inside.shape, ids.shape[1]), -1, np.int64)
        out[inside] = ids
        return torch.from_numpy(out)

    def numpy(self) -> NDArray[np.object_]:
        """The strings."""
        return self.strings


def _packed(rows: Sequence[NDArray]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray]:
    """(start of each row, its length, all rows one after the other)."""
    sizes = np.array([len(row) for row in rows], np.int64)
    flat = np.concatenate(rows) if len(rows) else np.empty(0, np.int64)
    return np.cumsum(sizes) - sizes, sizes, flat


def _padded(flat: NDArray, starts: NDArray, sizes: NDArray, blank: float) -> NDArray:
    """Rows of a flat array side by side ``[n, longest]``, at least one wide."""
    places = np.arange(max(1, int(sizes.max(initial=1))))
    inside = places < sizes[:, None]
    kind = np.int64 if flat.dtype.kind == "i" else flat.dtype
    out = np.full(inside.shape, blank, kind)
    out[inside] = flat[(starts[:, None] + places)[inside]]
    return out


# -- readers ---------------------------------------------------------------------------------------


class Template(NamedTuple):
    """Special tokens around one text, or between two: ids, and the type of each stretch."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


class Subwords:
    """The tokenizer of a transformers model.

    Args:
        tokenizer: a fast tokenizer of transformers.
        longest: tokens of a sequence with its special ones.

    Attributes:
        single, pair: special tokens around a text, and around and between two.
        pad: id that fills a batch; attention never sees it.
    """

    def __init__(self, tokenizer: Any, longest: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"tokenizer {type(tokenizer).__name__} is not one of the fast ones")
        self.tokenizer, self.longest = tokenizer, longest
        self.single, self.pair = self._template("a"), self._template("a", "b")
        self.pad = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.limit = longest - self.single.size
        if self.limit < 1:
            raise InputError(f"max_length={longest} leaves no room for text beside special tokens")

    @property
    def tokens(self) -> int:
        return len(self.tokenizer)

    def _template(self, *texts: str) -> Template:
        found = self.tokenizer(*texts)
        whose, ids = found.sequence_ids(), found["input_ids"]
        types = found.get("token_type_ids") or [0] * len(ids)
        parts: tuple[list[int], ...] = ([], [], [])
        seen = 0
        for owner, token in zip(whose, ids, strict=True):
            if owner is None:
                parts[seen if len(texts) == 2 or seen == 0 else 2].append(token)
            else:
                seen = owner + 1
        kinds = [types[whose.index(i)] for i in range(len(texts))]
        before, between, after = map(tuple, parts)
        return Template(before, between, after, tuple(kinds))

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        found = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)
        return [np.array(row, np.int32) for row in found["input_ids"]]

    def offsets(self, text: str) -> NDArray[np.int64]:
        found = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return np.array(found["offset_mapping"], np.int64).reshape(-1, 2)

    def text(self, ids: Sequence[int]) -> str:
        kept = [int(i) for i in ids if i >= 0]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()

    def to_dict(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer.save_pretrained(folder)
            files = {p.name: p.read_text("utf-8") for p in sorted(Path(folder).iterdir())}
        return {"reader": "subwords", "longest": self.longest, "files": files}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in data["files"].items():
                # A name is one of ours: nothing is written outside the folder.
                (Path(folder) / Path(name).name).write_text(content, "utf-8")
            return cls.from_folder(folder, data["longest"])

    @classmethod
    def from_folder(cls, name: str, longest: int) -> Self:
        """The tokenizer in a folder, or of a hub name; no code that comes with it is run."""
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(name, trust_remote_code=False), longest)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise InputError(f"no tokenizer can be read from {name!r}: {reason}") from None

    @classmethod
    def learned(cls, texts: Iterable[str], longest: int, vocabulary: int = 8000) -> Self:
        """A WordPiece tokenizer (Wu et al., arXiv 1609.08144), lower-cased, of these texts."""
        from tokenizers import BertWordPieceTokenizer
        from transformers import BertTokenizer

        trained = BertWordPieceTokenizer(lowercase=True)
        heard = list(texts)
        signs = {sign for text in heard for sign in trained.normalize(text) if not sign.isspace()}
        # Ties between merges go by the numbers of their parts. Told beforehand, these do not depend
        # on the order of a hash table, and equal texts make equal tokenizers.
        parts = [*_SPECIALS, *(f"##{sign}" for sign in sorted(signs))]
        trained.train_from_iterator(
            heard, vocabulary, min_frequency=1, special_tokens=parts, show_progress=False
        )
        whole = BertWordPieceTokenizer(trained.get_vocab(), lowercase=True)
        return cls(BertTokenizer(tokenizer_object=whole._tokenizer), longest)


def reader_from_dict(data: dict[str, Any] | None) -> Reader | None:
    """The reader that ``to_dict`` wrote."""
    if data is None:
        return None
    if data["reader"] == "words":
        from polytask.data.words import Words

        return Words.from_dict(data)
    return Subwords.from_dict(data)
