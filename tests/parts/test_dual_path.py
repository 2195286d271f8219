"""The universal inverted bottleneck in all its forms, and the two paths, against their formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polytask.errors import InputError
from polytask.parts.dual_path import (
    UIB_FORMS,
    DualPath,
    GuidedAggregation,
    SqueezeExcite,
    UniversalInvertedBottleneck,
    uib_kernels,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _lively(module: nn.Module) -> nn.Module:
    """Norms with statistics and scales of their own, so that none is the identity."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    return module.eval()


def _conv_norm(x, layer, stride=1, groups=1):
    conv, norm = layer[0], layer[1]
    x = F.conv2d(x, conv.weight, None, stride, conv.weight.shape[-1] // 2, groups=groups)
    x = (x - norm.running_mean.view(-1, 1, 1)) / (norm.running_var + norm.eps).sqrt().view(-1, 1, 1)
    return x * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


_STRIDED = ["ib", "convnext", "extradw", "S0-M0-E3", "S5-M3-E3"]


@pytest.mark.parametrize(
    ("form", "stride"), [("ffn", 1), *((form, s) for form in _STRIDED for s in (1, 2))]
)
def test_every_form_is_its_formula(form, stride):
    start, middle, end = uib_kernels(form)
    block = UniversalInvertedBottleneck(8, 8, stride, form, expand=3, gamma=0.7)
    layers = iter(_lively(block).layers)
    x = out = torch.randn(2, 8, 9, 7)
    if start:
        out = _conv_norm(out, next(layers), 1 if middle else stride, groups=8)
    out = _conv_norm(out, next(layers)).relu()
    assert out.shape[1] == 24
    if middle:
        out = _conv_norm(out, next(layers), stride, groups=24).relu()
    gate = next(layers).gate
    mean = out.mean((2, 3), keepdim=True)
    hidden = F.conv2d(mean, gate[1].weight, gate[1].bias).relu()
    assert hidden.shape[1] == 6
    out = out * torch.sigmoid(F.conv2d(hidden, gate[3].weight, gate[3].bias))
    out = _conv_norm(out, next(layers))
    if end:
        out = _conv_norm(out, next(layers), 1 if start or middle else stride, groups=8)
    assert next(layers, None) is None
    torch.testing.assert_close(block(x), 0.7 * out + (x if stride == 1 else 0))


@pytest.mark.parametrize(("channels", "outputs", "stride"), [(16, 16, 1), (16, 24, 1), (16, 24, 2)])
def test_the_plain_form_is_mobilenets_inverted_residual(channels, outputs, stride):
    v2 = pytest.importorskip("transformers.models.mobilenet_v2.modeling_mobilenet_v2")
    config = v2.MobileNetV2Config(hidden_act="relu", tf_padding=False, layer_norm_eps=1e-5)
    theirs = _lively(v2.MobileNetV2InvertedResidual(config, channels, outputs, stride))
    ours = UniversalInvertedBottleneck(channels, outputs, stride, squeeze=0, gamma=None).eval()
    for layer, source in zip(ours.layers, theirs.children(), strict=True):
        layer[0].load_state_dict(source.convolution.state_dict())
        layer[1].load_state_dict(source.normalization.state_dict())
    x = torch.randn(2, channels, 10, 12)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("form", sorted(UIB_FORMS))
def test_a_block_with_gamma_zero_and_a_skip_is_the_identity(form):
    block = UniversalInvertedBottleneck(8, 8, form=form, gamma=0.0).train()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), x)


def test_a_form_that_is_none_is_refused():
    for form in ("mbconv", "S2-M3-E0", "S3M3E0"):
        with pytest.raises(InputError, match=r"uib is .* ib, convnext, extradw, ffn"):
            uib_kernels(form)
    with pytest.raises(InputError, match="no depthwise convolution to carry a stride"):
        UniversalInvertedBottleneck(8, 16, 2, "ffn")


def test_squeeze_excite_only_scales_channels():
    x = torch.randn(2, 8, 5, 5)
    ratio = SqueezeExcite(8, 2)(x) / x
    torch.testing.assert_close(ratio, ratio.mean((2, 3), keepdim=True).expand_as(x))
    assert ((ratio > 0) & (ratio < 1)).all()


def test_the_published_sizes():
    trunk = DualPath()

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for m in modules for p in m.parameters())

    assert count(trunk.detail) == 519_232
    assert count(trunk.stem, trunk.stages, trunk.context) == 2_045_464
    assert count(trunk.aggregation) == 478_720
    assert DualPath(width=0.25).channels == (4, 8, 16, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (97, 130), (32, 33)])
def test_features_have_the_size_their_stride_says(height, width):
    trunk = DualPath(channels=1, width=0.125).eval()
    features = trunk(torch.rand(2, 1, height, width))
    for feature, channels, stride in zip(features, trunk.channels, trunk.strides, strict=True):
        assert feature.shape == (2, channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize("form", sorted(UIB_FORMS))
def test_every_form_builds_a_trunk(form):
    trunk = DualPath(width=0.125, uib=form)
    sum(f.square().mean() for f in trunk(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


def test_layer_scale_silences_the_deep_path_unless_told_otherwise():
    picture = torch.rand(4, 3, 64, 64)

    def loudness(gamma_on_downsample: bool) -> list[float]:
        torch.manual_seed(0)
        trunk = DualPath(width=0.25, gamma_on_downsample=gamma_on_downsample)
        return [float(f.detach().std()) for f in trunk(picture)[1:4]]

    assert max(loudness(True)) < 1e-4
    assert min(loudness(False)) > 1e-2


def test_aggregation_is_its_formula():
    block = _lively(GuidedAggregation(8))
    detail, meaning = torch.randn(2, 8, 16, 24), torch.randn(2, 8, 4, 6)

    def separable(x, layers):
        return F.conv2d(_conv_norm(x, layers[0], groups=8), layers[1].weight)

    def up(x):
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)

    pooled = F.avg_pool2d(_conv_norm(detail, block.left2[0], stride=2), 3, 2, 1)
    gate = torch.sigmoid(up(_conv_norm(meaning, block.right1)))
    coarse = pooled * torch.sigmoid(separable(meaning, block.right2))
    mixed = separable(detail, block.left1) * gate + up(coarse)
    torch.testing.assert_close(block(detail, meaning), _conv_norm(mixed, block.last).relu())


def test_one_picture_trains_with_group_norm_and_not_with_batch_norm():
    picture = torch.rand(1, 3, 64, 64)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        DualPath(width=0.125).train()(picture)
    trunk = DualPath(width=0.25, norm="group").train()
    both = torch.cat([picture, torch.rand(1, 3, 64, 64)])
    torch.testing.assert_close(trunk(picture)[-1], trunk(both)[-1][:1], atol=1e-5, rtol=1e-4)
