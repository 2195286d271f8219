"""Linear probes: an encoder that stays as it is, and a small linear model per task on its vectors.

Source: linear evaluation of sentence vectors as in SentEval, Conneau & Kiela, LREC 2018 (arXiv
    1803.05449), with its pair features.
Year: 2018
Domain: text
Parts: sentence_probe, frozen, text_encoders
For: the rival that costs seconds; what fine-tuning must beat
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from polytask.config import from_dict, to_dict
from polytask.data import Batch, Processor, Suite
from polytask.data.store import read_folder, write_folder
from polytask.parts.sentence_probe import (
    RIDGES,
    Vectors,
    check,
    fit_probes,
    from_tensors,
    predicted,
    to_tensors,
)
from polytask.training import FittedMixin
from polytask.training.learner import saved_settings
