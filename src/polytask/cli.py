"""The command line: compare, fit, predict, stream, systems, claims."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polytask.errors import InputError, nearest

_DEMO_ROWS = 20_000
_SHOWN_TASKS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: something given cannot be used)."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse cannot take key=value words between options of a subcommand; they are left over.
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if unknown := [word for word in rest if word not in overrides]:
        parser.error(f"argument {unknown[0]} is not known")
    if overrides and not hasattr(arguments, "overrides"):
        parser.error(f"this command takes no settings such as {overrides[0]}")
    arguments.overrides = overrides
    try:
        return int(arguments.run(arguments) or 0)
    except InputError as error:
        print(f"polytask: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"polytask: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npolytask: stopped; finished runs are kept, call again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="polytask",
        description="Should these tasks share one model, which way of sharing wins, and how do I "
        "ship it?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compare = commands.add_parser(
        "compare",
        help="single-task against shared models on a table; writes report.html",
        epilog="Settings of all neural learners: words such as training.epochs=20.",
    )
    _suite_arguments(compare)
    compare.add_argument("--rows", type=int, help="flights: this many rows, evenly over the year")
    compare.add_argument("--full", action="store_true", help="flights: all 336,776 rows")
    compare.add_argument("--learners", help="learners that share, comma-separated")
    compare.add_argument("--balancers", help="balancers beside equal weights; '' for none")
    compare.add_argument("--steps", help="steps beside plain ones, such as flat(rho=0.5)")
    compare.add_argument("--rivals", help="learners fitted task by task; '' for none")
    compare.add_argument("--seeds", help="comma-separated; at least 3 give an interval")
    compare.add_argument(
        "--tune",
        action="append",
        metavar="KEY=A,B,..",
        help="let every method choose this setting on validation",
    )
    compare.add_argument("--no-transfer", action="store_true", help="skip the pairs of tasks")
    compare.add_argument("--jobs", type=int, default=-1, help="fits at a time (all cores)")
    compare.add_argument("--out", default=".", help="folder of report.html and report.json")
    compare.add_argument("--print-config", action="store_true", help="print the plan and stop")
    compare.set_defaults(run=_compare, overrides=[])

    fit = commands.add_parser(
        "fit",
        help="fit one system and save it",
        epilog="Settings: words such as training.lr=0.003 (see --print-config).",
    )
    fit.add_argument("system", help="an id of 'polytask systems'")
    _suite_arguments(fit, nargs="?")
    fit.add_argument("--out", help="folder of the model; a stopped fit goes on")
    fit.add_argument("--config", help="YAML file with the system's settings")
    fit.add_argument("--print-config", action="store_true", help="print the settings and stop")
    fit.set_defaults(run=_fit, overrides=[])

    predict = commands.add_parser("predict", help="predict the rows of a file with a saved model")
    predict.add_argument("model", help="folder that 'polytask fit' or 'polytask export' wrote")
    predict.add_argument("file", help="table with the input columns; a picture or a folder of them")
    predict.add_argument("--tasks", help="some of the tasks, comma-separated")
    predict.add_argument("--out", help="CSV file (default: standard output); of maps, a folder")
    predict.set_defaults(run=_predict)

    export = commands.add_parser("export", help="write a saved model as one ONNX file")
    export.add_argument("model", help="folder that 'polytask fit' wrote")
    export.add_argument("--out", required=True, help="folder of the ONNX file")
    export.add_argument("--tasks", help="some of the tasks, comma-separated")
    export.add_argument("--int8", action="store_true", help="quantise, judged on --data")
    export.add_argument("--data", dest="suite", help="suite whose validation part judges int8")
    _suite_options(export)
    export.set_defaults(run=_export)

    show = commands.add_parser("show", help="a page about a saved model, with example predictions")
    show.add_argument("model", help="folder that 'polytask fit' wrote")
    _suite_arguments(show)
    show.add_argument("--examples", type=int, default=8, help="rows that are shown")
    show.add_argument("--out", default="model.html", help="the page")
    show.set_defaults(run=_show)

    stream = commands.add_parser(
        "stream", help="learners of streams on a table in its order: test, then train"
    )
    stream.add_argument("file", help="table file; rows in order, or put in order by --time")
    stream.add_argument("--target", required=True, help="column of the classes")
    stream.add_argument("--time", help="column that orders the rows; not an input")
    stream.add_argument("--exclude", help="columns that are not inputs, comma-separated")
    stream.add_argument("--learners", default="driftmoe,hoeffding_tree", help="comma-separated")
    stream.add_argument("--window", type=int, help="rows of a window (a fiftieth; at most 1000)")
    stream.add_argument("--delay", type=int, default=0, help="rows by which a label is late")
    stream.add_argument("--out", default=".", help="folder of stream.svg and stream.json")
    stream.set_defaults(run=_stream)

    systems = commands.add_parser("systems", help="the catalogue")
    systems.add_argument("--json", action="store_true")
    systems.set_defaults(run=_systems)

    claims = commands.add_parser("claims", help="what the papers claim, and what was measured")
    claims.add_argument("system", nargs="?")
    claims.add_argument("--recorded", action="store_true", help="as on record; measure nothing")
    claims.add_argument("--json", action="store_true")
    claims.set_defaults(run=_claims)
    return parser


def _suite_arguments(parser: argparse.ArgumentParser, **how_many: Any) -> None:
    parser.add_argument(
        "suite",
        help="'flights', a table file, a folder of pictures or of one text file per task, or a "
        "YAML file that names one",
        **how_many,
    )
    _suite_options(parser)


def _suite_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--targets", help="target columns, comma-separated")
    parser.add_argument("--text", help="columns that hold text, comma-separated")
    parser.add_argument("--split", help="random[:SEED], time:COLUMN, group:COLUMN, column:COLUMN")
    parser.add_argument("--exclude", help="columns that are not inputs, comma-separated")
    parser.add_argument("--by", help="a column whose every value is a task of its own")
    parser.add_argument("--kinds", help="YAML file with targets, kinds, inputs, split, exclude")


# -- compare -------------------------------------------------------------------------------------


def _compare(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from polytask.comparing.compare import Plan, budget, compare

    given = _plan(arguments)
    suite = open_suite(arguments)
    plan = Plan.suited(suite, **given)
    plan = replace(plan, settings={**budget(suite), **plan.settings})
    if arguments.print_config:
        _print_yaml({"suite": suite.describe(), "plan": vars(plan)})
        return 0
    out = _writable(arguments.out)
    _show_suite(suite)
    with _Bar() as bar:
        report = compare(suite, plan=plan, jobs=arguments.jobs, progress=bar)
    report.data["settings"]["command"] = _command()
    report.print()
    report.to_json(out / "report.json")
    report.to_html(out / "report.html")
    print(f"\nwrote {out / 'report.html'} and {out / 'report.json'}")
    return 0


def _plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the plan."""
    from polytask.config import assignment

    given: dict[str, Any] = {}
    for name in ("learners", "balancers", "steps", "rivals"):
        if getattr(arguments, name) is not None:
            given[name] = tuple(_names(getattr(arguments, name)))
    if arguments.seeds is not None:
        try:
            given["seeds"] = tuple(int(s) for s in _names(arguments.seeds))
        except ValueError:
            raise InputError(f"--seeds takes whole numbers, not {arguments.seeds!r}") from None
    given["tuning"] = dict(_tuning(text) for text in arguments.tune or ())
    given["settings"] = dict(assignment(text) for text in arguments.overrides)
    given["transfer"] = False if arguments.no_transfer else None
    return given


def _tuning(text: str) -> tuple[str, list[Any]]:
    from polytask.config import parse_yaml

    key, equals, values = text.partition("=")
    if not equals:
        raise InputError(f"--tune {text!r} is not of the form key=a,b")
    return key, [parse_yaml(v, f"--tune {text!r}") for v in _names(values)]


# -- fit and predict -----------------------------------------------------------------------------


def _fit(arguments: argparse.Namespace) -> int:
    from polytask.catalogue import load_system
    from polytask.config import assignment, from_dict, override, read_yaml, to_dict

    cls = load_system(arguments.system)
    data = to_dict(cls())
    if arguments.config:
        learner = from_dict(cls, _merged(data, read_yaml(arguments.config)), arguments.config)
        data = to_dict(learner)
    settings = override(data, map(assignment, arguments.overrides))
    learner = from_dict(cls, settings, arguments.system)
    if arguments.print_config:
        _print_yaml(to_dict(learner))
        return 0
    for argument, what in (("suite", "a table file or 'flights'"), ("out", "--out FOLDER")):
        if not getattr(arguments, argument):
            raise InputError(f"fit needs {what}")
    out = _writable(arguments.out)
    suite = open_suite(arguments)
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    if leads:
        _show_suite(suite)
    started = time.perf_counter()

    def progress(record: dict[str, Any]) -> None:
        if "warning" in record:
            print(f"polytask: {record['warning']}", file=sys.stderr)
        elif "score" in record:
            done = record["epoch"] + 1
            left = record["seconds"] * (learner.training.epochs - done)
            print(
                f"epoch {done:3d}/{learner.training.epochs}  validation {record['score']:.4f}  "
                f"{record['seconds']:.1f} s, at most {left:.0f} s left",
                flush=True,
            )

    learner.fit(suite, out=out / "run", progress=progress)
    if not leads:
        return 0
    learner.save_pretrained(out / "model")
    for task, scores in learner.score(suite, "test").items():
        print(f"{task}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
    print(f"saved {out / 'model'} after {time.perf_counter() - started:.0f} s")
    return 0


def _merged(data: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings with a file's keys over them, one level of nesting at a time."""
    merged = dict(data)
    for key, value in given.items():
        inner = merged.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def _predict(arguments: argparse.Namespace) -> int:
    import pyarrow.csv as pv

    from polytask.comparing import answers

    learner = _opened(arguments.model)
    tasks = _names(arguments.tasks) if arguments.tasks else None
    every = [task.name for task in learner.processor_.tasks]
    asked = [learner.processor_.task(name) for name in tasks or every]
    if any(task.kind.dense for task in asked):
        if not arguments.out:
            raise InputError("answers that are maps are written to a folder: give --out FOLDER")
        out = _writable(arguments.out)
        rows = answers.write(learner, arguments.file, out, tasks)
        print(f"wrote predictions.csv and the maps of {rows} pictures to {out}")
        return 0
    table = answers.table(learner, arguments.file, tasks)
    if arguments.out:
        out = Path(arguments.out)
        _writable(str(out.parent))
        pv.write_csv(table, out)
        print(f"wrote {table.num_rows} rows to {out}")
    else:
        pv.write_csv(table, sys.stdout.buffer)
    return 0


def _opened(model: str) -> Any:
    """The learner that ``fit`` saved in a folder, or the session that ``export`` wrote."""
    from polytask.lifecycle.export import is_export, load_session
    from polytask.training.saved import load

    folder = Path(model)
    if is_export(folder):
        return load_session(folder)
    return load(folder / "model" if (folder / "model").is_dir() else folder)


# -- export and show -------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
    from polytask.lifecycle.export import export

    learner = _opened(arguments.model)
    suite = open_suite(arguments) if arguments.suite else None
    tasks = _names(arguments.tasks) if arguments.tasks else None
    told = export(learner, arguments.out, tasks=tasks, int8=arguments.int8, suite=suite)
    print(json.dumps(told, indent=1, default=str) if isinstance(told, dict) else told)
    print(f"wrote {arguments.out}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from polytask.comparing.gallery import gallery

    out = Path(arguments.out)
    _writable(str(out.parent))
    learner = _opened(arguments.model)
    page = gallery(learner, open_suite(arguments), examples=arguments.examples)
    out.write_text(page, encoding="utf-8")
    print(f"wrote {out}")
    return 0


# -- stream --------------------------------------------------------------------------------------


def _stream(arguments: argparse.Namespace) -> int:
    from polytask.comparing.streams import picture, table
    from polytask.data.streams import Stream
    from polytask.training.prequential import prequential

    classes = {name: _incremental(name) for name in _names(arguments.learners)}
    stream = Stream.from_table(
        arguments.file,
        arguments.target,
        time=arguments.time,
        exclude=_names(arguments.exclude or ""),
        skip_unlabelled=True,
        name=Path(arguments.file).stem,
    )
    out = _writable(arguments.out)
    window = arguments.window or max(1, min(1000, len(stream) // 50))
    known = {
        "features": stream.features,
        "nominal": dict(stream.nominal),
        "classes": len(stream.classes),
    }
    records = []
    for name, cls in classes.items():
        print(f"{name}: {len(stream):,} rows of {stream.name}", flush=True)
        takes = {key: value for key, value in known.items() if hasattr(cls, key)}
        model = cls(**takes)
        records.append(prequential(model, stream, delay=arguments.delay, window=window, name=name))
    print(table(records))
    (out / "stream.svg").write_text(picture(records), encoding="utf-8")
    (out / "stream.json").write_text(json.dumps([r.to_dict() for r in records]), encoding="utf-8")
    print(f"wrote {out / 'stream.svg'} and {out / 'stream.json'}")
    return 0


def _incremental(name: str) -> Any:
    from polytask.catalogue import load_system
    from polytask.training import Incremental

    cls = load_system(name)
    if not issubclass(cls, Incremental):
        raise InputError(f"{name} does not learn row by row; 'polytask systems' says which do")
    return cls


# -- systems and claims --------------------------------------------------------------------------


def _systems(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from polytask.catalogue import catalogue

    entries = list(catalogue().values())
    if arguments.json:
        print(json.dumps([asdict(e) for e in entries], indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("id", "year", "domain", "for"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        table.add_row(entry.id, entry.year, entry.domain, entry.use)
    Console().print(table)
    return 0


def _claims(arguments: argparse.Namespace) -> int:
    from polytask.comparing import claims

    systems = [arguments.system] if arguments.system else claims.claimants()
    if arguments.recorded:
        known = claims.claimants()
        if arguments.system and arguments.system not in known:
            raise InputError(
                f"system {arguments.system!r} has no benchmark{nearest(arguments.system, known)}"
            )
        rows = claims.recorded(systems)
    else:
        rows = [row for system in systems for row in claims.measure(system)]
    if arguments.json:
        print(json.dumps(claims.as_rows(rows), indent=1, ensure_ascii=False))
    else:
        _print_claims(rows)
    return 0 if all(row.holds for row in rows) else 1


def _print_claims(rows: Sequence[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_lines=False)
    for column in ("system", "claim", "paper", "measured", "relation", "holds", "seeds", "command"):
        table.add_column(column, overflow="fold")
    for row in rows:
        claim = row.claim + (f" [dim]({row.reason})[/dim]" if row.reason else "")
        holds = "[green]yes[/green]" if row.holds else "[red]no[/red]"
        seeds = ",".join(map(str, row.seeds))
        table.add_row(
            row.system, claim, row.paper, row.measured, row.relation, holds, seeds, row.command
        )
    Console().print(table)


# -- suites from arguments -----------------------------------------------------------------------

_SUITE_KEYS: dict[str, tuple[Any, ...]] = {
    "data": (str,),
    "tasks": (dict,),
    "targets": (list, dict),
    "split": (str,),
    "exclude": (list, dict),
    "inputs": (dict,),
    "by": (str,),
    "size": (list,),
    "unreadable": (str,),
    "images": (str,),
    "name": (str,),
    "about": (str,),
    "notes": (list,),
}


def open_suite(arguments: argparse.Namespace) -> Any:
    """The suite a command names: packaged, a table, a folder, or a YAML file that says more."""
    from polytask.data.suite import Suite

    name = arguments.suite
    if name == "flights":
        from polytask.data.packaged import flights

        full = getattr(arguments, "full", True)
        rows = getattr(arguments, "rows", None) or (None if full else _DEMO_ROWS)
        return flights(rows).suite(*_names(arguments.targets or ""), by=arguments.by)
    described: dict[str, Any] = {}
    for path in (name if name.endswith((".yaml", ".yml")) else None, arguments.kinds):
        if path:
            described |= _suite_yaml(path)
    if "tasks" in described:
        return Suite.from_tasks(described.pop("tasks"), **described)
    if "data" not in described:
        described["data"] = name
    if arguments.targets:
        kinds = described.get("targets") or {}
        given = kinds if isinstance(kinds, dict) else {}
        described["targets"] = {t: given.get(t) for t in _names(arguments.targets)}
    data = described.pop("data")
    if Path(data).is_dir() and not described.get("targets"):
        return Suite.from_tasks(data, **described)
    if not described.get("targets"):
        raise InputError("name the target columns: --targets price,rooms,sold")
    if arguments.split:
        described["split"] = arguments.split
    if arguments.exclude:
        described["exclude"] = _names(arguments.exclude)
    if arguments.by:
        described["by"] = arguments.by
    if arguments.text:
        columns = dict.fromkeys(_names(arguments.text), "text")
        described["inputs"] = {**described.get("inputs", {}), **columns}
    build = Suite.from_folder if Path(data).is_dir() else Suite.from_table
    return build(data, described.pop("targets"), **described)


def _suite_yaml(path: str) -> dict[str, Any]:
    from polytask.config import read_yaml

    data = read_yaml(path)
    for key, value in data.items():
        if key not in _SUITE_KEYS:
            raise InputError(f"file {path!r}: key {key!r} is not known{nearest(key, _SUITE_KEYS)}")
        if not isinstance(value, _SUITE_KEYS[key]):
            names: dict[Any, str] = {str: "text", list: "a list", dict: "keys and values"}
            wanted = " or ".join(names[kind] for kind in _SUITE_KEYS[key])
            raise InputError(f"file {path!r}: {key} is {value!r}; it must be {wanted}")
    here = Path(path).parent
    if "data" in data:
        data["data"] = str(here / data["data"])
    for name, told in data.get("tasks", {}).items():
        spec = told if isinstance(told, dict) else {"source": told}
        if not isinstance(spec.get("source"), str):
            raise InputError(f"file {path!r}: task {name!r} names no file as its source")
        data["tasks"][name] = {**spec, "source": str(here / spec["source"])}
    return data


def _show_suite(suite: Any) -> None:
    """Say what was understood, so that a wrong guess is seen before it costs an hour."""
    about = suite.describe()
    rows = ", ".join(f"{n:,} {s}" for s, n in about["rows"].items())
    print(f"{about['name']}: {rows} rows ({about['split']}), {about['inputs']} input columns")
    for task in about["tasks"][:_SHOWN_TASKS]:
        unit = f" in {task['unit']}" if task["unit"] else ""
        classes = f" of {', '.join(task['classes'][:6])}" if task["classes"] else ""
        classes += ", ..." if task["classes"] and len(task["classes"]) > 6 else ""
        print(f"  {task['name']}: {task['kind']}{unit}{classes}, judged by {task['metric']}")
    if len(about["tasks"]) > _SHOWN_TASKS:
        print(f"  and {len(about['tasks']) - _SHOWN_TASKS} more tasks")
    for note in about["notes"]:
        print(f"  note: {note}")


def _names(text: str) -> list[str]:
    """Comma-separated names; commas inside brackets belong to a name."""
    names, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if sign == "," and depth == 0:
            names.append(text[start:i])
            start = i + 1
    names.append(text[start:])
    return [n.strip() for n in names if n.strip()]


def _writable(folder: str) -> Path:
    """The folder, made if need be; refused before any work if nothing can be written there."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".polytask-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output folder {folder!r} cannot be written: {error.strerror}") from None
    return path


def _print_yaml(data: Any) -> None:
    import yaml

    print(yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, allow_unicode=True), end="")


def _command() -> str:
    import shlex

    return shlex.join(["polytask", *sys.argv[1:]])


class _Bar:
    """What is running, how far it is and how long it will take; plain lines without a terminal."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("starting", total=None)
        self._started, self._told = time.perf_counter(), 0.0
        self._first = 0

    def __enter__(self) -> Callable[[int, int, str], None]:
        if self._bar.console.is_terminal:
            self._bar.start()
        return self._tell

    def _tell(self, done: int, total: int, label: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=f"{label:<36.36}")
        now = time.perf_counter() - self._started
        if self._bar.console.is_terminal or (now - self._told < 10 and done not in (0, total)):
            return
        self._told = now
        if not self._first and done:
            self._first = done
        left = now / done * (total - done) if done else float("nan")
        tail = f", about {left:.0f} s left" if done else ""
        print(f"{done}/{total} fits, {now:.0f} s{tail}: {label}", flush=True)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


if __name__ == "__main__":
    sys.exit(main())
