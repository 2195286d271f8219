"""scikit-learn estimators whose rows belong to tasks: reading ``X`` and the task of each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import OrdinalEncoder
from sklearn.utils.validation import check_is_fitted, validate_data

from polytask.errors import InputError, nearest


class TaskEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator with ``task=`` beside ``X``, or a column of ``X`` that holds the task.

    A subclass calls ``_read`` in ``fit`` and ``predict``. Its parameters:

    Args:
        task_column: column of ``X`` (position or name) that holds the task, unless ``task=`` does.
        categorical: columns (positions or names) that are categories; text columns of a data frame
            are categories by themselves.

    Attributes:
        tasks_: task ids in the order of everything that has one entry per task.
    """

    task_column: int | str | None
    categorical: Sequence[int | str]
    tasks_: NDArray
    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _read(self, X: Any, task: Any, fitting: bool, **checks: Any) -> tuple[Any, Any, NDArray]:
        """(numbers, y where fitting, task of each row), from what fit or predict were given."""
        if not fitting:
            check_is_fitted(self, "tasks_")
        X, task = self._without_task(X, task)
        X = self._without_text(X, fitting)
        read = validate_data(
            self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=fitting, **checks
        )
        X, y = read if fitting else (read, None)
        if fitting:
            self._categories = self._positions()
        return X, y, self._codes(task, len(X), fitting)

    def _without_task(self, X: Any, task: Any) -> tuple[Any, Any]:
        if self.task_column is None or task is not None:
            return X, task
        if hasattr(X, "columns"):
            name = self.task_column
            if isinstance(name, int) and name not in X.columns:
                name = X.columns[name]
            if name not in X.columns:
                raise InputError(f"task_column {name!r} is not in X{nearest(str(name), X.columns)}")
            return X.drop(columns=[name]), X[name].to_numpy()
        X = np.asarray(X)
        if not isinstance(self.task_column, int) or X.ndim != 2:
            raise InputError(f"task_column {self.task_column!r} needs a data frame with that name")
        if not -X.shape[1] <= self.task_column < X.shape[1]:
            raise InputError(f"task_column is {self.task_column}, but X has {X.shape[1]} columns")
        return np.delete(X, self.task_column, axis=1), X[:, self.task_column]

    def _without_text(self, X: Any, fitting: bool) -> Any:
        """A data frame with its text columns as numbers; anything else as it is."""
        is_frame = hasattr(X, "select_dtypes")
        if fitting:
            texts = X.select_dtypes(include=["object", "category", "string"]) if is_frame else None
            self._text_columns = [] if texts is None else list(texts.columns)
            if self._text_columns:
                encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
                self._texts = encoder.fit(texts)
        if not self._text_columns or not is_frame or not set(self._text_columns) <= set(X.columns):
            return X
        numbers = self._texts.transform(X[self._text_columns])
        return X.assign(**dict(zip(self._text_columns, numbers.T, strict=True)))

    def _positions(self) -> list[int]:
        """Positions of the categorical columns."""
        names = list(getattr(self, "feature_names_in_", []))
        found = {names.index(name) for name in self._text_columns}
        for column in self.categorical:
            if column in names:
                found.add(names.index(column))
            elif isinstance(column, int) and -self.n_features_in_ <= column < self.n_features_in_:
                found.add(column % self.n_features_in_)
            else:
                raise InputError(
                    f"categorical column {column!r} is not in X{nearest(str(column), names)}"
                )
        return sorted(found)

    def _codes(self, task: Any, rows: int, fitting: bool) -> NDArray[np.int64]:
        """Place of each row's task in ``tasks_``; -1 for a task that was not fitted."""
        if task is None:
            if not fitting and len(self.tasks_) > 1:
                raise InputError("task is missing: this model was fitted with one for each row")
            task = np.zeros(rows, np.int64) if fitting else np.repeat(self.tasks_, rows)
        task = np.asarray(task)
        if task.shape != (rows,):
            raise InputError(
                f"task has shape {task.shape}; it needs one entry for each of {rows} rows"
            )
        if pd.isna(task).any():
            raise InputError(f"task is missing in row {int(np.argmax(pd.isna(task)))}")
        if fitting:
            codes, self.tasks_ = pd.factorize(task, sort=True)
            return codes.astype(np.int64)
        return pd.Index(self.tasks_).get_indexer(pd.Index(task)).astype(np.int64)
