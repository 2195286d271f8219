import numpy as np
import pytest
import torch

from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.parts.signals import Signal, scaled


def spec(shape, **other):
    table = {"wave": np.random.default_rng(0).normal(size=(30, *shape)), **other}
    table["kind"] = np.tile(["a", "b"], 15)
    return Processor.fit(Suite.from_table(table, ["kind"]))


@pytest.mark.parametrize("scale", ["zscore", "minmax"])
def test_gain_and_offset_of_a_channel_do_not_matter(scale):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 50)
    moved = x * torch.tensor([3.0, 0.5, 7.0])[:, None] + torch.tensor([1.0, -4.0, 0.0])[:, None]
    torch.testing.assert_close(scaled(moved, scale), scaled(x, scale), atol=1e-4, rtol=0)


def test_scales_are_what_they_say():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 50) * 5 + 2
    z, unit = scaled(x, "zscore"), scaled(x, "minmax")
    torch.testing.assert_close(z.mean(-1), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(-1, unbiased=False), torch.ones(4, 3))
    assert (unit.amin(-1) == 0).all()
    torch.testing.assert_close(unit.amax(-1), torch.ones(4, 3))
    assert scaled(x, "none") is x
    assert (scaled(torch.full((1, 1, 9), 3.0), "zscore").abs() < 1e-6).all()


@pytest.mark.parametrize(
    ("shape", "layout", "channels"), [((20, 3), "LC", 3), ((3, 20), "CL", 3), ((20,), "CL", 1)]
)
def test_every_layout_is_read_channels_first(shape, layout, channels):
    signal = Signal.of(spec(shape), layout, "none")
    assert (signal.channels, signal.samples) == (channels, 20)
    x = torch.randn(5, *shape)
    expected = x.movedim(1, 2) if shape == (20, 3) else x.view(5, channels, 20)
    torch.testing.assert_close(signal({"wave": x}), expected)


@pytest.mark.parametrize(
    ("shape", "settings", "sentence"),
    [
        ((3, 20), ("LC", "zscore"), "20 channels of 3 samples; set layout='CL'"),
        ((20, 3), ("CL", "zscore"), "20 channels of 3 samples; set layout='LC'"),
        ((20, 3), ("BLC", "zscore"), "layout is 'BLC'"),
        ((20, 3), ("LC", "z"), "scale is 'z'"),
        ((4, 20, 3), ("LC", "zscore"), "reads one column of arrays"),
    ],
)
def test_what_is_no_such_signal_is_refused(shape, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Signal.of(spec(shape), *settings)


def test_other_inputs_are_refused_by_name():
    with pytest.raises(InputError, match="'wave', 'age': exclude"):
        Signal.of(spec((20, 3), age=np.arange(30.0)), "LC", "zscore")


def test_minmax_alone_refuses_what_does_not_move():
    x = torch.randn(5, 20, 3)
    x[3, :, 1] = 0.5
    Signal("wave", 3, 20, "LC", "zscore").check({"wave": x})
    with pytest.raises(InputError, match="'wave': channel 1 is constant in row 4 of test"):
        Signal("wave", 3, 20, "LC", "minmax").check({"wave": x}, " of test")
