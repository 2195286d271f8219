"""MQAN over an encoder: what it reads and copies, its sizes, and the learner around it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from polytask.data import Processor
from polytask.data.question_suite import question_suite
from polytask.errors import InputError
from polytask.systems.mqan_encoder import MQANEncoder, MQANEncoderNet
from polytask.testing import document_suite, pair_suite
from polytask.training import Training

TINY = "bert(width=32, depth=1, heads=2, dropout=0.0)"
QUICK = Training(lr=3e-3, batch=32, epochs=2, schedule="linear", clip=1.0, device="cpu")


def small(**changes) -> MQANEncoder:
    given = {"encoder": TINY, "vocabulary": 300, "width": 24, "heads": 2, "hidden": 16}
    return MQANEncoder(**{**given, "training": QUICK} | changes)


@pytest.fixture(scope="module")
def pairs():
    return pair_suite()


@pytest.fixture(scope="module")
def fitted(pairs):
    return small().fit(pairs)


def network(suite, **changes) -> MQANEncoderNet:
    learner = small(**changes)
    processor = Processor.fit(suite, learner.reader(suite))
    torch.manual_seed(0)
    return learner.build(processor).eval()


def ids(net: MQANEncoderNet, *texts: str, extra: int = 0) -> torch.Tensor:
    rows = net.reader.ids(texts)
    out = torch.full((len(rows), max(map(len, rows)) + extra), -1)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = torch.from_numpy(row)
    return out


def test_the_pointers_choose_among_the_tokens_of_either_text(pairs):
    net = network(pairs)
    context, question = ids(net, "the cat sleeps", "a dog"), ids(net, "who", "who or what is it")
    memory = net.read(context, question)
    for found, given in ((memory.context_ids, context), (memory.question_ids, question)):
        for row, wanted in zip(found.tolist(), given.tolist(), strict=True):
            kept = [i for i in wanted if i >= 0]
            assert [i for i in row if i >= 0] == [*kept, net.marks.eos]
    assert memory.context.shape[:2] == memory.context_ids.shape
    assert memory.question.shape[:2] == memory.question_ids.shape


@pytest.mark.parametrize("layers", [0, 2])
def test_padding_and_company_change_no_answer(pairs, layers):
    net = network(pairs, layers=layers)
    context, question, answer = "the cat sleeps", "who sleeps", ids(net, "cat")
    with torch.no_grad():
        alone = net.forced(net.read(ids(net, context), ids(net, question)), answer)[0]
        both = net.read(
            ids(net, context, "a much longer text about the dog at home", extra=4),
            ids(net, question, "what does it do then", extra=1),
        )
        beside = net.forced(both, answer.repeat(2, 1))[0]
    for word in ("cat", "who", "dog"):
        target = ids(net, word)[:, :1].repeat(1, 2 + answer.shape[1] - 1)
        torch.testing.assert_close(
            beside.probability(target.repeat(2, 1))[:1],
            alone.probability(target),
            atol=1e-6,
            rtol=1e-3,
        )


@pytest.mark.parametrize("layers", [0, 2])
def test_greedy_answers_are_the_parallel_passes_own(pairs, layers):
    net = network(pairs, layers=layers)
    memory = net.read(ids(net, "the cat sleeps"), ids(net, "who sleeps"))
    with torch.no_grad():
        answer = net.generate(memory, 5)
        mixture, _ = net.forced(memory, answer)
        p, words = mixture.whole()
    p[..., torch.isin(words, torch.tensor([net.marks.unknown, net.marks.init]))] = 0
    said = int((answer >= 0).sum())
    assert words[p.argmax(-1)][0, :said].tolist() == answer[0, :said].tolist()


def test_what_is_said_is_scored_by_the_encoders_embeddings(pairs):
    net = network(pairs)
    x = torch.randn(3, 24)
    table = net.encoder.net.get_input_embeddings().weight
    wanted = net.decoder.say.project(x) @ table.T + net.decoder.say.bias
    torch.testing.assert_close(net.decoder.say(x), wanted)
    # The table is a parameter of the encoder, counted once.
    names = [n for n, p in net.named_parameters() if p is table]
    assert names == ["encoder.net.embeddings.word_embeddings.weight"]


def test_all_parameters_are_learned(pairs):
    net = network(pairs, layers=1).train()
    mixture, wanted = net.forced(
        net.read(ids(net, "the cat sleeps"), ids(net, "who sleeps")), ids(net, "cat home")
    )
    (-(mixture.probability(wanted) + 1e-10).log().sum()).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_every_kind_of_pair_task_is_answered(fitted, pairs):
    found = fitted.predict(pairs.table("test").select(["first", "second"]))
    rows = len(pairs.table("test"))
    assert found["relation"].shape == (rows, 3) and found["same"].shape == (rows, 2)
    for task in ("relation", "same"):
        np.testing.assert_allclose(found[task].sum(1), 1, atol=1e-6)
    assert found["alike"].shape == (rows,) and np.isfinite(found["alike"]).all()


def test_a_saved_model_answers_the_same(fitted, pairs, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    loaded = MQANEncoder.from_pretrained(tmp_path / "model")
    assert loaded.score(pairs) == fitted.score(pairs)
    assert loaded.ask("who sleeps", "the cat") == fitted.ask("who sleeps", "the cat")
    assert (tmp_path / "model" / "encoder" / "model.safetensors").exists()


def test_copying_from_the_question_is_learned():
    suite = question_suite((500, 40, 60), ["choice"])
    learner = small(width=48, max_length=48, training=replace(QUICK, epochs=4)).fit(suite)
    rows = suite.table("test").select(["text", "text_pair"])
    read = learner.processor_.reader.ids
    answers = read(list(learner.predict(rows)["choice"]))
    questions = read(rows["text"].to_pylist())
    copied = [len(a) and set(a) <= set(q) for a, q in zip(answers, questions, strict=True)]
    assert np.mean(copied) > 0.9


def test_bad_settings_are_refused(pairs):
    with pytest.raises(InputError, match="heads must be 1 to width"):
        small(heads=0).fit(pairs)
    with pytest.raises(InputError, match=r"task 'relatoin' is not known.*relation"):
        small(prompts={"relatoin": "Is it?"}).fit(pairs)
    with pytest.raises(InputError, match=r"'sections'.*cannot be put in words"):
        small().fit(document_suite())
