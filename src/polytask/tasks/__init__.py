"""Tasks: what is predicted and how it is judged; no data, no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from polytask.tasks.dense import (
    DenseKind,
    DenseRegression,
    Edges,
    Normals,
    Picture,
    Saliency,
    Segmentation,
)
from polytask.tasks.kinds import Classification, Kind, Regression
from polytask.tasks.metrics import Metric
from polytask.tasks.text import (
    Boundaries,
    Generation,
    Retrieval,
    Similarity,
    Span,
    Tagging,
    TextKind,
)

KINDS: dict[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        Regression,
        Classification,
        Segmentation,
        DenseRegression,
        Normals,
        Edges,
        Saliency,
        Picture,
        Similarity,
        Span,
        Generation,
        Boundaries,
        Tagging,
        Retrieval,
    )
}


def kind_from_dict(data: dict[str, Any]) -> Kind:
    """The kind that ``to_dict`` wrote."""
    fields = dict(data)
    cls = KINDS[fields.pop("kind")]
    if "classes" in fields:
        fields["classes"] = tuple(fields["classes"])
    return cls(**fields)


@dataclass(frozen=True)
class Task:
    """One thing to predict: a name, the column that holds its labels, and the kind of answer.

    Attributes:
        where: (column, value) of the rows the task is about, all rows if None. The schools of a
            table of pupils are tasks of this sort: one target column, one task per school.
        texts: text columns the task reads, in order; empty if the inputs are no texts.
    """

    name: str
    kind: Kind
    target: str = ""
    where: tuple[str, str] | None = None
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.target:
            object.__setattr__(self, "target", self.name)

    def labels(self, table: pa.Table) -> pa.ChunkedArray:
        """The task's labels ``[N]`` in a table; null where a row has none or is not of the task."""
        labels = table.column(self.target)
        if self.where is None:
            return labels
        column, value = self.where
        mine = pc.fill_null(pc.equal(table.column(column), value), False)
        return pc.if_else(mine, labels, pa.scalar(None, labels.type))

    def __str__(self) -> str:
        """The task as an error names it."""
        rows = " where {} is {!r}".format(*self.where) if self.where else ""
        return f"target {self.target!r}{rows}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "target": self.target,
            "kind": self.kind.to_dict(),
            "where": list(self.where) if self.where else None,
            "texts": list(self.texts),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        where = data.get("where")  # models saved before there were tasks by group have none
        kind = kind_from_dict(data["kind"])
        texts = tuple(data.get("texts", ()))
        return cls(data["name"], kind, data["target"], tuple(where) if where else None, texts)


__all__ = [
    "KINDS",
    "Boundaries",
    "Classification",
    "DenseKind",
    "DenseRegression",
    "Edges",
    "Generation",
    "Kind",
    "Metric",
    "Normals",
    "Picture",
    "Regression",
    "Retrieval",
    "Saliency",
    "Segmentation",
    "Similarity",
    "Span",
    "Tagging",
    "Task",
    "TextKind",
    "kind_from_dict",
]
