"""Data: suites, how they are split, encoded and drawn from."""

from polytask.data.augmentation import Augmented, as_augmentation
from polytask.data.batch import Batch, Rows
from polytask.data.mixtures import JointRows, Mixture, TaskBatches, as_mixture
from polytask.data.processor import Processor
from polytask.data.splits import ColumnSplit, GroupSplit, RandomSplit, Split, TimeSplit
from polytask.data.suite import Suite

__all__ = [
    "Augmented",
    "Batch",
    "ColumnSplit",
    "GroupSplit",
    "JointRows",
    "Mixture",
    "Processor",
    "RandomSplit",
    "Rows",
    "Split",
    "Suite",
    "TaskBatches",
    "TimeSplit",
    "as_augmentation",
    "as_mixture",
]
