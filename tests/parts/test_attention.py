import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polytask.parts.attention import (
    InterSample,
    OwnAttention,
    SelfAttention,
    TransformerLayer,
    task_mask,
)
from polytask.parts.mlp import MLP
from polytask.parts.tabular import FeatureTokenizer, TaskTokens

KINDS = ["none", "TxT", "FxT", "both"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def slow_attention(attention: SelfAttention, x, keys, mask=None):
    """softmax(Q K^T / sqrt(d)) V, head by head and query by query, of x [L, w] to keys [M, w]."""
    size = x.shape[-1] // attention.heads
    rows = []
    for i, query in enumerate(attention.query(x)):
        visible = keys if mask is None else keys[mask[i]]
        parts = []
        for head in range(attention.heads):
            part = slice(head * size, (head + 1) * size)
            scores = attention.key(visible)[:, part] @ query[part] / size**0.5
            parts.append(torch.softmax(scores, 0) @ attention.value(visible)[:, part])
        rows.append(attention.output(torch.cat(parts)))
    return torch.stack(rows)


# --- masks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "forbidden"), [("TxT", 6), ("FxT", 6), ("both", 12)])
def test_three_tasks_and_two_features_forbid_as_the_paper_says(kind, forbidden):
    mask = task_mask(3, 2, kind)
    assert mask.shape == (5, 5)
    assert (~mask).sum() == forbidden


@given(tasks=st.integers(1, 8), features=st.integers(0, 8), kind=st.sampled_from(KINDS[1:]))
def test_masks_forbid_only_what_they_name(tasks, features, kind):
    mask = task_mask(tasks, features, kind)
    tokens = [("t", i) for i in range(tasks)] + [("f", i) for i in range(features)]
    for query, row in zip(tokens, mask, strict=True):
        for key, visible in zip(tokens, row, strict=True):
            among_tasks = query[0] == key[0] == "t" and query != key
            feature_to_task = query[0] == "f" and key[0] == "t"
            hidden = (kind != "FxT" and among_tasks) or (kind != "TxT" and feature_to_task)
            assert visible.item() is not hidden
    assert mask.any(dim=1).all(), "no token may be blind"


def test_no_mask_is_none_and_an_unknown_kind_is_refused():
    assert task_mask(3, 2, "none") is None
    with pytest.raises(ValueError, match="kind is 'TXT'"):
        task_mask(3, 2, "TXT")


# --- one layer ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_its_formula(kind, heads):
    attention = SelfAttention(8, heads)
    x = torch.randn(3, 5, 8)
    mask = task_mask(3, 2, kind)
    expected = torch.stack([slow_attention(attention, row, row, mask) for row in x])
    torch.testing.assert_close(attention(x, mask), expected)


def test_with_a_context_a_position_sees_the_context_and_itself():
    attention = SelfAttention(8, 2)
    x, context = torch.randn(4, 8), torch.randn(6, 8)
    rows = [slow_attention(attention, row[None], torch.cat([context, row[None]])) for row in x]
    torch.testing.assert_close(attention(x, context=context), torch.cat(rows))


def test_attention_dropout_acts_in_training_only():
    attention = SelfAttention(8, 2, dropout=0.5)
    x, context = torch.randn(1, 9, 8), torch.randn(1, 4, 8)
    for arguments in ({}, {"context": context}):
        attention.train()
        assert not torch.equal(attention(x, **arguments), attention(x, **arguments))
        attention.eval()
        assert torch.equal(attention(x, **arguments), attention(x, **arguments))


def test_a_layer_is_pre_norm():
    layer = TransformerLayer(SelfAttention(8, 2), 8, 16)
    x = torch.randn(3, 5, 8)
    h = x + layer.attention(layer.attention_norm(x))
    up, _, _, down = layer.mlp
    expected = h + down(nn.functional.gelu(up(layer.mlp_norm(h))))
    torch.testing.assert_close(layer(x), expected)


def test_bad_attention_arguments_are_refused():
    with pytest.raises(ValueError, match="width 10 does not divide into 4 heads"):
        SelfAttention(10, 4)
    x = torch.randn(2, 8)
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="mask and context"):
        SelfAttention(8, 2)(x, mask, x)
    with pytest.raises(ValueError, match="neither mask nor context"):
        OwnAttention(8)(x, mask)


# --- what the masks mean for tasks -------------------------------------------------------------


def reaches(kind: str, blocks: int) -> torch.Tensor:
    """Whether task j's token has a gradient from task i's output, [i, j]."""
    tasks, features, width = 3, 4, 8
    tokens = torch.randn(2, tasks + features, width, requires_grad=True)
    x = tokens
    for _ in range(blocks):
        layer = TransformerLayer(SelfAttention(width, 2), width, 16)
        x = layer(x, task_mask(tasks, features, kind))
    readout = torch.randn(width)
    rows = []
    for i in range(tasks):
        (grad,) = torch.autograd.grad((x[:, i] @ readout).sum(), tokens, retain_graph=True)
        rows.append(grad[:, :tasks].abs().sum(dim=(0, 2)) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_isolated_exactly_where_the_mask_says(kind, blocks):
    # Under TxT a second block carries a task to the others through the feature tokens.
    isolated = kind == "both" or (kind == "TxT" and blocks == 1)
    own = torch.eye(3, dtype=torch.bool)
    expected = own if isolated else torch.ones(3, 3, dtype=torch.bool)
    assert torch.equal(reaches(kind, blocks), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_features_with_their_embeddings_changes_no_task_output(kind):
    tasks, width = 2, 8
    task_tokens = TaskTokens(tasks, width, init_std=1.0)
    tokenizer, permuted = FeatureTokenizer(3, [4, 5], width), FeatureTokenizer(3, [5, 4], width)
    layers = [TransformerLayer(SelfAttention(width, 2), width, 16) for _ in range(2)]
    order = [2, 0, 1]
    with torch.no_grad():
        permuted.weight.copy_(tokenizer.weight[order])
        permuted.bias.copy_(tokenizer.bias[order])
        first, second = tokenizer.embedding.weight.split([4, 5])
        permuted.embedding.weight.copy_(torch.cat([second, first]))

    def outputs(tokens):
        x = torch.cat([task_tokens(len(tokens)), tokens], dim=1)
        for layer in layers:
            x = layer(x, task_mask(tasks, 5, kind))
        return x[:, :tasks]

    numeric = torch.randn(6, 3)
    categorical = torch.stack([torch.arange(6) % 4, torch.arange(6) % 5], dim=1)
    plain = outputs(tokenizer(numeric, categorical))
    moved = outputs(permuted(numeric[:, order], categorical[:, [1, 0]]))
    torch.testing.assert_close(moved, plain)
    unmatched = outputs(tokenizer(numeric[:, order], categorical))
    assert not torch.allclose(unmatched, plain)


# --- rows ------------------------------------------------------------------------------------


def inter_sample(mode: str) -> InterSample:
    return InterSample(3 * 8, heads=4, ff=16, mode=mode).eval()


def test_rows_depend_on_the_batch_in_mode_true_only():
    x = torch.randn(6, 3, 8)
    for mode in ("true", "per_row", "off"):
        layer = inter_sample(mode)
        alone = torch.cat([layer(row[None]) for row in x])
        assert torch.allclose(layer(x), alone, atol=1e-5) is (mode != "true")


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), size=st.integers(0, 5), seed=st.integers(0, 99))
def test_with_a_context_a_row_does_not_depend_on_the_batch(rows, size, seed):
    torch.manual_seed(seed)
    layer = inter_sample("true")
    x, context = torch.randn(rows, 3, 8), torch.randn(size, 3, 8)
    together = layer(x, context)
    alone = torch.cat([layer(row[None], context) for row in x])
    torch.testing.assert_close(together, alone)
    # One row beside its context is the last row of the batch that holds both.
    joint = layer(torch.cat([context, x[:1]]))[-1:]
    torch.testing.assert_close(together[:1], joint)


def test_a_context_matters():
    layer = inter_sample("true")
    x = torch.randn(2, 3, 8)
    assert not torch.allclose(layer(x, torch.randn(4, 3, 8)), layer(x, torch.randn(4, 3, 8)))


@pytest.mark.parametrize("mode", ["true", "per_row", "off"])
def test_permuting_rows_permutes_outputs(mode):
    layer = inter_sample(mode)
    x, order = torch.randn(6, 3, 8), torch.randperm(6)
    torch.testing.assert_close(layer(x[order]), layer(x)[order])


def test_per_row_is_what_true_does_to_a_batch_of_one():
    true, per_row = inter_sample("true"), inter_sample("per_row")
    weights = per_row.state_dict()
    per_row.load_state_dict({name: true.state_dict()[name] for name in weights})
    x = torch.randn(5, 3, 8)
    torch.testing.assert_close(per_row(x), torch.cat([true(row[None]) for row in x]))
    true(x[:1]).sum().backward()
    idle = [name for name, p in true.named_parameters() if p.grad.abs().max() < 1e-6]
    assert {name.split(".")[2] for name in idle} == {"query", "key"}
    assert set(weights) == set(true.state_dict()) - set(idle)


def test_off_returns_its_input_and_has_no_parameters():
    layer = inter_sample("off")
    x = torch.randn(2, 3, 8)
    assert layer(x) is x
    assert not list(layer.parameters())


def test_bad_inter_sample_arguments_are_refused():
    with pytest.raises(ValueError, match="mode is 'rope'"):
        inter_sample("rope")
    x = torch.randn(2, 3, 8)
    for mode in ("per_row", "off"):
        with pytest.raises(ValueError, match="takes no context"):
            inter_sample(mode)(x, x)


# --- size --------------------------------------------------------------------------------------


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameter_counts_of_the_published_design():
    """e=16, T=6 tasks and d=16 numbers, so n=22 and n*e=352; 1 block, ff=128, head [64].

    About 602k parameters, 590k of them between rows and 13k elsewhere: reproduced by a full
    attention with biases (4 w^2 + 4 w) and ff=128. With ff=256 the row layer alone has 679k.
    """
    width, tasks, features, ff = 16, 6, 16, 128
    rows = InterSample((tasks + features) * width, 4, ff)
    rest = [
        FeatureTokenizer(features, [], width),
        TaskTokens(tasks, width),
        TransformerLayer(SelfAttention(width, 4), width, ff),
        *(MLP(width, [64], 1) for _ in range(tasks)),
    ]
    assert count(rows) == 589_024
    assert count(*rest) == 12_918
    assert count(rows, *rest) == 601_942
    assert count(InterSample(352, 4, 256)) == 679_264
    assert count(InterSample(352, 4, 128, mode="per_row")) == 589_024 - 2 * (352 * 352 + 352)
