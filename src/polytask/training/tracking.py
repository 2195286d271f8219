"""Tracking: a run is a file of JSON lines; other trackers are thin adapters over accelerate's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from polytask.errors import InputError, nearest


class Tracker(Protocol):
    """Takes one record at a time."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line, flushed at once, so that a killed run keeps what it wrote."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write to {str(path)!r}: {error.strerror}") from None

    def forget_after(self, step: int, epoch: int) -> None:
        """Drop what a run wrote after the checkpoint it goes on from, and a line cut short."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["step"] <= step and not ("validation" in record and record["epoch"] >= epoch):
                kept.append(line)
        self._file.truncate(0)
        self._file.write("".join(kept))

    def log(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Adapted:
    """An accelerate tracker (trackio, TensorBoard, MLflow ...) fed with flat scalars."""

    def __init__(self, name: str, folder: str | Path, run: str = "polytask") -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"tracker {name!r} is not known{nearest(name, LOGGER_TYPE_TO_CLASS)}")
        cls = LOGGER_TYPE_TO_CLASS[name]
        try:
            options = {"logging_dir": str(folder)} if cls.requires_logging_directory else {}
            self._tracker = cls(run, **options)
            self._tracker.start()
        except ImportError as error:
            raise InputError(f"tracker {name!r} is not installed: {error}") from None

    def log(self, record: Mapping[str, Any]) -> None:
        values = dict(record)
        step = int(values.pop("step"))
        prefix = "epoch/" if "validation" in record else ""
        self._tracker.log(dict(_scalars(values, prefix)), step=step)

    def close(self) -> None:
        self._tracker.finish()


def _scalars(record: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        # MLflow takes no other signs in a name.
        name = prefix + re.sub(r"[^\w\-. /]", "_", str(key))
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


class Log:
    """The trackers of one run, JSON lines first; without a folder there are none: it is false.

    Args:
        names: accelerate's names of more trackers.
        folder: where the run writes.
        step, epoch: where the run goes on; what was written of later ones is dropped.
    """

    def __init__(
        self, names: Sequence[str], folder: Path | None, step: int = 0, epoch: int = 0
    ) -> None:
        self._trackers: list[Tracker] = []
        if folder:
            lines = JsonLines(folder / "log.jsonl")
            lines.forget_after(step, epoch)
            self._trackers = [lines, *(Adapted(name, folder) for name in names)]

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def write(self, record: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.log(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        for tracker in self._trackers:
            tracker.close()
