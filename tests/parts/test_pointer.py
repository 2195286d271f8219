"""The multi-pointer-generator against its formula, by slower routes."""

import pytest
import torch
from torch import nn

from polytask.parts.pointer import (
    Memory,
    Mixture,
    PointerDecoder,
    SidewaysAttention,
    greedy,
    negative_log_likelihood,
    sinusoids,
)

D, VOCABULARY, UNKNOWN = 8, torch.arange(6), 0
# Ids from 6 on can only be copied; 7 stands twice in the first context.
CONTEXT = torch.tensor([[7, 3, 7, 2], [9, 4, 2, -1]])
QUESTION = torch.tensor([[5, 8, 2], [9, 2, -1]])
ANSWER = torch.tensor([[1, 7, 3], [1, 9, 2]])


def decoder(**changes) -> PointerDecoder:
    torch.manual_seed(0)
    built = PointerDecoder(
        D, nn.Linear(D, 6), VOCABULARY, heads=3, hidden=10, **{"layers": 2} | changes
    )
    return built.eval()


def memory(context=CONTEXT, question=QUESTION, extra: int = 0) -> Memory:
    """States that depend on id and place alone, so that padding can be added."""
    ids = [torch.nn.functional.pad(t, (0, extra), value=-1) for t in (context, question)]
    table = torch.randn(40, 30, D, generator=torch.Generator().manual_seed(1))
    states = [table[t, torch.arange(t.shape[1])] for t in ids]
    start = (states[0][:, 0].tanh(), states[0][:, 1].tanh())
    layers = (states[0].sin(), states[0].cos())
    return Memory(states[0], ids[0], states[1], ids[1], layers, start)


def embedded(ids: torch.Tensor) -> torch.Tensor:
    return torch.randn(40, D, generator=torch.Generator().manual_seed(2))[ids]


def without_layers(read: Memory) -> Memory:
    return read._replace(layers=())


def mixture(read: Memory | None = None, **changes) -> Mixture:
    with torch.no_grad():
        return decoder(**changes)(embedded(ANSWER), read or memory())[0]


def by_words(mixed: Mixture, row: int, step: int) -> dict[int, float]:
    """p(w) as the paper writes it, word by word."""
    gamma, lam = (float(t[row, step]) for t in (mixed.gamma, mixed.lambda_))
    p = {}
    if mixed.said is not None:
        p = {w: gamma * float(v) for w, v in enumerate(mixed.said[row, step].exp())}
    sources = [(lam, mixed.context, mixed.context_ids)]
    sources += [(1 - lam, mixed.question, mixed.question_ids)]
    for share, attention, ids in sources:
        if attention is not None:
            for weight, word in zip(attention[row, step], ids[row].tolist(), strict=True):
                if word >= 0:
                    p[word] = p.get(word, 0) + (1 - gamma) * share * float(weight)
    return p


@pytest.mark.parametrize("generator", ["mixed", "off", "only"])
@pytest.mark.parametrize("question_pointer", [True, False])
def test_the_mixture_is_the_papers_and_sums_to_1(generator, question_pointer):
    mixed = mixture(generator=generator, question_pointer=question_pointer)
    p, ids = mixed.whole()
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 3))
    for row in range(2):
        for step in range(3):
            wanted = by_words(mixed, row, step)
            for place, word in enumerate(ids.tolist()):
                assert p[row, step, place] == pytest.approx(wanted.get(word, 0.0), abs=1e-6)


@pytest.mark.parametrize("generator", ["mixed", "off", "only"])
def test_one_words_probability_is_that_of_the_whole_distribution(generator):
    mixed = mixture(generator=generator)
    p, ids = mixed.whole()
    for word in ids.tolist():
        target = torch.full((2, 3), word)
        torch.testing.assert_close(mixed.probability(target), p[..., ids.tolist().index(word)])
    assert mixed.probability(torch.full((2, 3), 35)).eq(0).all()  # in no text, in no vocabulary
    assert mixed.probability(torch.full((2, 3), -1)).eq(0).all()


def test_only_the_generator_is_a_plain_softmax():
    mixed = mixture(generator="only")
    p, ids = mixed.whole()
    assert ids.tolist() == VOCABULARY.tolist() and (mixed.gamma == 1).all()
    torch.testing.assert_close(p, mixed.said.exp())
    wanted = torch.nn.functional.cross_entropy(
        mixed.said.flatten(0, 1), torch.tensor([1, 3, 3, 1, 4, 2]), reduction="none"
    )
    loss = negative_log_likelihood(mixed, torch.tensor([[1, 3, 3], [1, 4, 2]]), UNKNOWN)
    torch.testing.assert_close(loss.flatten(), wanted, atol=1e-5, rtol=0)


def test_copying_from_the_context_gives_no_mass_to_other_words():
    mixed = mixture(generator="off", question_pointer=False)
    assert (mixed.gamma == 0).all() and (mixed.lambda_ == 1).all()
    p, ids = mixed.whole()
    for row in range(2):
        elsewhere = ~torch.isin(ids, CONTEXT[row])
        assert p[row, :, elsewhere].eq(0).all()
        torch.testing.assert_close(p[row, :, ~elsewhere].sum(-1), torch.ones(3))


def test_a_word_that_stands_twice_has_the_sum_of_both_attentions():
    mixed = mixture(generator="off", question_pointer=False)
    twice = mixed.probability(torch.full((2, 3), 7))[0]
    torch.testing.assert_close(twice, mixed.context[0, :, 0] + mixed.context[0, :, 2])


def test_padding_changes_nothing():
    p, ids = mixture().whole()
    wide, again = mixture(memory(extra=5)).whole()
    assert ids.tolist() == again.tolist()
    torch.testing.assert_close(p, wide)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_step_by_step_is_the_parallel_pass(layers):
    built, read = decoder(layers=layers), memory()
    read = read._replace(layers=read.layers[:layers])
    with torch.no_grad():
        whole, _ = built(embedded(ANSWER), read)
        state, steps = None, []
        for token in embedded(ANSWER).split(1, dim=1):
            mixed, state = built(token, read, state)
            steps.append(mixed.whole()[0])
    torch.testing.assert_close(torch.cat(steps, dim=1), whole.whole()[0], atol=1e-5, rtol=0)
    assert state.length == (3 if layers else 0)


def test_a_later_token_does_not_reach_back():
    other = ANSWER.clone()
    other[:, 2] = 11
    built, read = decoder(), memory()
    with torch.no_grad():
        one, two = (built(embedded(a), read)[0].whole()[0] for a in (ANSWER, other))
    torch.testing.assert_close(one[:, :2], two[:, :2])
    assert not torch.allclose(one[:, 2], two[:, 2])


def test_input_feeding_reaches_the_lstm():
    """h_t by hand: the LSTM reads [a_t; c~_(t-1)], c~_0 = 0."""
    built, read = decoder(layers=0), without_layers(memory())
    a = embedded(ANSWER)
    with torch.no_grad():
        mixed, _ = built(a, read)
        h, cell, fed = *read.start, torch.zeros(2, D)
        for t in range(3):
            h, cell = built.lstm(torch.cat([a[:, t], fed], dim=1), (h, cell))
            scores = torch.einsum("bd,bld->bl", h, read.context)
            alpha = scores.masked_fill(CONTEXT < 0, -torch.inf).softmax(1)
            torch.testing.assert_close(mixed.context[:, t], alpha)
            read_out = torch.einsum("bl,bld->bd", alpha, read.context)
            x = torch.cat([a[:, t], fed], dim=1)
            fed = torch.tanh(built.context_out(torch.cat([h, read_out], dim=1)))
            gamma = torch.sigmoid(built.generator_switch(torch.cat([h, fed, x], dim=1)))
            torch.testing.assert_close(mixed.gamma[:, t], gamma)


def test_the_loss_is_finite_for_words_of_probability_0():
    built = decoder(generator="off", question_pointer=False)
    mixed, _ = built(embedded(ANSWER), memory())
    target = torch.tensor([[35, 7, -1], [9, 35, 4]])  # 35 stands nowhere, nor does <unk>
    loss = negative_log_likelihood(mixed, target, UNKNOWN)
    assert torch.isfinite(loss).all() and loss[0, 2] == 0
    assert loss[0, 0].item() == pytest.approx(23.026, abs=1e-3)  # -log 1e-10
    loss.sum().backward()
    grads = [p.grad for p in built.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_a_word_out_of_reach_counts_as_unknown():
    mixed = mixture()
    found = negative_log_likelihood(mixed, torch.full((2, 3), 35), UNKNOWN)
    wanted = negative_log_likelihood(mixed, torch.full((2, 3), UNKNOWN), UNKNOWN)
    torch.testing.assert_close(found, wanted)


def test_a_row_whose_text_is_empty_stays_finite():
    read = memory(context=torch.tensor([[-1, -1], [3, 2]]))
    p, _ = mixture(read).whole()
    assert torch.isfinite(p).all()


def test_greedy_takes_the_likeliest_word_that_may_be_said():
    mixed = mixture()._replace()
    p, ids = mixed.whole()
    best = ids[p[:, -1].argmax(1)]
    assert greedy(mixed).tolist() == best.tolist()
    barred = greedy(mixed, never=best.tolist())
    assert not set(barred.tolist()) & set(best.tolist())


def test_scattered_vocabularies_are_found():
    """A vocabulary need not be the first ids (subwords that occur in answers, say)."""
    built = decoder()
    built.vocabulary = torch.tensor([1, 3, 4, 7, 20, 30])
    with torch.no_grad():
        mixed, _ = built(embedded(ANSWER), memory())
    p, ids = mixed.whole()
    assert len(ids) == len(set(ids.tolist())) == 6 + 4  # 2, 5, 8 and 9 are copied only
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 3))
    target = torch.full((2, 3), 7)  # said and copied
    torch.testing.assert_close(mixed.probability(target), p[..., ids.tolist().index(7)])


def test_heads_need_not_divide_the_width():
    torch.manual_seed(0)
    attention = SidewaysAttention(200, 3)
    assert [part.shape[-1] for part in torch.zeros(1, 200).chunk(3, dim=-1)] == [67, 67, 66]
    x = torch.randn(2, 5, 200)
    mask = torch.ones(1, 1, 5, dtype=torch.bool)
    assert attention(x, attention.project(x), mask).shape == (2, 5, 200)


@pytest.mark.parametrize(("scale", "root"), [("head", 4.0), ("width", 8.0)])
def test_attention_is_scaled_as_told(scale, root):
    torch.manual_seed(0)
    attention = SidewaysAttention(8, 2, scale)
    x = torch.randn(1, 3, 8)
    q, k, v = attention.query(x), *attention.project(x)
    parts = [
        (q[..., s] @ k[..., s].mT / root**0.5).softmax(-1) @ v[..., s]
        for s in (slice(4), slice(4, 8))
    ]
    found = attention(x, (k, v), torch.ones(1, 1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.cat(parts, dim=-1))


def test_positions_differ_and_begin_with_zero_angles():
    rows = sinusoids(torch.arange(50), 9)
    assert rows.shape == (50, 9)
    torch.testing.assert_close(rows[0], torch.tensor([0.0] * 5 + [1.0] * 4))
    assert len(rows.unique(dim=0)) == 50


def test_repeated_rows_stay_together():
    read = memory().repeat(2)
    assert read.context_ids.tolist() == [r for row in CONTEXT.tolist() for r in (row, row)]
    assert read.layers[1].shape[0] == read.start[0].shape[0] == 4
