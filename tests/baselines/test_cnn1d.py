import numpy as np
import pytest
import torch

from polytask.baselines.cnn1d import CNN1d
from polytask.data import Processor, Suite
from polytask.errors import InputError
from polytask.testing import check_system
from polytask.training import Training


def waves(rows=200):
    """Which of two rates a sine has, and how strong its noise is."""
    rng = np.random.default_rng(0)
    fast, noise = rng.random(rows) < 0.5, rng.uniform(0.1, 1, rows)
    phase = rng.uniform(0, 6, (rows, 1)) + np.arange(40) * np.where(fast, 0.9, 0.5)[:, None]
    x = np.stack([np.sin(phase) + noise[:, None] * rng.normal(size=(rows, 40))] * 2, axis=2)
    return Suite.from_table(
        {"wave": x.astype(np.float32), "fast": fast, "noise": noise}, ["fast", "noise"]
    )


def test_keeps_the_promises_of_every_learner():
    for check in check_system(CNN1d, suite=waves(60), widths=(8, 8), kernels=(5, 3)):
        assert check.passed is not False, check


def test_it_learns_both_tasks():
    training = Training(lr=3e-3, batch=32, epochs=15, patience=15)
    scores = CNN1d(widths=(16, 16), kernels=(7, 5), training=training).fit(waves()).score(waves())
    assert scores["fast"]["accuracy"] > 0.85
    assert scores["noise"]["ev"] > 0.5


def test_the_net_is_convolutions_and_a_mean_over_time():
    module = CNN1d().build(Processor.fit(waves())).eval()
    assert [m.weight.shape for m in module.trunk if isinstance(m, torch.nn.Conv1d)] == [
        (128, 2, 8),
        (256, 128, 5),
        (128, 256, 3),
    ]
    x = {"wave": torch.randn(3, 40, 2)}
    torch.testing.assert_close(
        module.represent(x, ["fast"]), module.trunk(module.signal(x)).mean(2)
    )


@pytest.mark.parametrize("widths", [(8,), ()])
def test_widths_without_kernels_are_refused(widths):
    with pytest.raises(InputError, match=f"{len(widths)} and 3"):
        CNN1d(widths=widths).fit(waves(60))
