import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.parts.tabular import FeatureTokenizer, TaskTokens


def draw(tokenizer: FeatureTokenizer, rows: int, seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    numeric = torch.randn(rows, tokenizer.n_numeric, generator=rng)
    columns = [torch.randint(int(n), (rows, 1), generator=rng) for n in tokenizer.sizes]
    return numeric, torch.cat([torch.empty(rows, 0, dtype=torch.long), *columns], dim=1)


@settings(max_examples=30, deadline=None)
@given(
    n_numeric=st.integers(0, 4),
    cardinalities=st.lists(st.integers(1, 6), max_size=4),
    width=st.integers(1, 5),
    bias=st.booleans(),
)
def test_tokens_equal_one_linear_or_table_per_column(n_numeric, cardinalities, width, bias):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = FeatureTokenizer(n_numeric, cardinalities, width, bias)
    numeric, categorical = draw(tokenizer, 5)
    expected = []
    for j in range(n_numeric):
        token = numeric[:, j : j + 1] * tokenizer.weight[j]
        expected.append(token + tokenizer.bias[j] if bias else token)
    tables = tokenizer.embedding.weight.split(cardinalities)
    expected += [table[categorical[:, j]] for j, table in enumerate(tables)]
    tokens = tokenizer(numeric, categorical)
    assert tokens.shape == (5, tokenizer.n_tokens, width)
    if expected:
        torch.testing.assert_close(tokens, torch.stack(expected, dim=1))


def test_every_column_reads_its_own_table_only():
    tokenizer = FeatureTokenizer(1, [3, 4], 2)
    tokenizer(*draw(tokenizer, 50))[:, 2].sum().backward()
    touched = tokenizer.embedding.weight.grad.any(dim=1)
    assert not touched[:3].any() and touched[3:].all()
    assert not tokenizer.weight.grad.any()


@pytest.mark.parametrize("code", [4, 1000, -1])
def test_a_code_outside_its_table_is_the_unknown_category(code):
    tokenizer = FeatureTokenizer(0, [4, 5], 3)
    nothing = torch.empty(1, 0)
    unseen = tokenizer(nothing, torch.tensor([[code, 2]]))
    torch.testing.assert_close(unseen, tokenizer(nothing, torch.tensor([[0, 2]])))


def test_init_std_draws_small_weights_and_clears_biases():
    torch.manual_seed(0)
    tokenizer = FeatureTokenizer(50, [500], 16, init_std=0.01)
    assert tokenizer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert tokenizer.embedding.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not tokenizer.bias.any()


def test_the_layout_of_the_tables_is_not_part_of_the_weights():
    assert set(FeatureTokenizer(1, [3], 2).state_dict()) == {"weight", "bias", "embedding.weight"}


@pytest.mark.parametrize(
    ("numeric", "categorical", "message"),
    [(1, 2, "numeric has 1 columns"), (3, 1, "categorical has 1 columns")],
)
def test_a_wrong_number_of_columns_is_refused(numeric, categorical, message):
    tokenizer = FeatureTokenizer(3, [2, 2], 4)
    with pytest.raises(ValueError, match=message):
        tokenizer(torch.zeros(5, numeric), torch.zeros(5, categorical, dtype=torch.long))


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match=r"cardinalities\[1\] is 0"):
        FeatureTokenizer(0, [3, 0], 4)


def test_task_tokens_are_the_same_for_every_row_and_learn_from_all():
    tokens = TaskTokens(3, 4)
    out = tokens(5)
    assert out.shape == (5, 3, 4)
    assert (out == tokens.weight).all()
    out.sum().backward()
    assert (tokens.weight.grad == 5).all()
