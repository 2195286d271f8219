"""Processor: fitted on training rows alone, numbers against scikit-learn, and saved whole."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from polytask.data import ColumnSplit, Processor, Suite
from polytask.errors import InputError

PARTS = ["train"] * 30 + ["validation"] * 10 + ["test"] * 10


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = len(PARTS)
    size = rng.normal(100, 30, rows)
    size[[2, 35, 45]] = np.nan
    return pd.DataFrame(
        {
            "part": PARTS,
            "size": size,
            "floor": rng.integers(0, 9, rows),
            "balcony": rng.random(rows) < 0.5,
            "town": rng.choice(["Bonn", "Kiel", "Ulm"], rows),
            "listed": [datetime(2024, 1, 1) + timedelta(hours=5 * i) for i in range(rows)],
            "price": np.where(rng.random(rows) < 0.3, np.nan, rng.normal(300, 50, rows)),
            "sold": np.arange(rows) % 2 == 0,
        }
    )


def suite_of(table: object) -> Suite:
    return Suite.from_table(table, ["price", "sold"], split=ColumnSplit("part"))


@pytest.fixture(scope="module")
def suite() -> Suite:
    return suite_of(frame())


@pytest.fixture(scope="module")
def processor(suite: Suite) -> Processor:
    return Processor.fit(suite)


def test_numbers_against_sklearn(suite: Suite, processor: Processor) -> None:
    names = list(processor.numeric)
    train, test = (suite.table(s).to_pandas()[names].astype(float) for s in ("train", "test"))
    imputer = SimpleImputer(strategy="median").fit(train)
    scaler = StandardScaler().fit(imputer.transform(train))
    found = processor.encode(suite, "test").inputs["numeric"]
    assert found.numpy() == pytest.approx(scaler.transform(imputer.transform(test)), abs=1e-5)


def test_an_outlier_outside_training_changes_nothing(suite: Suite, processor: Processor) -> None:
    planted = frame()
    planted.loc[40:, "size"] = 1e9
    planted.loc[30:39, "floor"] = 1000
    planted.loc[45, "town"] = "Rom"
    planted.loc[46, "price"] = 1e9
    assert Processor.fit(suite_of(planted)) == processor
    planted.loc[0, "size"] = 1e9
    assert Processor.fit(suite_of(planted)) != processor


def test_categories_have_codes_and_the_unseen_is_zero(processor: Processor) -> None:
    rows = frame().head(4).assign(town=["Kiel", "Rom", None, "Bonn"])
    codes = processor.inputs(rows).inputs["categorical"]
    assert processor.categorical["town"].values == ("Bonn", "Kiel", "Ulm")
    assert processor.cardinalities == (4,)
    assert codes[:, 0].tolist() == [2, 0, 0, 1]


def test_the_training_median_replaces_a_missing_number(processor: Processor) -> None:
    train = frame().query("part == 'train'")
    rows = train.head(2).assign(size=[np.nan, train["size"].median()])
    numbers = processor.inputs(rows).inputs["numeric"]
    at = list(processor.numeric).index("size")
    assert numbers[0, at] == numbers[1, at]
    rows["size"] = [None, None]  # a whole column without a type
    assert processor.inputs(pa.Table.from_pandas(rows)).inputs["numeric"][0, at] == numbers[1, at]


def test_labels_and_masks(suite: Suite, processor: Processor) -> None:
    batch = processor.encode(suite, "train")
    prices = suite.table("train").to_pandas()["price"]
    assert batch.masks["price"].tolist() == prices.notna().tolist()
    assert batch.counts == {"price": prices.count(), "sold": 30}
    found = batch.targets["price"][batch.masks["price"]].numpy()
    assert found == pytest.approx(prices.dropna().to_numpy(), rel=1e-6)
    kind = processor.task("price").kind
    assert (kind.mean, kind.std) == (  # type: ignore[attr-defined]
        pytest.approx(prices.mean()),
        pytest.approx(prices.std(ddof=0)),
    )


@pytest.mark.parametrize("form", ["csv", "parquet", "dict", "pandas", "arrow"])
def test_rows_to_predict_may_come_in_any_form_and_order(
    processor: Processor, suite: Suite, tmp_path: Path, form: str
) -> None:
    rows = frame().query("part == 'test'").drop(columns=["price", "sold", "part"])
    rows = rows[rows.columns[::-1]].assign(more=1)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    match form:
        case "csv":
            rows.to_csv(tmp_path / "t.csv", index=False)
            source: object = tmp_path / "t.csv"
        case "parquet":
            rows.to_parquet(tmp_path / "t.parquet")
            source = str(tmp_path / "t.parquet")
        case "dict":
            source = {k: table[k].to_pylist() for k in table.column_names}
        case _:
            source = rows if form == "pandas" else table
    found, expected = processor.inputs(source).inputs, processor.encode(suite, "test").inputs
    for name, values in expected.items():
        assert np.allclose(found[name], values, atol=1e-6), name


def test_through_json(processor: Processor) -> None:
    again = Processor.from_dict(json.loads(json.dumps(processor.to_dict())))
    assert again == processor
    assert again.input_names == processor.input_names


def test_arrays_are_standardised_as_a_whole() -> None:
    pictures = np.random.default_rng(0).normal(5, 2, (50, 3, 4)).astype(np.float32)
    table = {"part": PARTS, "picture": pictures, "price": frame()["price"], "sold": frame()["sold"]}
    suite = suite_of(table)
    processor = Processor.fit(suite)
    train = pictures[:30]
    assert processor.arrays["picture"].shape == (3, 4)
    found = processor.encode(suite, "validation").inputs["picture"].numpy()
    expected = (pictures[30:40] - train.mean()) / train.std()
    assert found == pytest.approx(expected, abs=1e-5)
    assert Processor.from_dict(json.loads(json.dumps(processor.to_dict()))) == processor
    with pytest.raises(InputError, match=r"'picture' holds arrays of shape \(4, 4\), not \(3, 4\)"):
        processor.inputs({"picture": np.zeros((2, 4, 4), np.float32)})
    pictures[1, 0, 0] = np.nan
    with pytest.raises(InputError, match="'picture' holds no finite number in data row 2"):
        processor.inputs({"picture": pictures})


def test_numbers_too_large_for_a_double_are_rounded_not_refused() -> None:
    table = frame().assign(serial=np.arange(len(PARTS)) + 2**62)
    suite = suite_of(table)
    encoded = Processor.fit(suite).encode(suite, "test").inputs["numeric"]
    assert np.isfinite(encoded.numpy()).all()


def test_a_constant_column_is_zero_not_infinite() -> None:
    suite = suite_of(frame().assign(floor=3))
    processor = Processor.fit(suite)
    numbers = processor.encode(suite, "train").inputs["numeric"].numpy()
    assert (numbers[:, list(processor.numeric).index("floor")] == 0).all()


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"drop": "size"}, "input column 'size' is missing"),
        ({"drop": "listed"}, "input column 'listed"),
        (
            {"size": ["1", "many"] * 25},
            "'size' holds text in a number column: 'many' in data row 2",
        ),
        (
            {"size": [1.0, 2.0, np.inf] + [1.0] * 47},
            "'size' holds an infinite number in data row 3",
        ),
        ({"size": pd.Timestamp("2024-01-01")}, "'size' has type timestamp"),
        ({"listed": "soon"}, "'listed'"),
    ],
)
def test_wrong_rows_are_refused(processor: Processor, change: dict, culprit: str) -> None:
    rows = frame()
    rows = rows.drop(columns=change["drop"]) if "drop" in change else rows.assign(**change)
    with pytest.raises(InputError, match=culprit):
        processor.inputs(rows)


def test_a_misspelt_column_has_a_near_name(processor: Processor) -> None:
    with pytest.raises(InputError, match=r"'size' is missing \(did you mean 'sizes'\?\)"):
        processor.inputs(frame().rename(columns={"size": "sizes"}))


def test_no_rows_and_unknown_tasks_are_refused(processor: Processor) -> None:
    with pytest.raises(InputError, match="no rows"):
        processor.inputs(frame().head(0))
    with pytest.raises(InputError, match=r"task 'prize' .*did you mean 'price'"):
        processor.task("prize")


def test_a_column_without_training_values_is_named() -> None:
    table = frame().assign(late=[None] * 30 + [1.0] * 20)
    with pytest.raises(InputError, match="'late' has no value at all in the training rows"):
        suite_of(table)


def test_a_class_unseen_in_training_is_named_with_its_split(suite: Suite) -> None:
    processor = Processor.fit(suite)
    others = suite_of(frame().assign(sold=["maybe", "no"] * 25))
    with pytest.raises(InputError, match="target 'sold', split 'test'"):
        processor.encode(replace(others, tasks=suite.tasks), "test")
