"""Trunks: one contract, whoever built the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polytask.errors import InputError
from polytask.parts.trunks import as_trunk, only_picture, spaced

transformers = pytest.importorskip("transformers")

PICTURE = SimpleNamespace(size=(40, 50), channels=3)
SMALL_VIT = "vit(width=16, depth=4, heads=2, patch=8)"


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def tiny(kind: str) -> Any:
    """A tiny network of a kind that transformers knows, with random weights."""
    if kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
        return transformers.ResNetModel(transformers.ResNetConfig(layer_type="basic", **sizes))
    if kind == "segformer":
        sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
        heads = {"num_attention_heads": [1, 1, 2, 2]}
        return transformers.SegformerModel(transformers.SegformerConfig(**sizes, **heads))
    width = {"hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2}
    if kind == "vit":
        config = transformers.ViTConfig(**width, intermediate_size=32, image_size=32, patch_size=8)
        return transformers.ViTModel(config)
    config = transformers.Dinov2Config(**width, mlp_ratio=2, image_size=28, patch_size=7)
    return transformers.Dinov2Model(config)


WANTED = {
    "resnet": ((8, 12, 16, 20), (4, 8, 16, 32)),
    "segformer": ((8, 8, 16, 16), (4, 8, 16, 32)),
    "vit": ((16,) * 4, (8,) * 4),
    "dinov2": ((16,) * 4, (7,) * 4),
}


def check_contract(trunk: Any, picture: Tensor) -> None:
    """Maps of the promised channels, and of a picture padded to whole cells of the coarsest."""
    maps = trunk(picture)
    coarse = max(trunk.strides)
    high, wide = (side + -side % coarse for side in picture.shape[-2:])
    wanted = zip(trunk.channels, trunk.strides, strict=True)
    shapes = [(len(picture), c, high // s, wide // s) for c, s in wanted]
    assert [tuple(m.shape) for m in maps] == shapes


@pytest.mark.parametrize("kind", sorted(WANTED))
def test_a_local_folder_comes_with_its_weights(kind: str, tmp_path: Path) -> None:
    net = tiny(kind)
    net.save_pretrained(tmp_path)
    trunk = as_trunk(str(tmp_path), PICTURE).eval()
    assert (trunk.channels, trunk.strides) == WANTED[kind]
    check_contract(trunk, torch.rand(2, 3, 40, 50))
    kept = dict(net.named_parameters())
    shared = {k: v for k, v in trunk.net.named_parameters() if k in kept}
    assert len(shared) > 8 and all(torch.equal(v, kept[k]) for k, v in shared.items())


@pytest.mark.parametrize("kind", sorted(WANTED))
def test_its_text_rebuilds_it_without_the_folder(kind: str, tmp_path: Path) -> None:
    tiny(kind).save_pretrained(tmp_path)
    trunk = as_trunk(str(tmp_path), PICTURE).eval()
    again = as_trunk(trunk.text, PICTURE).eval()
    assert str(tmp_path) == trunk.name == again.name and again.text == trunk.text
    again.load_state_dict(trunk.state_dict())
    picture = torch.rand(1, 3, 40, 50)
    for one, other in zip(trunk(picture), again(picture), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_maps_are_those_of_transformers(tmp_path: Path) -> None:
    net = tiny("vit").eval()
    net.save_pretrained(tmp_path)
    trunk = as_trunk(str(tmp_path), SimpleNamespace(size=(32, 32), channels=3)).eval()
    picture = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = (picture - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    wanted = net(scaled).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(trunk(picture)[-1], wanted)


def test_statistics_come_from_the_preprocessor(tmp_path: Path) -> None:
    tiny("vit").save_pretrained(tmp_path)
    said = '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}'
    (tmp_path / "preprocessor_config.json").write_text(said)
    trunk = as_trunk(str(tmp_path), PICTURE)
    for one in (trunk, as_trunk(trunk.text, PICTURE)):
        assert one.normalise.mean.flatten().tolist() == [0.5, 0.5, 0.5]
        assert one.normalise.std.flatten().tolist() == [0.25, 0.5, 1.0]


def test_taps_choose_blocks(tmp_path: Path) -> None:
    tiny("vit").save_pretrained(tmp_path)
    picture = torch.rand(1, 3, 32, 32)
    usual = as_trunk(str(tmp_path), PICTURE).eval()(picture)  # blocks 2, 4, 6, 8
    some = as_trunk(str(tmp_path), PICTURE, taps=(4, 8)).eval()(picture)
    assert len(usual) == 4 and len(some) == 2
    torch.testing.assert_close(some, [usual[1], usual[3]])
    tiny("resnet").save_pretrained(tmp_path / "resnet")
    usual = as_trunk(str(tmp_path / "resnet"), PICTURE).eval()(picture)  # stages 1 to 4
    some = as_trunk(str(tmp_path / "resnet"), PICTURE, taps=(2, 4)).eval()(picture)
    torch.testing.assert_close(some, [usual[1], usual[3]])


@pytest.mark.parametrize(
    "text",
    [
        "dual_path(width=0.25)",
        "mit(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 1, 2, 2))",
        SMALL_VIT,
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_ours_keep_the_contract(text: str, channels: int) -> None:
    trunk = as_trunk(text, SimpleNamespace(size=(40, 50), channels=channels)).eval()
    assert trunk.text == text
    check_contract(trunk, torch.rand(2, channels, 40, 50))


def test_our_vit() -> None:
    trunk = as_trunk(SMALL_VIT, PICTURE).eval()
    assert (trunk.channels, trunk.strides, trunk.taps) == ((16,) * 4, (8,) * 4, (1, 2, 3, 4))
    check_contract(trunk, torch.rand(2, 3, 40, 50))
    check_contract(trunk, torch.rand(2, 3, 17, 64))  # positions are resized
    deep = as_trunk(SMALL_VIT, PICTURE, taps=(3,)).eval()
    deep.load_state_dict(trunk.state_dict())
    picture = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(deep(picture), trunk(picture)[2:3])


def test_our_vit_drops_paths_in_training_only() -> None:
    trunk = as_trunk(SMALL_VIT.replace(")", ", drop_path=0.9)"), PICTURE)
    picture = torch.rand(1, 3, 40, 50)
    runs = [trunk(picture)[-1] for _ in range(4)]
    assert any(not torch.equal(runs[0], run) for run in runs[1:])
    trunk.eval()
    assert torch.equal(trunk(picture)[-1], trunk(picture)[-1])


def test_paper_scale_vits() -> None:
    """303.3 M without the classifier: timm's vit_large_patch16_384 at 512 x 512."""
    picture = SimpleNamespace(size=(512, 512), channels=3)
    with torch.device("meta"):
        large, base = as_trunk("vit_l16", picture), as_trunk("vit_b16", picture)
    assert large.taps == (6, 12, 18, 24) and base.taps == (3, 6, 9, 12)
    patches = 3 * 16**2 * 1024 + 1024 + 1024 * (32 * 32 + 2)
    block = 12 * 1024**2 + 13 * 1024
    assert count(large) == patches + 24 * block + 2 * 1024
    assert [tuple(m.shape) for m in large(torch.zeros(1, 3, 512, 512, device="meta"))] == [
        (1, 1024, 32, 32)
    ] * 4


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (2, (1, 2)), (5, (1, 2, 3, 5))],
)
def test_spaced(depth: int, taps: tuple[int, ...]) -> None:
    assert spaced(depth) == taps


def refused(text: str, *told: str, picture: Any = PICTURE, taps: tuple[int, ...] = ()) -> None:
    with pytest.raises(InputError) as error:
        as_trunk(text, picture, taps)
    sentence = str(error.value)
    assert "\n" not in sentence and all(word in sentence for word in told), sentence


def test_wrong_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("vit_16", "'vit_16'", "vit_l16", "local folder")
    refused("somebody/some-model", "'somebody/some-model'", "network")
    refused(str(tmp_path), str(tmp_path), "local folder")
    refused("vit(widht=3)", "widht")
    refused(SMALL_VIT, "taps", "1 to 4", taps=(2, 9))
    refused("dual_path", "taps", taps=(1,))


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny("vit").save_pretrained(tmp_path / "vit")
    four = SimpleNamespace(size=(32, 32), channels=4)
    refused(str(tmp_path / "vit"), "3 channels", "4", picture=four)
    refused(str(tmp_path / "vit"), "taps", "0 to 8", taps=(9,))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = transformers.BertConfig(vocab_size=10, intermediate_size=8, **sizes)
    transformers.BertModel(text).save_pretrained(tmp_path / "bert")
    refused(str(tmp_path / "bert"), "bert", "no feature maps")
    (tmp_path / "vit" / "model.safetensors").unlink()
    refused(str(tmp_path / "vit"), str(tmp_path / "vit"), "safetensors")


def test_one_picture_and_nothing_else() -> None:
    spec: Any = SimpleNamespace(pictures={"image": PICTURE}, numeric={}, categorical={}, arrays={})
    assert only_picture(spec, "x") == ("image", PICTURE)
    spec.numeric = {"age": None}
    with pytest.raises(InputError, match=r"x reads one picture.*'image', 'age'"):
        only_picture(spec, "x")
