"""Answering: what every network that answers questions in words shares, whatever reads them.

Source: McCann et al., "The Natural Language Decathlon: Multitask Learning as Question Answering",
    2018. A task has no parameters: it is a question (``data.questions``). A network reads context
    and question, and a decoder says or copies the answer (``parts.pointer``).

    training   mean of -log(p + 1e-10) over the answer's tokens and its end
    classes    chances in proportion to p(words of the class and their end | question, context)
    scores     expected level under those chances
    spans      greedy words, then the place of the text that holds most of them in their order
    words      greedy
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polytask.data import Batch, Suite
from polytask.data.questions import (
    LABELS,
    PROMPTS,
    Question,
    Wording,
    check_questions,
    padded,
    told_lines,
    wording,
)
from polytask.data.texts import Reader
from polytask.errors import InputError
from polytask.parts.pointer import Memory, Mixture, PointerDecoder, greedy, negative_log_likelihood
from polytask.tasks import Generation, Span, Task
from polytask.training import MultiTaskModule, NeuralLearner

_ROWS = 2048  # answers whose likelihood is taken at once; changes nothing but memory


class Marks(NamedTuple):
    """Ids that stand for no word: the unknown one, an answer's beginning and its end."""

    unknown: int
    init: int
    eos: int


class AnsweringModule(MultiTaskModule):
    """Reads questions about contexts and answers them in words.

    A subclass sets ``decoder`` and implements ``read`` and ``embed``.

    Args:
        reader: of the ids that are read and answered; ``marks`` are those of no word.
        questions: how each task is asked.
        limit: tokens of a context, and of a question, that are read.
    """

    decoder: PointerDecoder
    no_graph = "it writes its answers word by word"

    def __init__(
        self,
        tasks: Sequence[Task],
        reader: Reader,
        marks: Marks,
        questions: Mapping[str, Question],
        limit: int,
    ) -> None:
        super().__init__(tasks)
        self.reader, self.marks = reader, marks
        self.questions, self.limit = dict(questions), limit
        self.heads = nn.ModuleDict()

    def read(self, context: Tensor, question: Tensor) -> Memory:
        """What the decoder sees of ids ``[B, l]`` and ``[B, m]``."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """Answer tokens ``[B, T]`` as the decoder reads them ``[B, T, d]``."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Per task the mean over the tokens of its labelled rows.

        Parts of a batch (micro-batches, processes) are weighed by their rows, as everywhere.
        """
        losses = {}
        for name, target in batch.targets.items():
            rows = batch.masks[name]
            asked = self.questions[name]
            if isinstance(asked.task.kind, Span):
                rows = rows & (target[:, 0] >= 0)  # the others were cut off with the text's end
            if not bool(rows.any()):
                losses[name] = 0.0 * next(self.parameters()).sum()
                continue
            inputs = {column: batch.inputs[column][rows] for column in asked.task.texts}
            memory = self.read(*asked.cast(inputs, self.limit))
            answers = asked.answers(inputs, target[rows])
            mixture, wanted = self.forced(memory, answers)
            loss = negative_log_likelihood(mixture, wanted, self.marks.unknown)
            mean = loss.sum() / (wanted >= 0).sum().clamp(min=1)
            losses[name] = mean * self.weights.get(name, 1.0)
        return losses

    def outputs(self, inputs: dict[str, Tensor], tasks: Iterable[str]) -> dict[str, Any]:
        """What the kinds decode: outputs as of a head, and of free answers the ids ``[B, T]``."""
        found: dict[str, Any] = {}
        for name in tasks:
            asked = self.questions[name]
            memory = self.read(*asked.cast(inputs, self.limit))
            kind = asked.task.kind
            if asked.choices is not None:
                found[name] = asked.output(self.likelihoods(memory, asked.choices))
            else:
                assert isinstance(kind, Span | Generation)
                answer = self.generate(memory, kind.tokens)
                text = inputs[asked.task.texts[-1]]
                found[name] = pointed(answer, text) if isinstance(kind, Span) else answer
        return found

    def decode(self, task: str, output: Any) -> NDArray:
        kind = self.tasks[task].kind
        if not isinstance(kind, Generation):
            return super().decode(task, output)
        return kind.decode([self.reader.text(row[row >= 0]) for row in output.cpu().numpy()])

    def forced(self, memory: Memory, answers: Tensor) -> tuple[Mixture, Tensor]:
        """The mixture after every token of given answers ``[B, T]``, and what should come next."""
        rows, length = answers.shape
        first = torch.full((rows, 1), self.marks.init, device=answers.device)
        ends = (answers >= 0).sum(1, keepdim=True)
        places = torch.arange(length + 1, device=answers.device)
        wanted = torch.cat([answers, torch.full_like(first, -1)], dim=1)
        wanted = wanted.masked_fill(places == ends, self.marks.eos)
        mixture, _ = self.decoder(self.embed(torch.cat([first, answers], dim=1)), memory)
        return mixture, wanted

    def likelihoods(self, memory: Memory, choices: Tensor) -> Tensor:
        """Logarithms ``[B, C]`` of p of each of C answers ``[C, La]`` with their ends, by row."""
        rows = len(memory.context)
        found = []
        for part in choices.to(memory.context.device).split(max(1, _ROWS // rows)):
            answers = part.repeat(rows, 1)
            mixture, wanted = self.forced(memory.repeat(len(part)), answers)
            loss = negative_log_likelihood(mixture, wanted, self.marks.unknown)
            found.append(-loss.sum(1).view(rows, len(part)))
        return torch.cat(found, dim=1)

    def generate(self, memory: Memory, tokens: int) -> Tensor:
        """Greedy answers of at most so many tokens: ids ``[B, T]``, -1 from their end on.

        Nothing is computed twice: what was read and each layer's keys and values are kept.
        """
        rows = len(memory.context)
        token = torch.full((rows,), self.marks.init, device=memory.context.device)
        ended = torch.zeros_like(token, dtype=torch.bool)
        state, found = None, []
        for _ in range(tokens):
            mixture, state = self.decoder(self.embed(token.unsqueeze(1)), memory, state)
            token = greedy(mixture, never=(self.marks.unknown, self.marks.init))
            ended = ended | (token == self.marks.eos)
            found.append(token.masked_fill(ended, -1))
            if bool(ended.all()):
                break
        return torch.stack(found, dim=1)


def pointed(answer: Tensor, text: Tensor) -> Tensor:
    """Scores ``[B, L, 2]`` of a text's tokens to be first and last of a generated answer.

    The place is where most of the answer's tokens stand in their order; the first of such places.
    """
    length = (answer >= 0).sum(1).clamp(min=1)
    beyond = text.new_full((len(text), answer.shape[1]), -2)
    windows = torch.cat([text, beyond], dim=1).unfold(1, answer.shape[1], 1)[:, : text.shape[1]]
    same = (windows == answer.unsqueeze(1)) & (answer >= 0).unsqueeze(1)
    first = same.sum(2).argmax(1)
    last = torch.minimum(first + length, (text >= 0).sum(1)).clamp(min=1) - 1
    scores = torch.zeros(*text.shape, 2, device=text.device)
    scores.scatter_(1, torch.stack([first, last.clamp(min=0)], dim=1).unsqueeze(1), 1.0)
    return scores.masked_fill((text < 0).unsqueeze(2), -torch.inf)


@dataclass
class AnsweringLearner(NeuralLearner):
    """A learner of any text suite whose tasks can be asked in words; it can be asked others too.

    Attributes:
        prompts: how tasks are asked: a mapping, or lines ``"task: prompt"``; by default those in
            ``data.questions.PROMPTS`` when the learner is made. Other tasks are asked as their
            kind is.
        labels: what classes are called: a mapping of mappings, or lines
            ``"task: class=words; class=words"``; by default ``data.questions.LABELS``.
    """

    prompts: tuple[str, ...] = field(default_factory=lambda: told_lines(PROMPTS))
    labels: tuple[str, ...] = field(default_factory=lambda: told_lines(LABELS))

    reads: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        self.prompts, self.labels = told_lines(self.prompts), told_lines(self.labels)

    def validate(self, suite: Suite) -> None:
        super().validate(suite)
        check_questions(suite, self._wording)

    def questions(self, tasks: Sequence[Task], reader: Any) -> dict[str, Question]:
        """How fitted tasks are asked, in a reader's ids."""
        told = self._wording
        return {task.name: Question.of(task, reader, told) for task in tasks}

    def constants(self, suite: Suite) -> Iterator[str]:
        """All words of prompts and answers to choose from."""
        told = self._wording
        for task in suite.tasks:
            kind = task.kind.fitted(suite.labels(task, "train"))
            yield from told.constants(Task(task.name, kind, task.target, task.where, task.texts))

    def told(self, suite: Suite) -> Iterator[str]:
        """The training rows' texts, and their answers in words."""
        rows = suite.splits["train"].data
        for name in suite.texts:
            yield from _strings(rows.column(name))
        for task in suite.tasks:
            if isinstance(task.kind, Generation):
                yield from _strings(suite.labels(task, "train"))

    def ask(self, question: str, context: str = "", tokens: int = 50) -> str:
        """The answer to any question about any context, in words."""
        module, memory = self._reading(question, context)
        with torch.inference_mode():
            ids = module.generate(memory, tokens)[0]
        return self._reader.text(ids[ids >= 0].cpu().numpy())

    def choose(
        self, question: str, context: str = "", answers: Sequence[str] = ("yes", "no")
    ) -> dict[str, float]:
        """The chance of each of some answers, which need not have been seen in training."""
        if len(answers) < 2:
            raise InputError(f"choose() needs two or more answers, not {len(answers)}")
        module, memory = self._reading(question, context)
        with torch.inference_mode():
            found = module.likelihoods(memory, padded(self._reader.ids(list(answers))))
        return dict(zip(answers, found[0].double().softmax(0).tolist(), strict=True))

    def rephrase(
        self, task: str, prompt: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Self:
        """The same fitted model, asked about one task in other words, its classes called anew."""
        processor = self._fitted()
        known = processor.task(task)
        told = self._wording
        prompts = {**told.prompts, **({task: prompt} if prompt else {})}
        called = {**told.labels, **({task: labels} if labels else {})}
        other = copy.copy(self)
        other.prompts, other.labels = told_lines(prompts), told_lines(called)
        module: Any = copy.copy(self.module_)
        asked = Question.of(known, self._reader, Wording(prompts, called))
        module.questions = {**module.questions, task: asked}
        other.module_ = module
        return other

    @property
    def _wording(self) -> Wording:
        return wording(self.prompts, self.labels)

    @property
    def _reader(self) -> Any:
        return self._fitted().reader

    def _reading(self, question: str, context: str) -> tuple[AnsweringModule, Memory]:
        reader, module = self._reader, self.module_
        assert isinstance(module, AnsweringModule)
        if not question.strip():
            raise InputError("the question is empty")
        module.eval()
        device = next(module.parameters()).device
        ids = [padded(reader.ids([text]))[:, : module.limit] for text in (context, question)]
        with torch.inference_mode():
            return module, module.read(*(tensor.to(device) for tensor in ids))


def _strings(column: pa.ChunkedArray) -> Iterator[str]:
    """All texts of a column, of single texts or of lists."""
    for cell in column.drop_null().to_pylist():
        yield from [cell] if isinstance(cell, str) else cell
