"""Real tables with several targets, read from the folder that POLYTASK_DATA names.

Each reader gives a ``Source``: what is asked of the rows, what is left out and why, and the split
that came with the set (seeded at random: the sets bring no official one). No column repeats a
target. ``TABLES`` lists the readers by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from polytask.data.files import read_table
from polytask.data.packaged import Source

CLASSES = {"kind": "classification"}
CC_BY = "CC BY 4.0 (UCI)"


class MissingDataError(LookupError):
    """The set is not on this machine; a benchmark says so and falls back."""


def read(path: str) -> pd.DataFrame:
    """One file of the catalogue, such as ``tab_adult/data.parquet``."""
    root = os.environ.get("POLYTASK_DATA")
    if not root or not (Path(root) / path).is_file():
        raise MissingDataError(
            f"{path} is not here: set POLYTASK_DATA to the folder that holds the set "
            f"{Path(path).parts[0]}"
        )
    return pd.read_parquet(Path(root) / path)


def number(unit: str) -> dict[str, str]:
    return {"kind": "regression", "unit": unit}


def adult() -> Source:
    """US census 1994: income, family, work."""
    frame = read("tab_adult/data.parquet")
    return Source(
        name="adult",
        table=read_table(frame.astype({"income_over_50k": bool})),
        targets={
            "income_over_50k": CLASSES,
            "marital_status": CLASSES,
            "occupation": CLASSES,
            "hours_per_week": number("h"),
            "education_num": number("level"),
        },
        about=f"UCI Adult, training part (Kohavi 1996), {CC_BY}",
        split="split",
        exclude={
            "education": "the target education_num in words",
            "relationship": "husband or wife says that marital_status is married",
            "fnlwgt": "how many people the row stands for, not a trait of the person",
        },
        notes=("occupation is unknown for 1,843 rows: a missing label",),
    )


JOBS = ["admin", "blue-collar", "entrepreneur", "housemaid", "management", "retired"]
JOBS += ["self-employed", "services", "student", "technician", "unemployed", "unknown"]


def bank() -> Source:
    """Calls of a Portuguese bank: does the customer subscribe, and what else holds of them."""
    frame = read("tab_bank/data.parquet")
    frame["job"] = frame.pop("task").map(dict(enumerate(JOBS)))
    binary = ["subscribed", "housing_yes", "loan_yes"]
    return Source(
        name="bank",
        table=read_table(frame.astype(dict.fromkeys(binary, bool))),
        targets={
            **dict.fromkeys(binary, CLASSES),
            "balance": number("EUR"),
            "duration": number("s"),
        },
        about=f"UCI Bank Marketing (Moro, Cortez, Rita 2014), {CC_BY}",
        split="split",
        notes=("duration is known after the call only; as a target it is no input of the others",),
    )


def abalone() -> Source:
    """Shells: age and four weights from sex and three lengths."""
    frame = read("tab_abalone/data.parquet")
    frame["sex"] = frame.pop("task").map({0: "female", 1: "infant", 2: "male"})
    weights = ["whole_weight", "shucked_weight", "viscera_weight", "shell_weight"]
    frame[weights] *= 200  # back to grams
    return Source(
        name="abalone",
        table=read_table(frame),
        targets={"rings": number("rings"), **dict.fromkeys(weights, number("g"))},
        about=f"UCI Abalone (Nash et al. 1994), {CC_BY}",
        split="split",
        notes=("all weights are targets: whole weight is nearly the sum of the other three",),
    )


def tox21() -> Source:
    """Molecules: twelve toxicity assays, each measured for some of the molecules.

    The inputs are 32 leading directions (truncated SVD, fitted on the training rows) of the
    log-counts of the SMILES strings' character 1- to 4-grams.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer

    frame = read("tab_molecules/tox21.parquet")
    assays = [c for c in frame if c not in ("smiles", "split")]
    grams = HashingVectorizer(
        analyzer="char",
        lowercase=False,  # c is an aromatic carbon, C is not
        ngram_range=(1, 4),
        n_features=2**14,
        alternate_sign=False,
        norm=None,
    )
    counts = grams.transform(frame["smiles"]).log1p()
    svd = TruncatedSVD(32, random_state=0).fit(counts[(frame["split"] == "train").to_numpy()])
    directions = svd.transform(counts).astype(np.float32)
    inputs = pd.DataFrame(directions, columns=[f"direction_{i:02d}" for i in range(32)])
    return Source(
        name="tox21",
        table=read_table(frame.astype(dict.fromkeys(assays, "boolean")).join(inputs)),
        targets=dict.fromkeys(assays, CLASSES),
        about="Tox21 by MoleculeNet (Wu et al. 2018), public domain",
        split="split",
        exclude={"smiles": "text; its character n-grams are the columns direction_*"},
        notes=("7 % to 26 % of the labels of an assay are missing: the molecule was not measured",),
    )


def mulan(name: str, unit: str, about: str) -> Source:
    """One table of the Mulan collection of multi-target regressions."""
    frame = read(f"tab_mulan_mtr/{name}.parquet")
    targets = [c for c in frame if c.startswith("target_")]
    frame.columns = frame.columns.str.removeprefix("target_")
    return Source(
        name=name,
        table=read_table(frame),
        targets={c.removeprefix("target_"): number(unit) for c in targets},
        about=f"{about}, collected by Mulan (Spyromitros-Xioufis et al. 2016)",
        split="split",
    )


TABLES: dict[str, Callable[[], Source]] = {
    "adult": adult,
    "bank": bank,
    "tox21": tox21,
    "abalone": abalone,
    "scpf": partial(mulan, "scpf", "count", "See Click Predict Fix (Kaggle 2013), research use"),
    "wq": partial(
        mulan, "wq", "abundance", "Slovenian river life (Dzeroski et al. 2000), research use"
    ),
    "enb": partial(mulan, "enb", "kWh/m2", f"UCI Energy Efficiency (Tsanas, Xifara 2012), {CC_BY}"),
    "oes10": partial(mulan, "oes10", "people", "US occupational employment 2010, public domain"),
}
