"""Signals: recordings of several channels, cut into windows with labels.

    nights = [read_recording(path, ["flow", "chest", "pulse"]) for path in paths]
    stages = Scored({"Sleep stage W": "wake", "Sleep stage 1": "light", ...})
    suite = windows(nights, seconds=30, samples=1920, labels={"stage": stages}).suite()

Channels may have been measured at different rates; every window of every channel is resampled to
the same number of samples.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from polytask.data.files import read_table
from polytask.data.suite import Suite
from polytask.errors import InputError, nearest

Resampling = Literal["linear", "fourier"]


class Annotation(NamedTuple):
    """A remark about a stretch of a recording; ``seconds`` is 0 where no duration is given."""

    start: float
    seconds: float
    text: str


@dataclass(frozen=True)
class Channel:
    """Samples ``[L]`` at ``rate`` Hz; what is not finite is a gap."""

    values: NDArray
    rate: float

    @property
    def seconds(self) -> float:
        return len(self.values) / self.rate


@dataclass(frozen=True)
class Recording:
    """What was measured of one subject in one go.

    Attributes:
        channels: name -> channel, in the order in which a model will see them.
        subject: whose it is; windows of one subject stay in one split.
        labels: task -> one label per window, in order (None where there is none).
        annotations: remarks from which ``Scored`` makes labels.
    """

    channels: Mapping[str, Channel]
    subject: str = "1"
    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    annotations: Sequence[Annotation] = ()

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, ArrayLike], rate: float, subject: str = "1", **other: Any
    ) -> Recording:
        """From arrays ``[L]`` by channel, all at one rate."""
        if not arrays:
            raise InputError(f"the recording of {subject!r} has no channel")
        if not 0 < rate < np.inf:
            raise InputError(f"the rate of {subject!r} is {rate} Hz; it must be positive")
        channels = {}
        for name, values in arrays.items():
            array = np.asarray(values)
            if array.ndim != 1 or array.dtype.kind not in "fiu":
                raise InputError(
                    f"channel {name!r} of {subject!r} is not one line of numbers: it has shape "
                    f"{array.shape} and type {array.dtype}"
                )
            channels[name] = Channel(array.astype(np.float64), float(rate))
        return cls(channels, subject, **other)

    @property
    def seconds(self) -> float:
        """Length of the shortest channel."""
        return min(channel.seconds for channel in self.channels.values())


# -- files -----------------------------------------------------------------------------------------


def read_recording(
    path: str | os.PathLike[str],
    channels: Sequence[str] | Mapping[str, str] = (),
    *,
    rate: float | None = None,
    subject: str | None = None,
) -> Recording:
    """A recording from a file: EDF or EDF+, npz, or a table (Arrow, Parquet, CSV).

    In an npz every array ``[L]`` is a channel and a number ``rate`` says the rate; in a table every
    column is a channel. An EDF says its own rates, and EDF+ brings annotations.

    Args:
        channels: which ones, in which order; a mapping gives new names (new -> in the file). All,
            if none are named.
        rate: at which the channels were measured (Hz). A file that says otherwise is refused;
            one that says nothing needs it.
        subject: the file's name without its suffix, unless given.

    Raises:
        InputError: no such file or channel, not such a file, another rate.
    """
    path = Path(path)
    subject = subject or path.stem
    if not path.is_file():
        raise InputError(f"file {str(path)!r} does not exist")
    if path.suffix.lower() in (".edf", ".bdf"):
        found, annotations = _read_edf(path, channels)
        for name, channel in found.items():
            if rate is not None and not np.isclose(channel.rate, rate):
                raise InputError(
                    f"channel {name!r} of {path.name} was measured at {channel.rate:g} Hz, not at "
                    f"{rate:g}"
                )
        return Recording(found, subject, annotations=annotations)
    arrays, told = _read_npz(path) if path.suffix.lower() == ".npz" else _read_columns(path)
    if told is not None and rate is not None and not np.isclose(told, rate):
        raise InputError(f"{path.name} was measured at {told:g} Hz, not at {rate:g}")
    known = told if told is not None else rate
    if known is None:
        raise InputError(f"{path.name} does not say at which rate it was measured; give rate=...")
    names = _wanted(channels, list(arrays), path)
    return Recording.of_arrays({new: arrays[old] for new, old in names.items()}, known, subject)


def read_annotations(path: str | os.PathLike[str]) -> tuple[Annotation, ...]:
    """The annotations of an EDF+ file, for recordings whose scoring comes in a file of its own."""
    with _edf(Path(path)) as file:
        return _annotations(file)


def _wanted(
    channels: Sequence[str] | Mapping[str, str], known: list[str], path: Path
) -> dict[str, str]:
    """New name -> name in the file."""
    if isinstance(channels, str):
        channels = [channels]
    names = dict(channels) if isinstance(channels, Mapping) else {c: c for c in channels or known}
    for name in names.values():
        if name not in known:
            raise InputError(f"channel {name!r} is not in {path.name}{nearest(name, known)}")
        if known.count(name) > 1:
            raise InputError(f"channel {name!r} occurs {known.count(name)} times in {path.name}")
    return names


def _edf(path: Path) -> Any:
    try:
        from pyedflib import EdfReader
    except ImportError:
        raise InputError("EDF files need pyedflib: install polytask[signals]") from None
    try:
        return EdfReader(str(path))
    except OSError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path.name} cannot be read as EDF: {reason}") from None


def _read_edf(
    path: Path, channels: Sequence[str] | Mapping[str, str]
) -> tuple[dict[str, Channel], tuple[Annotation, ...]]:
    with _edf(path) as file:
        labels = [label.strip() for label in file.getSignalLabels()]
        found = {}
        for new, old in _wanted(channels, labels, path).items():
            number = labels.index(old)
            values = file.readSignal(number)
            found[new] = Channel(values, float(file.getSampleFrequency(number)))
        return found, _annotations(file)


def _annotations(file: Any) -> tuple[Annotation, ...]:
    starts, lengths, texts = file.readAnnotations()
    return tuple(
        Annotation(float(start), max(0.0, float(length)), str(text).strip())
        for start, length, text in zip(starts, lengths, texts, strict=True)
    )


def _read_npz(path: Path) -> tuple[dict[str, NDArray], float | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read as npz: {error}") from None
    rate = arrays.pop("rate", None)
    return arrays, None if rate is None else float(rate)


def _read_columns(path: Path) -> tuple[dict[str, NDArray], None]:
    table = read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}, None


# -- windows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """Labels of windows from annotations: the class that covers most of the window.

    Attributes:
        classes: text of an annotation -> class. Several texts may mean one class.
        least: seconds that a class must cover of a window; half the window if None.
        otherwise: class of windows in which none does; None leaves them without a label.
    """

    classes: Mapping[str, str]
    least: float | None = None
    otherwise: str | None = None

    def labels(
        self, annotations: Sequence[Annotation], count: int, seconds: float
    ) -> list[str | None]:
        """One label for each of ``count`` windows of so many seconds."""
        names = sorted(set(self.classes.values()))
        covered = np.zeros((count, len(names)))
        edges = np.arange(count) * seconds
        for start, length, text in annotations:
            if text in self.classes:
                inside = np.minimum(edges + seconds, start + length) - np.maximum(edges, start)
                covered[:, names.index(self.classes[text])] += inside.clip(min=0)
        least = seconds / 2 if self.least is None else self.least
        return [
            names[row.argmax()] if row.max() > 0 and row.max() >= least else self.otherwise
            for row in covered
        ]


@dataclass(frozen=True)
class Windows:
    """Windows of equal length with their labels.

    Attributes:
        signal: float32 ``[N, samples, C]``.
        channels: names of the C channels.
        seconds: length of a window.
        subject, start: whose window each is, and where in the recording it starts (s).
        labels: task -> N labels, None where there is none.
        notes: what was left out or filled in.
    """

    signal: NDArray[np.float32]
    channels: tuple[str, ...]
    seconds: float
    subject: NDArray[np.str_]
    start: NDArray[np.float64]
    labels: Mapping[str, Sequence[Any]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.signal)

    @cached_property
    def table(self) -> pa.Table:
        """The columns ``signal``, ``subject``, ``start`` and one per task."""
        columns = {"signal": self.signal, "subject": self.subject, "start": self.start}
        return read_table({**columns, **{t: pa.array(v) for t, v in self.labels.items()}})

    def suite(self, targets: Any = None, **options: Any) -> Suite:
        """A suite whose only input is the signal; whole subjects go to one split by default.

        Args:
            targets: as in ``Suite.from_table``; classifications of all labels by default.
            options: more of ``Suite.from_table``, such as ``name`` or ``split``.
        """
        options = {"name": "windows", "split": "group:subject", **options}
        options["notes"] = [*self.notes, *options.get("notes", ())]
        aside = {"start": "where in the recording the window is", "subject": "whose window it is"}
        if targets is None:
            targets = dict.fromkeys(self.labels, "classification")
        asked = {targets} if isinstance(targets, str) else set(targets)
        aside |= {task: "another question" for task in self.labels if task not in asked}
        return Suite.from_table(self.table, targets, exclude=aside, **options)


def windows(
    recordings: Sequence[Recording],
    *,
    seconds: float = 30.0,
    samples: int = 1920,
    method: Resampling = "linear",
    labels: Mapping[str, Scored] | None = None,
    fill: float = 0.0,
    standardise: bool = True,
) -> Windows:
    """Cut recordings into windows that follow each other; the rest at the end is left out.

    Args:
        recordings: with the same channels in the same order.
        seconds, samples: length of a window, and to how many samples it is brought (1920 in 30 s
            are 64 Hz).
        method: ``"linear"`` interpolation, which lets frequencies above half the new rate through
            as lower ones, or ``"fourier"``, which cuts them off and takes a window for periodic.
        labels: task -> how its labels follow from annotations, beside the recordings' own.
        fill: gaps (NaN) of up to so many seconds are bridged by a straight line; longer ones are
            refused.
        standardise: bring each channel of each recording to mean 0 and deviation 1, so that
            channels of unlike units go together. A model that scales each window sees no
            difference; one that must know absolute amplitudes wants False.

    Raises:
        InputError: recordings without a whole window or of other channels, a gap, a number of
            labels that does not go with the number of windows.
    """
    if not recordings:
        raise InputError("there are no recordings to cut into windows")
    if method not in get_args(Resampling):
        raise InputError(f"method is {method!r}{nearest(method, get_args(Resampling))}")
    if samples < 1 or seconds <= 0:
        raise InputError(f"a window cannot have {samples} samples in {seconds:g} s")
    names = tuple(recordings[0].channels)
    tasks = list(dict.fromkeys([*(labels or {}), *(t for r in recordings for t in r.labels)]))
    signals, subjects, starts = [], [], []
    rests, gaps = {}, {}
    told: dict[str, list[Any]] = {task: [] for task in tasks}
    for recording in recordings:
        count = _count(recording, names, seconds)
        rest = recording.seconds - count * seconds
        if rest > 1e-6:
            rests[f"{recording.subject!r}"] = f"{rest:.3g} s"
        signal = np.empty((count, samples, len(names)), np.float32)
        for i, (name, channel) in enumerate(recording.channels.items()):
            channel, bridged = _bridged(channel, fill, f"channel {name!r} of {recording.subject!r}")
            if bridged:
                gaps[f"{name!r} of {recording.subject!r}"] = str(bridged)
            cut = _cut(channel, count, seconds, samples, method)
            if standardise:
                cut = (cut - cut.mean()) / (cut.std() or 1.0)
            signal[:, :, i] = cut
        signals.append(signal)
        subjects += [recording.subject] * count
        starts.append(np.arange(count) * seconds)
        for task, found in _labels(recording, labels or {}, tasks, count, seconds).items():
            told[task] += found
    notes = [
        *_told("what is no whole window at the end of a recording is left out", rests),
        *_told(f"gaps of up to {fill:g} s are bridged", gaps),
        *_unused(recordings, labels or {}),
    ]
    return Windows(
        np.concatenate(signals),
        names,
        seconds,
        np.array(subjects),
        np.concatenate(starts),
        told,
        tuple(notes),
    )


def _count(recording: Recording, names: tuple[str, ...], seconds: float) -> int:
    """Whole windows in a recording with these channels; InputError if there is none."""
    whose = f"recording of {recording.subject!r}"
    if tuple(recording.channels) != names:
        raise InputError(
            f"{whose} has the channels {', '.join(recording.channels)}, not {', '.join(names)}"
        )
    count = int(recording.seconds / seconds + 1e-9)
    if count == 0:
        raise InputError(
            f"{whose} lasts {recording.seconds:g} s, which is less than a window of {seconds:g} s"
        )
    return count


def _told(what: str, counts: Mapping[str, str]) -> list[str]:
    """One note for all recordings that something was done to."""
    shown = ", ".join(f"{who} {count}" for who, count in list(counts.items())[:5])
    rest = f", and {len(counts) - 5} more" if len(counts) > 5 else ""
    return [f"{what}: {shown}{rest}"] if counts else []


def _cut(
    channel: Channel, count: int, seconds: float, samples: int, method: Resampling
) -> NDArray[np.float64]:
    """Windows ``[count, samples]`` of one channel."""
    if method == "linear":
        times = np.arange(count * samples) * (seconds / samples)
        at = np.arange(len(channel.values)) / channel.rate
        return np.interp(times, at, channel.values).reshape(count, samples)
    from scipy.signal import resample

    width = round(seconds * channel.rate)
    first = np.rint(np.arange(count) * seconds * channel.rate).astype(int)
    padded = np.append(channel.values, channel.values[-1])  # rounding may ask for one more
    return resample(padded[first[:, None] + np.arange(width)], samples, axis=1)


def _bridged(channel: Channel, fill: float, whose: str) -> tuple[Channel, int]:
    """The channel without its short gaps, and their number."""
    gap = ~np.isfinite(channel.values)
    if not gap.any():
        return channel, 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], gap, [False]]).astype(int)))
    stretches = edges.reshape(-1, 2) / channel.rate
    for start, end in stretches:
        if end - start > fill + 1e-9 or gap.all():
            raise InputError(
                f"{whose} has no number from {start:g} s to {end:g} s; mend or cut the recording, "
                f"or set fill to {end - start:g} s to bridge such gaps"
            )
    at = np.arange(len(gap))
    values = channel.values.copy()
    values[gap] = np.interp(at[gap], at[~gap], channel.values[~gap])
    return Channel(values, channel.rate), len(stretches)


def _labels(
    recording: Recording,
    scored: Mapping[str, Scored],
    tasks: Sequence[str],
    count: int,
    seconds: float,
) -> dict[str, list[Any]]:
    """``count`` labels of each task; a label of the rest at the end is let go."""
    found: dict[str, list[Any]] = {}
    for task in tasks:
        if task in recording.labels:
            own = list(recording.labels[task])
            if len(own) not in (count, count + 1):
                raise InputError(
                    f"recording of {recording.subject!r} has {len(own)} labels of {task!r} for "
                    f"{count} windows of {seconds:g} s"
                )
            found[task] = own[:count]
        elif task in scored:
            found[task] = list(scored[task].labels(recording.annotations, count, seconds))
        else:
            found[task] = [None] * count
    return found


def _unused(recordings: Sequence[Recording], scored: Mapping[str, Scored]) -> list[str]:
    """What the annotations say that makes no label, so that a misspelt text is seen."""
    if not scored:
        return []
    read = {text for rule in scored.values() for text in rule.classes}
    every = [a for recording in recordings for a in recording.annotations]
    others = Counter(a.text for a in every if a.text not in read)
    notes = []
    if others:
        shown = ", ".join(f"{text!r} ({n})" for text, n in others.most_common(8))
        notes.append(f"annotations that make no label: {shown}")
    brief = sum(a.seconds == 0 and a.text in read for a in every)
    if brief:
        notes.append(f"{brief} annotations have no duration and so cover no window")
    return notes
