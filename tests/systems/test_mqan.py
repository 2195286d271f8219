"""MQAN: the network by a slower route, its sizes and schedule, and the learner around it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polytask.data import Processor, Suite
from polytask.data.question_suite import CLOSED_WORDS, question_suite
from polytask.data.words import EOS, Words
from polytask.errors import InputError
from polytask.parts.answering import pointed
from polytask.systems.mqan import MQAN, Coattention, MQANNet
from polytask.tasks import Classification, Generation, Task
from polytask.training import Training
from polytask.training.schedules import as_schedule

QUICK = Training(
    lr=3e-3, batch=32, epochs=2, schedule="inverse_sqrt(warmup=40)", clip=1.0, device="cpu"
)
ROWS = {
    "full": {},
    "S2S": {"coattention": False, "question_pointer": False, "layers": 0},
    "+SAtt": {"coattention": False, "question_pointer": False},
    "+CAtt": {"question_pointer": False},
    "no layers": {"layers": 0},
    "copies only": {"generator": "off"},
    "says only": {"generator": "only"},
}


def small(**changes) -> MQAN:
    given = {"width": 24, "layers": 1, "heads": 3, "hidden": 16, "word_size": 40, "gram_size": 20}
    return MQAN(**{**given, "mixture": "round_robin", "training": QUICK} | changes)


def network(**changes) -> tuple[MQANNet, Words]:
    """A network of one question and context, out of training."""
    reader = Words(["yes", "no", "left", "right"], size=40, grams=20)
    tasks = (Task("a", Generation(tokens=6), texts=("text", "text_pair")),)
    torch.manual_seed(0)
    return MQANNet(SimpleNamespace(reader=reader, tasks=tasks), small(**changes)).eval(), reader


def ids(reader: Words, *texts: str, extra: int = 0) -> torch.Tensor:
    rows = reader.ids(texts)
    out = torch.full((len(rows), max(map(len, rows)) + extra), -1)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = torch.from_numpy(row)
    return out


# -- the paper -------------------------------------------------------------------------------------


def test_the_paper_configuration_has_its_parameters():
    reader = Words([f"w{i}" for i in range(60_000)])
    spec = SimpleNamespace(reader=reader, tasks=(Task("a", Generation(), texts=("text",)),))
    with torch.device("meta"):
        net = MQANNet(spec, MQAN())
    d, f, g = 200, 150, 50_000

    def lstm(inputs, width):
        return 4 * width * (inputs + width) + 8 * width

    attention, norm = 3 * d * d, 2 * d
    feed = d * f + f + f * d + d
    expected = {
        "projected, answered": 2 * (400 * d + d),
        "independent": 2 * lstm(d, d // 2),
        "coattention": 2 * d + d * d + d,
        "compress": 2 * 2 * lstm(4 * d, d // 2),
        "layers": 2 * 2 * (attention + feed + 2 * norm),
        "last": 2 * 2 * lstm(d, d // 2),
        "decoder layers": 2 * (2 * attention + feed + 3 * norm),
        "decoder LSTM": lstm(2 * d, d),
        "c~ and q~": 2 * 2 * d * d,
        "switches": 2 * (4 * d + 1),
        "vocabulary": d * g + g,
    }
    assert sum(p.numel() for p in net.parameters()) == sum(expected.values()) == 14_389_902


def test_the_learning_rate_is_the_papers():
    training = MQAN().training
    schedule = as_schedule(training.schedule)
    rates = {i: training.lr * schedule(i - 1, 1, 1) for i in (1, 400, 800, 3200, 100_000)}
    assert rates[800] == pytest.approx(0.0025)
    for i, rate in rates.items():
        assert rate == pytest.approx(200**-0.5 * min(i**-0.5, i * 800**-1.5), rel=1e-6)
    assert (training.betas, training.eps, training.clip) == ((0.9, 0.98), 1e-9, 1.0)
    assert MQAN().mixture == "round_robin(tokens=9000)"


def test_coattention_is_the_papers():
    torch.manual_seed(0)
    layer = Coattention(4, dropout=0.3).eval()
    context, question = torch.randn(3, 4), torch.randn(2, 4)
    wide = torch.nn.functional.pad
    with torch.no_grad():
        found = layer(
            wide(context, (0, 0, 0, 2))[None],  # padding changes nothing
            wide(question, (0, 0, 0, 1))[None],
            torch.tensor([[True] * 3 + [False] * 2]),
            torch.tensor([[True, True, False]]),
        )
        c = torch.cat([layer.sentinels.weight[:1], context])
        q = torch.tanh(layer.question(torch.cat([layer.sentinels.weight[1:], question])))
        a = c @ q.T
        s_c, s_q = a.softmax(0), a.softmax(1)
        c_sum, q_sum = s_c.T @ c, s_q @ q
        wanted = (s_q @ c_sum, q_sum, s_c.T @ q_sum, c_sum)
    for got, want, length in zip(found, wanted, (3, 3, 2, 2), strict=True):
        torch.testing.assert_close(got[0, :length], want[1:])


@pytest.mark.parametrize("row", ROWS)
def test_padding_and_company_change_no_answer(row):
    net, reader = network(**ROWS[row])
    context, question = "a zebra ran left", "who ran"
    answer = ids(reader, "zebra left")
    with torch.no_grad():
        alone = net.forced(net.read(ids(reader, context), ids(reader, question)), answer)[0]
        both = net.read(
            ids(reader, context, "a much longer text about no zebra at all", extra=3),
            ids(reader, question, "what happened to it then", extra=2),
        )
        beside = net.forced(both, answer.repeat(2, 1))[0]
    for word in ("zebra", "left", "who", "yes"):
        target = torch.full((1, 3), int(reader.ids([word])[0][0]))
        torch.testing.assert_close(
            beside.probability(target.repeat(2, 1))[:1],
            alone.probability(target),
            atol=1e-6,
            rtol=1e-4,
        )


@pytest.mark.parametrize("row", ROWS)
def test_greedy_answers_are_the_parallel_passes_own(row):
    net, reader = network(**ROWS[row])
    memory = net.read(ids(reader, "a zebra ran left", "no"), ids(reader, "who ran", "yes or no"))
    with torch.no_grad():
        answer = net.generate(memory, 6)
        mixture, wanted = net.forced(memory, answer)
        p, words = mixture.whole()
    p[..., words < EOS] = 0  # neither <unk> nor <init> is answered
    best = words[p.argmax(-1)]
    here = torch.cat([answer, torch.full((2, 1), -1)], 1)[:, : best.shape[1]]
    seen = wanted >= 0
    complete = (answer >= 0).sum(1) == 6  # an answer cut at 6 tokens has no end of its own
    for r in range(2):
        end = 6 if complete[r] else int(seen[r].sum())
        assert best[r, :end].tolist() == torch.where(here[r] < 0, EOS, here[r])[:end].tolist()


def test_gradients_reach_every_parameter_but_unused_norms():
    net, reader = network()
    net.train()
    memory = net.read(ids(reader, "a zebra ran left"), ids(reader, "who ran"))
    mixture, wanted = net.forced(memory, ids(reader, "zebra yes"))
    (-(mixture.probability(wanted) + 1e-10).log().sum()).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_span_is_found_where_most_of_the_answer_stands():
    text = torch.tensor([[5, 6, 7, 8, 6, 9], [5, 6, 5, 7, -1, -1]])
    answer = torch.tensor([[6, 9, -1], [5, 7, -1]])
    scores = pointed(answer, text)
    assert scores.argmax(1).tolist() == [[4, 5], [2, 3]]
    assert torch.isinf(scores[1, 4:]).all()
    nothing = pointed(torch.full((2, 1), -1), text)
    assert nothing.argmax(1).tolist() == [[0, 0], [0, 0]]


# -- the learner -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews() -> Suite:
    """Four kinds over the same texts; some labels are missing."""
    rng = np.random.default_rng(0)
    good, bad = ["lovely", "fine", "superb"], ["awful", "poor", "dull"]
    things = ["soup", "fish", "wine", "bread", "salad"]
    rows = []
    for i in range(160):
        mood, thing, other = rng.integers(2), rng.choice(things), rng.choice(things)
        word = rng.choice(good if mood else bad)
        rows.append(
            {
                "text": f"The {thing} was {word}, the {other} too",
                "again": f"{word} {thing}",
                "mood": bool(mood) if i % 7 else None,
                "thing": str(thing),
                "alike": float(rng.integers(6)),
                "said": f"{word} {thing}",
            }
        )
    table = {name: [row[name] for row in rows] for name in rows[0]}
    kinds = {
        "mood": {"kind": "classification", "texts": ["text"]},
        "thing": {"kind": "span", "texts": ["text"], "tokens": 3},
        "alike": {"kind": "similarity", "texts": ["again", "text"]},
        "said": {"kind": "generation", "texts": ["text"], "tokens": 4},
    }
    return Suite.from_table(table, kinds, inputs={"text": "text", "again": "text"}, name="reviews")


@pytest.fixture(scope="module")
def fitted(reviews) -> MQAN:
    schedule = "inverse_sqrt(warmup=10)"
    return small(training=replace(QUICK, epochs=3, schedule=schedule)).fit(reviews)


def rows_of(suite: Suite):
    return suite.table("test").select(["text", "again"])


def test_every_kind_is_answered(fitted, reviews):
    found = fitted.predict(rows_of(reviews))
    rows = len(reviews.table("test"))
    assert found["mood"].shape == (rows, 2)
    np.testing.assert_allclose(found["mood"].sum(1), 1, atol=1e-6)
    assert found["alike"].shape == (rows,) and (found["alike"] >= 0).all()
    assert (found["alike"] <= 5).all() and len(np.unique(found["alike"])) > rows / 2
    texts = reviews.table("test")["text"].to_pylist()
    assert all(span and span in text for span, text in zip(found["thing"], texts, strict=True))
    assert all(isinstance(words, str) for words in found["said"])


def test_every_task_is_learned_from(fitted):
    first, last = (fitted.history_[epoch]["loss"] for epoch in (0, -1))
    assert all(last[task] < 0.9 * first[task] for task in ("mood", "thing", "said"))


def test_chances_are_the_likelihoods_of_the_words(fitted, reviews):
    rows = rows_of(reviews).slice(0, 1)
    text = rows["text"][0].as_py()
    told = fitted.choose("Is this no or yes?", text, ["no", "yes"])
    chances = fitted.predict(rows, ["mood"])["mood"][0]
    np.testing.assert_allclose(list(told.values()), chances, atol=1e-5)


def test_a_saved_model_answers_the_same_also_about_new_words(fitted, reviews, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    loaded = MQAN.from_pretrained(tmp_path / "model")
    rows = {"text": ["The zebra was quux, the soup too"], "again": ["quux zebra"]}
    for one, other in zip(
        fitted.predict(rows).values(), loaded.predict(rows).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert loaded.score(reviews) == fitted.score(reviews)


def test_other_words_for_the_classes(fitted, reviews):
    rows = rows_of(reviews)
    other = fitted.rephrase("mood", "Is this bad or good?", {"False": "bad", "True": "good"})
    before = fitted.predict(rows, ["mood"])["mood"]
    changed = other.predict(rows, ["mood"])["mood"]
    assert changed.shape == before.shape and not np.allclose(changed, before)
    np.testing.assert_array_equal(fitted.predict(rows, ["mood"])["mood"], before)
    same = other.rephrase("mood", "Is this {classes}?", {"False": "no", "True": "yes"})
    np.testing.assert_allclose(same.predict(rows, ["mood"])["mood"], before, atol=1e-6)
    with pytest.raises(InputError, match="no class 'bad'"):
        fitted.rephrase("mood", labels={"bad": "awful"})


def test_rephrased_models_are_saved_as_they_are(fitted, reviews, tmp_path):
    other = fitted.rephrase("mood", "Is this bad or good?", {"False": "bad", "True": "good"})
    other.save_pretrained(tmp_path / "model")
    loaded = MQAN.from_pretrained(tmp_path / "model")
    rows = rows_of(reviews)
    np.testing.assert_array_equal(
        loaded.predict(rows, ["mood"])["mood"], other.predict(rows, ["mood"])["mood"]
    )


def test_anything_can_be_asked(fitted):
    assert isinstance(fitted.ask("What is the said?", "The soup was fine"), str)
    with pytest.raises(InputError, match="the question is empty"):
        fitted.ask("  ", "soup")
    with pytest.raises(InputError, match="two or more answers"):
        fitted.choose("Is it?", "soup", ["yes"])


def test_missing_labels_teach_nothing(reviews):
    learner = small()
    learner.processor_ = Processor.fit(reviews, learner.reader(reviews))
    torch.manual_seed(0)
    net = learner.build(learner.processor_).eval()
    batch = learner.processor_.encode(reviews, "train")[:8].only(["mood"])
    assert 0 < int(batch.masks["mood"].sum()) < 8
    kept = batch[batch.masks["mood"]]
    torch.testing.assert_close(net.losses(batch)["mood"], net.losses(kept)["mood"])


def test_bad_settings_are_refused_before_anything_is_fitted(reviews):
    cases = {
        "width must be even": small(width=25),
        "heads must be 1 to width": small(heads=0),
        "set question_pointer=False": small(coattention=False),
        "task 'mod' is not known": small(prompts={"mod": "Is it?"}),
        "is no text column of the task": small(prompts={"mood": "Is {titel}?"}),
        "cannot be read": small(vectors="nowhere.txt"),
    }
    for said, learner in cases.items():
        with pytest.raises(InputError, match=said):
            learner.fit(reviews)


def test_tables_are_refused():
    table = {"size": [1.0, 2.0] * 20, "price": [3.0, 4.5] * 20}
    with pytest.raises(InputError, match=r"mqan reads.*text"):
        small().fit(Suite.from_table(table, ["price"]))


# -- what the question pointer is for --------------------------------------------------------------


@pytest.fixture(scope="module")
def choices() -> Suite:
    return question_suite((700, 40, 60), ["choice"])


def chooser(suite: Suite, epochs: int, **changes) -> MQAN:
    budget = replace(QUICK, epochs=epochs, schedule="inverse_sqrt(warmup=20)")
    how = {"width": 48, "layers": 0, "word_size": 300, "dropout": 0.0, "coattention_dropout": 0.0}
    said = 3 + len(CLOSED_WORDS)
    return small(**how, generative=said, training=budget, **changes).fit(suite)


def test_labels_never_seen_are_copied_from_the_question(choices):
    learner = chooser(choices, epochs=3)
    assert learner.score(choices)["choice"]["em"] > 0.9
    # Zero-shot, in words of nobody's making: the question alone brings the classes along.
    chances = learner.choose("pick tomato or banana", "stone left river", ["tomato", "banana"])
    assert chances["tomato"] > 0.9
    assert learner.ask("pick tomato or banana", "right river cloud") == "banana"


def test_without_the_question_pointer_they_cannot_be(choices):
    learner = chooser(choices, epochs=2, question_pointer=False)
    assert learner.score(choices)["choice"]["em"] == 0.0


def test_kinds_travel_with_the_model(fitted):
    assert isinstance(fitted.processor_.task("mood").kind, Classification)
