"""Tasks: what is predicted and how it is judged; no data, no model."""

from __future__ import annotations

from dataclasses import dataclass

from polytask.tasks.kinds import KINDS, Classification, Kind, Regression, kind_from_dict
from polytask.tasks.metrics import Metric


@dataclass(frozen=True)
class Task:
    """One thing to predict: a name, the column that holds its labels, and the kind of answer."""

    name: str
    kind: Kind
    target: str = ""

    def __post_init__(self) -> None:
        if not self.target:
            object.__setattr__(self, "target", self.name)


__all__ = ["KINDS", "Classification", "Kind", "Metric", "Regression", "Task", "kind_from_dict"]
