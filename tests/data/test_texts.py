"""Text columns: strings at rest, padded ids when drawn; readers that keep their promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from polytask.data.texts import Ragged, Subwords, Texts, reader_from_dict
from polytask.errors import InputError

SENTENCES = ["the cat sat on the mat", "a dog ran home", "the mat is old and the dog is new"]


@pytest.fixture(scope="module")
def reader() -> Subwords:
    return Subwords.learned(SENTENCES, longest=8, vocabulary=80)


def test_rows_are_padded_to_the_longest_drawn(reader: Subwords) -> None:
    texts = Texts("a", ["the cat", None, "a dog ran"], reader)
    drawn = texts[torch.tensor([2, 0, 1])]
    assert drawn.dtype == torch.int64 and drawn.shape == (3, max(texts.lengths))
    for row, which in zip(drawn, (2, 0, 1), strict=True):
        assert int((row >= 0).sum()) == texts.lengths[which]
    assert (drawn[2] == -1).all()
    assert texts[0:1].shape[1] == texts.lengths[0]  # no wider than what is drawn


def test_several_texts_a_row(reader: Subwords) -> None:
    rows = [["the cat", "a dog ran"], None, ["home"]]
    texts = Texts("s", rows, reader, several=True)
    drawn = texts[0:3]
    assert drawn.shape[:2] == (3, 2)
    alone = Texts("a", ["a dog ran"], reader)[0:1][0]
    assert drawn[0, 1][drawn[0, 1] >= 0].tolist() == alone.tolist()
    assert (drawn[1] == -1).all() and (drawn[2, 1] == -1).all()
    assert texts.lengths.tolist() == [int((drawn[i] >= 0).sum()) for i in range(3)]


def test_taken_rows_are_those_rows(reader: Subwords) -> None:
    texts = Texts("s", [["a dog", "home"], ["the cat"], ["mat", "old", "new"]], reader, True)
    part = texts.take(torch.tensor([2, 1])).take(torch.tensor([1, 0]))
    assert part.strings.tolist() == [["the cat"], ["mat", "old", "new"]]
    assert torch.equal(part[0:2], texts[torch.tensor([1, 2])])
    assert part.lengths.tolist() == texts.lengths[[1, 2]].tolist()


def test_what_is_longer_than_the_reader_reads_is_cut_and_counted(reader: Subwords) -> None:
    texts = Texts("a", [SENTENCES[2], "the cat"], reader)
    whole = len(reader.ids([SENTENCES[2]])[0])
    assert texts.lengths[0] == reader.limit < whole
    assert texts.cut.tolist() == [whole - reader.limit, 0]


def test_without_a_reader_strings_stay_and_drawing_says_so() -> None:
    texts = Texts("a", ["the cat"], None)
    assert texts.numpy().tolist() == ["the cat"]
    with pytest.raises(InputError, match="column 'a' holds text"):
        texts[0:1]


def test_ragged_rows_keep_their_order() -> None:
    rows = [np.array([1, 0, -1]), np.array([], np.int64), np.array([5])]
    column = Ragged(rows, -1).take(torch.tensor([2, 0, 1]))
    assert column[0:3].tolist() == [[5, -1, -1], [1, 0, -1], [-1, -1, -1]]
    assert [row.tolist() for row in column.numpy()] == [[5], [1, 0, -1], []]
    assert column.lengths.tolist() == [1, 3, 0]


def test_ragged_numbers_may_be_padded_with_nan() -> None:
    column = Ragged([np.array([1.0, 0.0], np.float32), np.array([2.0], np.float32)], float("nan"))
    assert torch.isnan(column[0:2]).tolist() == [[False, False], [False, True]]


def test_templates_rebuild_what_the_tokenizer_writes(reader: Subwords) -> None:
    a, b = "the cat", "a dog"
    found = reader.tokenizer(a, b)
    first, second = (ids.tolist() for ids in reader.ids([a, b]))
    pair = reader.pair
    assert found["input_ids"] == [*pair.before, *first, *pair.between, *second, *pair.after]
    types = [pair.types[0]] * (1 + len(first) + 1) + [pair.types[1]] * (len(second) + 1)
    assert found["token_type_ids"] == types
    alone = [*reader.single.before, *first, *reader.single.after]
    assert reader.tokenizer(a)["input_ids"] == alone


def test_offsets_point_at_the_words(reader: Subwords) -> None:
    text = "the old cat"
    offsets = reader.offsets(text)
    assert len(offsets) == len(reader.ids([text])[0])
    covered = {i for start, end in offsets for i in range(start, end)}
    assert covered == {i for i, sign in enumerate(text) if sign != " "}


def test_a_reader_goes_through_json(reader: Subwords) -> None:
    again = reader_from_dict(json.loads(json.dumps(reader.to_dict())))
    assert again is not None and again.limit == reader.limit and again.tokens == reader.tokens
    for a, b in zip(reader.ids(SENTENCES), again.ids(SENTENCES), strict=True):
        assert a.tolist() == b.tolist()
    assert again.text(again.ids(["the cat"])[0]) == "the cat"


def test_a_saved_tokenizer_writes_nowhere_else(tmp_path, monkeypatch, reader: Subwords) -> None:
    told = reader.to_dict()
    told["files"] = {f"../../{tmp_path.name}-{n}": c for n, c in told["files"].items()}
    with pytest.raises(InputError, match="no tokenizer"):
        reader_from_dict(told)
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}-*"))


def test_equal_texts_make_equal_tokenizers() -> None:
    texts = [f"word{i % 7} thing{i % 5} a{i}" for i in range(200)]
    first, second = (Subwords.learned(texts, 16, 120) for _ in range(2))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def test_no_room_for_text_is_refused() -> None:
    with pytest.raises(InputError, match="max_length=2 leaves no room"):
        Subwords.learned(SENTENCES, 2, 80)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no tokenizer can be read"):
        Subwords.from_folder(str(tmp_path), 16)
