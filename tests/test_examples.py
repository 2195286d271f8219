"""The examples run and learn."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "needs"),
    [("plain_loop", "torch"), ("fabric", "lightning_fabric"), ("trainer", "transformers")],
)
def test_an_example_learns(name: str, needs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(needs)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, name, raising=False)
    losses = importlib.import_module(name).main()
    assert losses[-1] < 0.5 * losses[0]
