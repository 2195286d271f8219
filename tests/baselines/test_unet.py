"""MONAI's U-Net as a learner."""

import sys

import numpy as np
import pytest
import torch

from polytask.baselines.unet import UNet
from polytask.data import Processor
from polytask.errors import InputError
from polytask.testing import check_system, mixed_suite, photograph_suite
from polytask.training import Training

pytest.importorskip("monai")
SMALL = {"features": (4, 4, 4, 4, 4, 4), "norm": "none"}


@pytest.fixture(scope="module")
def suite():
    return photograph_suite()


def test_promises():
    checks = check_system(UNet, suite=photograph_suite(size=32), **SMALL)
    broken = [c for c in checks if c.passed is False]
    assert broken == []


def test_it_is_monais_network_with_a_head_per_task(suite):
    from monai.networks.nets import BasicUNet

    learner = UNet(norm="batch")
    net = learner.build(Processor.fit(suite.only("mask"))).eval()
    theirs = BasicUNet(2, 3, 2, norm=("batch", {"affine": True}))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in theirs.parameters())
    theirs.load_state_dict(
        {
            **{k.removeprefix("trunk."): v for k, v in net.state_dict().items() if "trunk" in k},
            "final_conv.weight": net.heads["mask"].weight.detach(),
            "final_conv.bias": net.heads["mask"].bias.detach(),
        }
    )
    picture = torch.rand(2, 3, 16, 16)
    found = net.outputs({"photograph": picture}, ["mask"])["mask"]
    torch.testing.assert_close(found, theirs.eval()(picture))


def test_residual_starts_from_the_input():
    from polytask.data.dual_pixel_views import scene_suite

    scenes = scene_suite(views_only=1, pairs=2, validation=1, test=1, size=16)
    net = UNet(residual=True, **SMALL).build(Processor.fit(scenes))
    for head in net.heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    picture = torch.rand(2, 3, 16, 16)
    found = net.outputs({"blurred": picture}, ["sharp"])["sharp"]
    torch.testing.assert_close(found, picture)


def test_it_learns_to_segment():
    suite = photograph_suite(rows=60).only("mask")
    training = Training(lr=1e-2, batch=8, epochs=12, patience=12, device="cpu")
    scores = UNet(training=training, **SMALL).fit(suite).score(suite)["mask"]
    assert scores["miou"] > 0.8 and np.isfinite(list(scores.values())).all()


def test_what_it_cannot_read_is_refused(suite):
    with pytest.raises(InputError, match="32 x 32"):
        UNet().fit(suite)
    with pytest.raises(InputError, match="six numbers"):
        UNet(features=(8, 8)).build(Processor.fit(suite))
    with pytest.raises(InputError, match="picture"):
        UNet(**SMALL).fit(mixed_suite())


def test_a_missing_package_is_named(suite, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(InputError, match=r"monai.*polytask\[vision\]"):
        UNet(**SMALL).build(Processor.fit(suite))
