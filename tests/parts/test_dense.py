"""Dense heads against their formulas; auxiliary heads that only training knows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask.parts.dense import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ConvHead,
    ConvNorm,
    DeepSupervision,
    Normalise,
    PixelShuffleHead,
    PooledHead,
    norm_of,
    padded,
    resized,
    stripped,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_normalise_takes_mean_and_deviation_of_each_channel():
    picture = torch.rand(2, 3, 4, 5)
    for c in range(3):
        expected = (picture[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
        torch.testing.assert_close(Normalise()(picture)[:, c], expected)
    assert not Normalise().state_dict()
    grey = Normalise.for_channels(1)(torch.full((1, 1, 2, 2), 0.75))
    torch.testing.assert_close(grey, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 33), (1, 31)])
def test_padding_reaches_whole_multiples_and_keeps_the_picture(height, width):
    picture = torch.rand(1, 3, height, width)
    out = padded(picture, 32)
    assert out.shape[-2] % 32 == out.shape[-1] % 32 == 0
    assert out.shape[-2] - height < 32 and out.shape[-1] - width < 32
    assert torch.equal(out[..., :height, :width], picture)
    assert torch.equal(out[..., -1, -1], picture[..., -1, -1])


def test_pixel_shuffle_head_lays_channels_out_as_pixels():
    head = PixelShuffleHead(4, 3, factor=2, hidden=(8,)).eval()
    feature = torch.randn(2, 4, 5, 6)
    answer = head(feature, (10, 12))
    assert answer.shape == (2, 3, 10, 12)
    flat = head.layers[:-1](feature)  # [2, 3 * 4, 5, 6]
    for c in range(3):
        for dy in range(2):
            for dx in range(2):
                assert torch.equal(answer[:, c, dy::2, dx::2], flat[:, c * 4 + dy * 2 + dx])
    assert torch.equal(head(feature, (9, 11)), answer[..., :9, :11])


def test_pixel_shuffle_head_drops_out_after_its_first_convolution_only():
    kinds = [type(m) for m in PixelShuffleHead(4, 3, 2, hidden=(8, 4)).layers]
    assert kinds == [ConvNorm, nn.Dropout, ConvNorm, nn.Conv2d, nn.PixelShuffle]


def test_conv_head_is_convolution_norm_gelu_and_a_bilinear_resize():
    head = ConvHead(4, 3, hidden=6).eval()
    feature = torch.randn(2, 4, 5, 6)
    conv, norm, _ = head.layers[0]
    hidden = F.gelu(norm(F.conv2d(feature, conv.weight, padding=1)))
    expected = F.interpolate(head.layers[1](hidden), (20, 24), mode="bilinear")
    torch.testing.assert_close(head(feature, (20, 24)), expected)
    assert torch.equal(resized(feature, (5, 6)), feature)


def test_pooled_head_reads_the_mean_of_the_map():
    head = PooledHead(4, 2, dropout=0.5).eval()
    feature = torch.randn(3, 4, 5, 6)
    expected = feature.flatten(2).mean(2) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(feature), expected)


@pytest.mark.parametrize("channels", [4, 12, 16, 128])
def test_group_norm_does_not_look_at_other_rows(channels):
    norm = norm_of("group", channels).train()
    x = torch.randn(3, channels, 2, 2)
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))
    assert norm(torch.randn(1, channels, 1, 1)).abs().max() > 0  # a group of one would be zero


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = PixelShuffleHead(4, 3, 4, hidden=(8,))
        self.deep = DeepSupervision(
            [PixelShuffleHead(4, 3, 4, hidden=(8, 8)), ConvHead(4, 3)], weight=0.4
        )


def test_deep_supervision_is_the_weighted_sum_of_its_heads_losses():
    net = _Net().eval()
    features, size = [torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2)], (16, 16)
    target = torch.randint(0, 3, (2, 16, 16))
    got = net.deep(features, size, lambda output: F.cross_entropy(output, target))
    each = [
        F.cross_entropy(head(feature, size), target)
        for head, feature in zip(net.deep.heads, features, strict=True)
    ]
    torch.testing.assert_close(got, 0.4 * (each[0] + each[1]))
    silent = DeepSupervision(net.deep.heads, weight=0.0)
    assert silent(features, size, lambda output: F.cross_entropy(output, target)) == 0


def test_stripping_removes_auxiliary_heads_and_nothing_else():
    net = _Net().eval()
    feature = torch.randn(2, 4, 4, 4)
    before, own = net.head(feature, (16, 16)), sum(p.numel() for p in net.head.parameters())
    assert stripped(net) is net
    assert torch.equal(net.head(feature, (16, 16)), before)
    assert sum(p.numel() for p in net.parameters()) == own
    assert not any(isinstance(m, DeepSupervision) for m in net.modules())
