"""Tracking: a run is a file of JSON lines; other trackers are thin adapters over accelerate's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from polytask.errors import InputError, nearest


class Tracker(Protocol):
    def log(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object per line, flushed at once, so that a killed run keeps what it wrote."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

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
            if hasattr(self._tracker, "start"):
                self._tracker.start()
        except ImportError as error:
            raise InputError(f"tracker {name!r} is not installed: {error}") from None

    def log(self, record: Mapping[str, Any]) -> None:
        self._tracker.log(dict(_scalars(record)), step=int(record.get("step", 0)))

    def close(self) -> None:
        self._tracker.finish()


def _scalars(record: Mapping[str, Any], prefix: str = ""):  # type: ignore[no-untyped-def]
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def open_trackers(names: Sequence[str], folder: Path | None) -> list[Tracker]:
    if folder is None:
        if names:
            raise InputError("trackers need an output folder: give out=...")
        return []
    return [JsonLines(folder / "log.jsonl"), *(Adapted(n, folder) for n in names)]
