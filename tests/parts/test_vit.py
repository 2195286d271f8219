import pytest
import torch
from torch import nn

from polytask.errors import InputError
from polytask.parts.vit import (
    Block,
    Encoder,
    HeadedAttention,
    Patches1d,
    Patches2d,
    StochasticDepth,
    Tokens,
)


def signal_tokens(length=100, channels=3, width=16, patch=20):
    torch.manual_seed(0)
    return Tokens(Patches1d(channels, width, patch), (length,))


def test_a_patch_is_a_linear_map_of_its_samples_and_channels():
    torch.manual_seed(0)
    patches = Patches1d(3, 16, 20)
    x = torch.randn(2, 3, 60)
    second = x[:, :, 20:40].flatten(1) @ patches.weight.flatten(1).T + patches.bias
    torch.testing.assert_close(patches(x)[:, 1], second)


def test_picture_patches_come_row_by_row():
    torch.manual_seed(0)
    patches = Patches2d(3, 16, 4)
    x = torch.randn(2, 3, 8, 12)
    assert patches(x).shape == (2, 6, 16)
    fifth = x[:, :, 4:8, 4:8].flatten(1) @ patches.weight.flatten(1).T + patches.bias
    torch.testing.assert_close(patches(x)[:, 4], fifth)


@pytest.mark.parametrize(("length", "count"), [(100, 5), (119, 5), (120, 6)])
def test_there_is_a_token_per_whole_patch_and_one_more(length, count):
    tokens = signal_tokens(length)
    assert tokens(torch.randn(2, 3, length)).shape == (2, count + 1, 16)


def test_samples_after_the_last_whole_patch_do_nothing():
    tokens, x = signal_tokens(119), torch.randn(2, 3, 119)
    changed = x.clone()
    changed[:, :, 100:] = 7.0
    torch.testing.assert_close(tokens(x), tokens(changed))


@pytest.mark.parametrize("size", [(19,), (8, 3)])
def test_an_input_shorter_than_a_patch_is_refused(size):
    patches = Patches1d(1, 4, 20) if len(size) == 1 else Patches2d(1, 4, 4)
    with pytest.raises(InputError, match="shorter than a patch of"):
        Tokens(patches, size)


def test_permuted_channels_with_permuted_weights_change_nothing():
    tokens, x = signal_tokens(), torch.randn(2, 3, 100)
    expected = tokens(x)
    order = [2, 0, 1]
    tokens.patches.weight.data = tokens.patches.weight.data[:, order]
    torch.testing.assert_close(tokens(x[:, order]), expected)


def test_positions_of_a_longer_signal_are_between_the_learned_ones():
    tokens = signal_tokens()
    tokens.positions.data[0, 1:, 0] = torch.arange(5.0)
    longer = tokens.positions_of((10,))
    assert longer.shape == (1, 11, 16)
    torch.testing.assert_close(longer[:, 0], tokens.positions[:, 0])
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4])
    torch.testing.assert_close(longer[0, 1:, 0], expected)
    assert tokens(torch.randn(2, 3, 200)).shape == (2, 11, 16)


def test_positions_of_another_picture_size_keep_rows_and_columns_apart():
    tokens = Tokens(Patches2d(3, 8, 4), (16, 16))
    tokens.positions.data[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)  # its row
    plane = tokens.positions_of((4, 7))[0, 1:, 0].view(4, 7)
    torch.testing.assert_close(plane, torch.arange(4.0)[:, None].expand(4, 7))
    assert tokens(torch.randn(1, 3, 16, 28)).shape == (1, 29, 8)


def test_six_heads_of_256_are_42_wide():
    attention = HeadedAttention(256, 6)
    assert attention.head_width == 42
    assert attention.query.weight.shape == (252, 256)
    assert attention.output.weight.shape == (256, 252)
    assert attention(torch.randn(2, 5, 256)).shape == (2, 5, 256)


@pytest.mark.parametrize(("width", "heads"), [(4, 5), (4, 0)])
def test_more_heads_than_width_are_refused(width, heads):
    with pytest.raises(InputError, match=f"{heads} heads"):
        HeadedAttention(width, heads)


def test_attention_is_its_formula_and_the_weights_are_its_weights():
    torch.manual_seed(0)
    attention = HeadedAttention(10, 3, bias=False)
    x = torch.randn(2, 7, 10)
    total = torch.zeros(2, 7, 10)
    output, weights = attention.with_weights(x)
    for head in range(3):
        mine = slice(3 * head, 3 * head + 3)
        query, key, value = (
            x @ part.weight[mine].T for part in (attention.query, attention.key, attention.value)
        )
        each = (query @ key.transpose(1, 2) / 3**0.5).softmax(-1)
        torch.testing.assert_close(weights[:, head], each)
        total += each @ value @ attention.output.weight[:, mine].T
    torch.testing.assert_close(attention(x), total)
    torch.testing.assert_close(output, total)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7))


def test_a_block_equals_torch_where_torch_can_do_it():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    ours = Block(HeadedAttention(12, 3), 12, 20, 0.0, StochasticDepth())
    packed = theirs.self_attn
    for i, part in enumerate((ours.attention.query, ours.attention.key, ours.attention.value)):
        part.weight.data = packed.in_proj_weight.data[12 * i : 12 * i + 12]
        part.bias.data = packed.in_proj_bias.data[12 * i : 12 * i + 12]
    ours.attention.output.load_state_dict(packed.out_proj.state_dict())
    ours.attention_norm.load_state_dict(theirs.norm1.state_dict())
    ours.mlp_norm.load_state_dict(theirs.norm2.state_dict())
    ours.mlp[0].load_state_dict(theirs.linear1.state_dict())
    ours.mlp[3].load_state_dict(theirs.linear2.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("scaling", ["training", "evaluation"])
def test_stochastic_depth_keeps_the_share_it_says_row_by_row(scaling):
    torch.manual_seed(0)
    keep = StochasticDepth(0.7, scaling)
    seen = keep(torch.ones(4000, 3))
    factor = 1 / 0.7 if scaling == "training" else 1.0
    assert seen.unique().tolist() == pytest.approx([0.0, factor])
    assert (seen == seen[:, :1]).all()
    assert float((seen > 0).float().mean()) == pytest.approx(0.7, abs=0.03)
    at_test = keep.eval()(torch.ones(2, 3))
    assert float(at_test.mean()) == pytest.approx(0.7 * factor)


def test_a_block_without_survival_is_the_identity_in_evaluation():
    block = Block(HeadedAttention(8, 2), 8, 16, 0.0, StochasticDepth(0.0, "evaluation")).eval()
    x = torch.randn(2, 5, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("survival", "scaling"), [(1.5, "training"), (0.5, "timm")])
def test_wrong_stochastic_depth_is_refused(survival, scaling):
    with pytest.raises(InputError, match="survival in"):
        StochasticDepth(survival, scaling)


def test_survival_falls_linearly_over_the_depth():
    blocks = Encoder(8, 6, 2, survival=0.7).blocks
    assert [b.keep.survival for b in blocks] == pytest.approx([1, 0.94, 0.88, 0.82, 0.76, 0.7])


def test_taps_are_the_tokens_after_their_blocks_and_the_last_is_normed():
    torch.manual_seed(0)
    encoder, x = Encoder(8, 4, 2).eval(), torch.randn(2, 5, 8)
    second, last = encoder(x, taps=(2, 4))
    h = encoder.blocks[1](encoder.blocks[0](x))
    torch.testing.assert_close(second, h)
    torch.testing.assert_close(last, encoder.norm(encoder.blocks[3](encoder.blocks[2](h))))
    torch.testing.assert_close(encoder(x)[0], last)


def test_blocks_after_the_deepest_tap_are_not_run():
    encoder = Encoder(8, 3, 2)
    encoder.blocks[2].register_forward_hook(lambda *_: pytest.fail("ran"))
    encoder(torch.randn(1, 4, 8), taps=(1, 2))


@pytest.mark.parametrize("taps", [(), (0, 1), (1, 5)])
def test_taps_outside_the_depth_are_refused(taps):
    with pytest.raises(InputError, match="blocks 1 to 4"):
        Encoder(8, 4, 2)(torch.randn(1, 3, 8), taps)


def test_attention_gives_the_same_tokens_and_takes_gradients():
    torch.manual_seed(0)
    encoder, x = Encoder(9, 3, 2).eval(), torch.randn(2, 5, 9)
    tokens, weights = encoder.attention(x)
    torch.testing.assert_close(tokens, encoder(x)[0])
    assert [w.shape for w in weights] == [(2, 2, 5, 5)] * 3
    gradients = torch.autograd.grad(tokens[:, 0].square().sum(), weights)
    assert all(g.abs().sum() > 0 for g in gradients)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_the_sleep_trunk_has_two_million_parameters():
    with torch.device("meta"):
        tokens = Tokens(Patches1d(5, 256, 20), (2000,))
        encoder = Encoder(256, 6, 6, 128, bias=False, survival=0.7, scaling="evaluation")
    assert parameters(tokens) + parameters(encoder) == 2_002_432


def test_vit_large_has_the_known_size():
    with torch.device("meta"):
        tokens = Tokens(Patches2d(3, 1024, 16), (384, 384))
        encoder = Encoder(1024, 24, 16, survival=0.85)
    # 304.7 M of vit_large_patch16_384 without its classifier of 1000 classes
    assert parameters(tokens) + parameters(encoder) == 304_715_752 - 1_025_000
