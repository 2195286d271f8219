"""Saved models: a folder says itself which learner it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from polytask.catalogue import load_system
from polytask.data.store import read_folder
from polytask.errors import InputError


def load(folder: str | os.PathLike[str]) -> Any:
    """The fitted learner in a folder that ``save_pretrained`` wrote."""
    path = Path(folder) / "config.json"
    try:
        system = json.loads(path.read_text(encoding="utf-8"))["system"]
    except (OSError, ValueError, KeyError, TypeError):
        read_folder(folder)  # says what is missing, damaged or newer
        raise InputError(f"folder {str(folder)!r} holds no model") from None
    return load_system(system).from_pretrained(folder)
