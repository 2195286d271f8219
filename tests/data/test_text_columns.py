"""Suites of texts: one table or one per task, checked before anything is fitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from polytask import Suite
from polytask.data import Processor
from polytask.errors import InputError
from polytask.tasks import Boundaries, Classification, Retrieval, Similarity, Span

N = 30
PAIRS = {
    "sentence1": [f"the cat {i} sat" for i in range(N)],
    "sentence2": [f"a dog {i} ran" for i in range(N)],
    "score": [i % 6 / 1.0 for i in range(N)],
}
REVIEWS = {"text": [f"film {i} was fine" for i in range(N)], "label": ["good", "bad"] * (N // 2)}
QUESTIONS = {
    "question": ["what ran?"] * N,
    "context": [f"dog {i} ran home" for i in range(N)],
    "answer": [f"dog {i}" for i in range(N)],
}
SEARCHES = {
    "query": [f"query {i}" for i in range(N)],
    "positive": [f"answer {i}" for i in range(N)],
    "negatives": [[f"wrong {i}", f"worse {i}"][: i % 3] for i in range(N)],
}
DOCUMENTS = {
    "sentences": [[f"s {i} {j}" for j in range(4)] for i in range(N)],
    "sections": [[0, 0, 1, 1]] * N,
}


def jsonl(path: Path, table: dict[str, list[Any]]) -> Path:
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_one_table_with_several_labels() -> None:
    table = {**REVIEWS, "stars": [float(i % 5) for i in range(N)], "id": list(range(N))}
    suite = Suite.from_table(table, ["label", "stars"], inputs={"text": "text"})
    assert suite.inputs == ("text",)  # what is not named is no input of a text suite
    assert suite.texts == {"text": False}
    assert [t.texts for t in suite.tasks] == [("text",), ("text",)]


def test_a_task_may_read_some_of_the_texts() -> None:
    kinds = {"score": {"kind": "similarity"}, "long": {"kind": "classification", "texts": "a"}}
    table = {"a": PAIRS["sentence1"], "b": PAIRS["sentence2"], "score": PAIRS["score"]}
    suite = Suite.from_table(
        {**table, "long": [i % 2 for i in range(N)]}, kinds, inputs={"b": "text", "a": "text"}
    )
    assert {t.name: t.texts for t in suite.tasks} == {"score": ("b", "a"), "long": ("a",)}


def test_a_table_per_task_by_the_usual_names() -> None:
    sources = {"alike": PAIRS, "tone": REVIEWS, "find": SEARCHES, "cut": DOCUMENTS}
    suite = Suite.from_tasks(sources)
    kinds = {t.name: type(t.kind) for t in suite.tasks}
    assert kinds == {
        "alike": Similarity,
        "tone": Classification,
        "find": Retrieval,
        "cut": Boundaries,
    }
    assert {t.name: t.texts for t in suite.tasks} == {
        "alike": ("text", "text_pair"),
        "tone": ("text",),
        "find": ("text", "texts"),
        "cut": ("texts",),
    }
    rows = sum(len(data) for data in suite.splits.values())
    assert rows == 4 * N
    alone = suite.only("tone")
    assert sum(len(data) for data in alone.splits.values()) == N  # nobody else's rows


def test_triples_become_candidates_with_relevances() -> None:
    suite = Suite.from_tasks({"find": SEARCHES})
    row = suite.table("test").to_pylist()[0]
    i = int(row["text"].split()[1])
    assert row["texts"] == [f"answer {i}", *SEARCHES["negatives"][i]]
    assert row["find"] == [1, *[0] * len(SEARCHES["negatives"][i])]


def test_files_of_a_folder_are_tasks(tmp_path) -> None:
    jsonl(tmp_path / "tone.jsonl", REVIEWS)
    jsonl(tmp_path / "alike.jsonl", PAIRS)
    suite = Suite.from_tasks(tmp_path)
    assert suite.task_names == ("alike", "tone")
    with pytest.raises(InputError, match="holds no file of a task"):
        Suite.from_tasks(tmp_path / "none")


def test_a_table_with_several_targets_is_several_tasks() -> None:
    table = {**REVIEWS, "stars": [float(i % 5) for i in range(N)]}
    spec = {"source": table, "texts": "text", "targets": {"label": None, "stars": "regression"}}
    suite = Suite.from_tasks({"reviews": spec, "alike": PAIRS})
    assert suite.task_names == ("label", "stars", "alike")


def test_its_own_split_stands() -> None:
    parts = ["train"] * 18 + ["validation"] * 6 + ["test"] * 6
    suite = Suite.from_tasks({"tone": {**REVIEWS, "split": parts}, "alike": PAIRS})
    tone = suite.only("tone")
    assert [len(tone.splits[s]) for s in ("train", "validation", "test")] == [18, 6, 6]
    with_texts = Suite.from_table({**REVIEWS, "split": parts}, ["label"], inputs={"text": "text"})
    assert [len(with_texts.splits[s]) for s in ("train", "validation", "test")] == [18, 6, 6]


def test_leaks_are_counted() -> None:
    parts = ["train"] * 18 + ["validation"] * 6 + ["test"] * 6
    texts = list(REVIEWS["text"])
    texts[25], texts[26] = "  FILM 3 was fine", texts[4]
    suite = Suite.from_tasks({"tone": {**REVIEWS, "text": texts, "split": parts}})
    leaks = [note for note in suite.about["notes"] if note.startswith("leak")]
    assert leaks == ["leak: of task 'tone', 2 of 6 test rows have the same text as a training row"]


def test_a_similar_pair_the_other_way_round_is_a_leak_an_entailed_one_is_not() -> None:
    parts = ["train"] * 18 + ["validation"] * 6 + ["test"] * 6
    first, second = list(PAIRS["sentence1"]), list(PAIRS["sentence2"])
    first[29], second[29] = second[0], first[0]
    table = {"sentence1": first, "sentence2": second, "split": parts}
    alike = Suite.from_tasks({"alike": {**table, "score": PAIRS["score"]}})
    follows = Suite.from_tasks({"follows": {**table, "label": [i % 2 for i in range(N)]}})
    assert any(n.startswith("leak") for n in alike.about["notes"])
    assert not any(n.startswith("leak") for n in follows.about["notes"])


@pytest.mark.parametrize(
    ("table", "spec", "sentence"),
    [
        ({**REVIEWS, "text": ["", *REVIEWS["text"][1:]]}, {}, "data row 1: column 'text' is empty"),
        ({**REVIEWS, "text": [*REVIEWS["text"][:-1], " \n"]}, {}, f"data row {N}: .* is empty"),
        ({**REVIEWS, "text": [None, *REVIEWS["text"][1:]]}, {}, "data row 1: .* has no text"),
        ({**QUESTIONS, "answer": ["a cat"] * N}, {"kind": "span"}, "'a cat' does not occur in its"),
        (
            {**QUESTIONS, "answer": [{"start": 3, "end": 99}] * N},
            {"kind": "span"},
            "span 3 to 99 does not lie",
        ),
        (
            {**QUESTIONS, "answer": [{"start": 0, "end": 3, "text": "cat"}] * N},
            {"kind": "span"},
            "span 0 to 3 is 'dog', not 'cat'",
        ),
        ({**PAIRS, "score": [7.0] * N}, {"kind": "similarity", "high": 5.0}, "score 7 is above 5"),
        ({**DOCUMENTS, "sections": [[0, 1]] * N}, {}, "2 labels for 4 texts"),
        ({**DOCUMENTS, "sentences": [["a", " ", "b", "c"]] * N}, {}, "holds an empty text"),
        ({**QUESTIONS, "answer": ["  "] * N}, {"kind": "generation"}, "the answer is empty"),
    ],
)
def test_bad_rows_are_named(table, spec, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        Suite.from_tasks({"good": REVIEWS, "bad": {"source": table, **spec}})
    assert "task 'bad'" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_rows_can_be_skipped_and_are_counted() -> None:
    texts = ["", " ", *REVIEWS["text"][2:]]
    suite = Suite.from_tasks({"tone": {**REVIEWS, "text": texts}}, unreadable="skip")
    assert sum(len(data) for data in suite.splits.values()) == N - 2
    assert "task 'tone': 2 rows are left out" in suite.about["notes"][0]


def test_signs_of_a_wrong_encoding_are_told() -> None:
    texts = ["caf\N{REPLACEMENT CHARACTER}", *REVIEWS["text"][1:]]
    suite = Suite.from_tasks({"tone": {**REVIEWS, "text": texts}})
    assert any("1 texts hold the sign U+FFFD" in note for note in suite.about["notes"])


def test_a_file_that_is_not_utf8_is_refused(tmp_path) -> None:
    path = tmp_path / "tone.csv"
    path.write_bytes("text,label\ncafé,good\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"UTF-?8"):
        Suite.from_tasks({"tone": path})


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ({"text": REVIEWS}, "task 'text' needs another name"),
        ({"tone": {"words": ["a"], "label": [1]}}, "say which columns hold its text"),
        ({"tone": {"text": ["a"], "mood": [1]}}, "say which column is its target"),
        ({"tone": {"source": REVIEWS, "texts": "txt", "target": "label"}}, "'text'"),
        ({}, "a folder, or a mapping"),
    ],
)
def test_unclear_tables_are_refused(sources, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Suite.from_tasks(sources)


def test_numbers_are_no_text() -> None:
    with pytest.raises(InputError, match=r"column 'text' has type .*, not text"):
        Suite.from_table({"text": list(range(N)), "y": [0, 1] * 15}, ["y"], inputs={"text": "text"})


def test_a_kind_of_text_needs_text() -> None:
    with pytest.raises(InputError, match="kind 'similarity' is about text"):
        Suite.from_table({"x": list(range(N)), "y": [0.0, 1.0] * 15}, {"y": "similarity"})
    with pytest.raises(InputError, match="kind 'boundaries' needs a column with a list"):
        Suite.from_table(
            {"text": REVIEWS["text"], "y": [[0, 1]] * N},
            {"y": "boundaries"},
            inputs={"text": "text"},
        )


def test_learners_of_tables_refuse_text_and_the_other_way_round() -> None:
    from polytask.baselines.mlp import SharedMLP
    from polytask.baselines.text_encoder import TextEncoderLearner
    from polytask.testing import mixed_suite

    with pytest.raises(InputError, match="mlp reads no text, and column 'text' holds it"):
        SharedMLP().fit(Suite.from_tasks({"tone": REVIEWS}))
    with pytest.raises(InputError, match="text_encoder reads text, and this suite has none"):
        TextEncoderLearner().fit(mixed_suite())


def test_predicting_needs_the_texts_of_the_asked_tasks_only() -> None:
    spec = Processor.fit(Suite.from_tasks({"alike": PAIRS, "tone": REVIEWS}))
    assert spec.answerable({"text": ["a"]}) == ("tone",)
    assert spec.answerable({"text": ["a"], "text_pair": ["b"]}) == ("alike", "tone")
    with pytest.raises(InputError, match="input column 'text' is missing"):
        spec.answerable({"texts": ["a"]})
    assert len(spec.inputs({"text": ["a"]}, ["tone"])) == 1
    with pytest.raises(InputError, match="input column 'text_pair' is missing"):
        spec.inputs({"text": ["a"]}, ["alike"])


def test_labels_unseen_in_training_are_refused() -> None:
    parts = ["train"] * 18 + ["validation"] * 6 + ["test"] * 6
    labels = [*REVIEWS["label"][:-1], "odd"]
    with pytest.raises(InputError, match="class 'odd' occurs in split 'test' but never in train"):
        Suite.from_tasks({"tone": {**REVIEWS, "label": labels, "split": parts}})


def test_spans_in_tokens_find_the_words_again() -> None:
    from polytask.data.texts import Subwords

    suite = Suite.from_tasks({"what": {"source": QUESTIONS, "kind": "span"}})
    assert isinstance(suite.tasks[0].kind, Span)
    reader = Subwords.learned(QUESTIONS["context"], 16, 100)
    spec = Processor.fit(suite, reader)
    batch = spec.encode(suite, "train")
    rows = suite.table("train")
    found = spec.spans(spec.task("what"), batch.targets["what"].numpy(), rows.select(suite.inputs))
    assert found.tolist() == rows["what"].to_pylist()


def test_a_suite_of_texts_is_stored_and_mapped(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path / "cache"))
    path = jsonl(tmp_path / "tone.jsonl", REVIEWS)
    first = Suite.from_table(path, ["label"], inputs={"text": "text"})
    again = Suite.from_table(path, ["label"], inputs={"text": "text"})
    assert again.texts == {"text": False} and again.fingerprint == first.fingerprint
    assert again.tasks == first.tasks
    assert pa.types.is_string(again.table("train").schema.field("text").type)
