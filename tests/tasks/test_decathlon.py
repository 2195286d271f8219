"""The decathlon's metrics against cases worked by hand, and the paper's own sums."""

import pytest

from polytask.errors import InputError
from polytask.tasks.decathlon import (
    Query,
    corpus_f1,
    deca_score,
    dialogue_changes,
    joint_goals,
    logical_form,
    parse_query,
)

NAMES = ["SQuAD", "IWSLT", "CNN/DM", "MNLI", "SST", "SRL", "ZRE", "WOZ", "WikiSQL", "MWSC"]
# Rows of table 2 of the paper (validation), and their decaScores.
PUBLISHED = {
    "single, question pointer": (
        [75.5, 25.5, 24.0, 72.8, 88.1, 75.2, 15.6, 84.4, 72.6, 52.4],
        586.1,
    ),
    "multi, S2S": ([47.5, 14.2, 25.7, 60.9, 85.9, 68.7, 28.5, 84.0, 45.8, 52.4], 513.6),
    "multi, self-attention": ([66.8, 13.6, 14.0, 69.0, 84.7, 75.1, 31.7, 82.8, 64.8, 43.9], 546.4),
    "multi, coattention": ([71.8, 9.0, 15.7, 70.4, 86.5, 76.1, 28.5, 75.1, 62.9, 37.8], 533.8),
    "multi, question pointer": (
        [70.8, 16.1, 23.9, 70.5, 86.2, 75.8, 28.0, 80.6, 62.0, 48.8],
        562.7,
    ),
    "multi, anti-curriculum": ([74.3, 13.7, 24.6, 69.2, 86.4, 77.6, 34.7, 84.1, 58.7, 48.4], 571.7),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_the_papers_rows_sum_to_their_scores(row):
    values, total = PUBLISHED[row]
    shares = {name: value / 100 for name, value in zip(NAMES, values, strict=True)}
    assert deca_score(shares) == pytest.approx(total, abs=0.05)


def test_a_decascore_takes_ten_shares():
    with pytest.raises(InputError, match="not 9"):
        deca_score(dict.fromkeys(NAMES[:9], 0.5))
    with pytest.raises(InputError, match="'MWSC' is 75"):
        deca_score(dict.fromkeys(NAMES[:9], 0.5) | {"MWSC": 75.0})


def test_cf1_ignores_a_right_unanswerable():
    references = ["paris", "unanswerable", "rome"]
    alone = corpus_f1(["paris", "rome"], ["paris", "milan"])
    assert corpus_f1(references, ["paris", "unanswerable", "milan"]) == alone == 0.5


def test_cf1_charges_precision_and_recall_apart():
    # 1 right; 3 answers that are not "unanswerable", 2 references: F1 = 2 / 5.
    assert corpus_f1(["paris", "unanswerable", "rome"], ["paris", "oslo", "milan"]) == 0.4
    # 1 right; 1 answer, 2 references.
    assert corpus_f1(["paris", "rome"], ["paris", "unanswerable"]) == pytest.approx(2 / 3)


def test_cf1_matches_sets_of_words():
    assert corpus_f1(["Lake Como, Italy"], ["italy, the lake como"]) == 1.0
    assert corpus_f1(["unanswerable"], ["unanswerable"]) == 0.0


def test_changes_of_a_turn():
    told = dialogue_changes("food: Thai, area: north; phone, address")
    assert told == ({"food": "thai", "area": "north"}, frozenset({"phone", "address"}))
    assert dialogue_changes("None") == ({}, frozenset())
    assert dialogue_changes("; phone") == ({}, frozenset({"phone"}))
    assert dialogue_changes("phone") == ({}, frozenset({"phone"}))


def test_one_wrong_early_turn_spoils_all_later_joint_goals():
    references = ["food: thai", "area: north", "price: cheap", "food: thai"]
    answers = ["food: fish", "area: north", "price: cheap", "food: thai"]
    dialogues = ["a", "a", "a", "b"]
    goals, requests = joint_goals(references, answers, dialogues)
    assert goals == 1 / 4  # only the other dialogue
    assert requests == 1.0


def test_a_later_change_mends_the_state():
    references = ["food: thai", "food: fish"]
    assert joint_goals(references, ["food: meat", "food: fish"], [1, 1])[0] == 0.5


def test_requests_are_judged_turn_by_turn():
    assert joint_goals(["; phone", "; phone"], ["; phone", "None"], [1, 1]) == (1.0, 0.5)


COLUMNS = ["Name", "Date of birth", "Date", "Size (m)"]


def test_a_query_is_parsed():
    text = "SELECT max Size (m) FROM table WHERE Date of birth = May and June and Date > 3"
    assert parse_query(text, COLUMNS) == Query(
        "size ( m )",
        "max",
        frozenset({("date of birth", "=", "may and june"), ("date", ">", "3")}),
    )


def test_what_is_no_query_is_none():
    for text in ("", "show name", "select price from table", "select name where size like 3"):
        assert parse_query(text, COLUMNS) is None


def test_a_column_may_be_called_like_an_aggregation():
    assert parse_query("select count from table", ["count"]) == Query("count", "", frozenset())
    assert parse_query("select count name", ["name"]).aggregation == "count"


def test_logical_forms_ignore_the_order_of_conditions():
    reference = "select name from table where date = 1 and size (m) > 2"
    turned = "select name from table where size (m) > 2 and date = 1"
    other = "select name from table where size (m) < 2 and date = 1"
    assert logical_form([reference] * 3, [turned, other, "what?"], [COLUMNS] * 3) == 1 / 3


def test_a_reference_that_is_no_query_is_refused():
    with pytest.raises(InputError, match="reference 1"):
        logical_form(["hello"], ["hello"], [COLUMNS])
