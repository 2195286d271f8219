"""Saved models: a folder says itself which learner it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from polytask.catalogue import load_system
from polytask.errors import InputError


def load(folder: str | os.PathLike[str]) -> Any:
    """The fitted learner in a folder that ``save_pretrained`` wrote."""
    path = Path(folder) / "config.json"
    if not Path(folder).is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist")
    if not path.exists():
        raise InputError(f"model folder {str(folder)!r} has no config; it cannot be used")
    try:
        system = json.loads(path.read_text(encoding="utf-8"))["system"]
    except (json.JSONDecodeError, KeyError):
        raise InputError(f"file {str(path)!r} is damaged or truncated") from None
    return load_system(system).from_pretrained(folder)
