"""A report in the terminal: the verdict, a table of the methods and one of the tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polytask.comparing.words import (
    Json,
    arrow,
    best,
    count,
    decimals,
    duration,
    gain_range,
    headline,
    number,
    ranked,
    score,
    signed,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_TASKS = 30  # lines of the table of tasks


def show(data: Json, console: Console | None = None) -> None:
    """Print the verdict, then a table of the methods and one of the tasks, 100 columns at most."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = console or Console()
    width = min(console.width, 100)
    methods, verdict, seeds = ranked(data), data["verdict"], data["settings"]["seeds"]

    def say(text: str, style: str = "") -> None:
        console.print(Padding(Text(text, style), (0, 1)), width=width)

    console.print()
    say(headline(verdict), "bold")
    say(verdict["sentence"])
    console.print(_method_table(methods, sharing=width > 92), width=width)
    console.print(_task_table(data["suite"]["tasks"], methods, (width - 28) // 8), width=width)
    spread = f"95 % interval over {len(seeds)} seeds" if len(seeds) > 1 else "one seed, no interval"
    say(
        f"→ chosen on validation · gain in percent over {verdict['reference']} ({spread}; it does "
        "not cover other data) · bold is best",
        "dim",
    )
    console.print()


def _method_table(methods: list[Json], sharing: bool) -> Table:
    from rich.text import Text

    table = _table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("method", ratio=1, overflow="fold", min_width=16)
    if sharing:
        table.add_column("sharing", no_wrap=True)
    for column in ("gain\nvalid.", "gain on test\n(95 % interval)", "par-\nams", "train",
                   "ms/1k\nrows"):  # fmt: skip
        table.add_column(column, justify="right", no_wrap=True)
    for method in methods:
        gain, cost = method["gain"], method["cost"]
        spread = gain_range(gain["test"]).replace(" to ", "…")
        row = [
            f"{'→ ' if method['chosen'] else ''}{method['number']}",
            method["name"],
            *([method["sharing"]] if sharing else []),
            signed(gain["validation"]["mean"]),
            signed(gain["test"]["mean"]) + (f" ({spread})" if spread else ""),
            count(cost["parameters"]).replace(" ", ""),
            duration(cost["train_seconds"]).replace(" min ", "m").replace(" ", ""),
            number(cost["latency_ms_per_1000_rows"], 1),
        ]
        table.add_row(*map(Text, row), style="bold green" if method["chosen"] else "")
    return table


def _task_table(tasks: list[Json], methods: list[Json], most: int) -> Table:
    """Test scores, tasks down and methods across: at most so many, the best on validation."""
    from rich.text import Text

    shown = methods
    if len(methods) > most:
        kept = [m for m in methods if m["chosen"] or m["reference"]]
        others = [m for m in methods if m not in kept][: most - len(kept)]
        shown = [m for m in methods if m in kept or m in others]
    table = _table()
    table.add_column("score\non test", ratio=1, overflow="fold", min_width=12)
    table.add_column("metric", no_wrap=True)
    for method in shown:
        mark = "→ " if method["chosen"] else ""
        table.add_column(f"{mark}{method['number']}", justify="right", no_wrap=True)
    for task in tasks[:_TASKS]:
        means = [score(m, task, task["metric"])["mean"] for m in shown]
        digits, top = decimals(means), best(means, task["higher_is_better"])
        cells = [
            Text(number(v, digits), "bold" if v is not None and v == top else "") for v in means
        ]
        metric = f"{task['metric']} {arrow(task['higher_is_better'])}"
        table.add_row(Text(task["name"]), Text(metric), *cells)
    if len(tasks) > _TASKS:
        table.add_row(f"{len(tasks) - _TASKS} more in the report")
    return table


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
