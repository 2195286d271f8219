"""The code on the balancer pages runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polytask.training.balancers import BALANCERS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["balancers.md", "add-a-balancer.md"])
def test_the_code_of_a_page_runs(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_the_page_lists_every_balancer() -> None:
    table = (DOCS / "balancers.md").read_text("utf-8").split("## How an update")[0]
    listed = {
        n for row in re.findall(r"^\| (.*?) \|", table, re.M) for n in re.findall(r"`(\w+)", row)
    }
    assert listed == set(BALANCERS)
