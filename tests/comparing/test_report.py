"""The formulas, the JSON and the two views of a report; the page in a browser is tested apart."""

import errno
import io
import json
import math
import os
import re
import statistics
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from polytask.comparing import render, words
from polytask.comparing.report import Report, gain, interval, undefined_gain

calm = settings(deadline=None, derandomize=True)  # a busy machine is no failure

# --- gain -----------------------------------------------------------------------------------------

scores = st.floats(0.05, 50) | st.floats(-50, -0.05)
triples = st.lists(st.tuples(scores, scores, st.booleans()), min_size=1, max_size=8)


def columns(rows):
    """Method scores, reference scores and directions, each by task."""
    return tuple({f"t{i}": row[k] for i, row in enumerate(rows)} for k in range(3))


def test_gain_exact():
    both = {"a": True, "b": True}
    assert gain({"a": 0.84, "b": 0.5}, {"a": 0.80, "b": 0.5}, both) == pytest.approx(2.5)
    assert gain({"a": 9.0}, {"a": 10.0}, {"a": False}) == pytest.approx(10)  # lower is better
    assert gain({"a": -0.1}, {"a": -0.2}, {"a": True}) == pytest.approx(50)  # less bad is better


@calm
@given(triples)
def test_gain_of_the_reference_over_itself_is_zero(rows):
    _, reference, directions = columns(rows)
    assert gain(reference, reference, directions) == 0


@calm
@given(triples, st.floats(0.5, 100))
def test_gain_has_no_unit_and_a_sign(rows, factor):
    method, reference, directions = columns(rows)
    plain = gain(method, reference, directions)
    scaled = gain(
        method | {"t0": method["t0"] * factor},
        reference | {"t0": reference["t0"] * factor},
        directions,
    )
    assert scaled == pytest.approx(plain, rel=1e-9, abs=1e-6)
    flipped = gain(method, reference, {task: not up for task, up in directions.items()})
    assert flipped == pytest.approx(-plain, rel=1e-9, abs=1e-6)


@calm
@given(triples)
def test_gain_is_the_mean_over_tasks(rows):
    method, reference, directions = columns(rows)
    alone = [gain({t: method[t]}, {t: reference[t]}, {t: directions[t]}) for t in directions]
    assert gain(method, reference, directions) == pytest.approx(statistics.fmean(alone), abs=1e-6)


def test_gain_near_a_zero_reference_is_undefined_and_says_so():
    up, down = {"ev": True, "b": True}, {"mae": False}
    assert gain({"ev": 0.1, "b": 1}, {"ev": 0.002, "b": 1}, up) is None
    note = undefined_gain({"ev": 0.002, "b": 1}, up)
    assert "'ev'" in note and "0.002" in note
    assert undefined_gain({"mae": 0.002}, down) is None  # an error has a unit: 0.002 m is no zero
    assert gain({"mae": 0.001}, {"mae": 0.002}, down) == pytest.approx(50)
    assert "'mae'" in undefined_gain({"mae": 0.0}, down)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_gain_without_a_score_is_undefined(bad):
    assert gain({"a": bad}, {"a": 1.0}, {"a": True}) is None
    assert gain({"a": 1.0}, {"a": bad}, {"a": True}) is None
    assert "no score on 'a'" in undefined_gain({"a": bad}, {"a": True})


def test_gain_refuses_other_tasks():
    with pytest.raises(ValueError, match="'b' is not in both reference and directions"):
        gain({"a": 1.0}, {"a": 1.0, "b": 1.0}, {"a": True})
    with pytest.raises(ValueError, match="at least one task"):
        gain({}, {}, {})


# --- interval -------------------------------------------------------------------------------------


def test_interval_exact():
    found = interval([1.0, 2.0, 3.0])  # t_{0.975, 2} = 4.302653, s = 1
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found["seeds"] == [1, 2, 3]


@calm
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=10), st.floats(0.5, 0.99))
def test_interval_agrees_with_scipy(values, level):
    found = interval(values, level)
    assert found["low"] <= found["mean"] <= found["high"]
    if (scale := np.std(values, ddof=1) / math.sqrt(len(values))) > 1e-6:
        low, high = stats.t.interval(level, len(values) - 1, np.mean(values), scale)
        assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1.5, 2, (4000, 3)).tolist()
    covered = [(found := interval(d))["low"] <= 1.5 <= found["high"] for d in draws]
    assert statistics.fmean(covered) == pytest.approx(0.95, abs=0.012)


def test_interval_of_one_value_or_a_missing_one():
    assert interval([1.5]) == {"mean": 1.5, "low": None, "high": None, "seeds": [1.5]}
    for bad in (None, math.nan):
        found = interval([1.0, bad, 2.0])
        assert found == {"mean": None, "low": None, "high": None, "seeds": [1.0, None, 2.0]}
    with pytest.raises(ValueError, match="level"):
        interval([1.0, 2.0], level=95)


# --- JSON -----------------------------------------------------------------------------------------


def test_json_round_trip(draw_report, tmp_path):
    report = Report(draw_report())
    report.to_json(tmp_path / "new" / "report.json")
    again = Report.from_json(tmp_path / "new" / "report.json")
    assert again.data == report.data
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.json"]


def test_json_is_plain(draw_report, tmp_path):
    data = draw_report()
    data["settings"]["seconds"] = np.float32(1.5)
    data["conflict"]["cosine"] = np.eye(2)
    data["methods"][0]["cost"]["memory_mb"] = math.nan
    Report(data).to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["settings"]["seconds"] == 1.5
    assert read["conflict"]["cosine"] == [[1, 0], [0, 1]]
    assert read["methods"][0]["cost"]["memory_mb"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2}', "has format 2, but this polytask reads up to 1"),
        ('{"rows": []}', "is not a polytask report"),
        ("[1]", "is not a polytask report"),
        ('{"format": 1, "suite"', "is not a whole JSON file"),
        ('{"format": 1, "suite": {"name": "x"}}', "'settings' is missing"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Report.from_json(path)
    assert "report.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_report(draw_report, tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    Report(draw_report()).to_json(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"Cannot write the report: No space left.*report.json"):
        Report(draw_report(seed=1)).to_json(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_none(draw_report, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Cannot write the report"):
        Report(draw_report()).to_html(tmp_path / "file" / "report.html")


# --- terminal -------------------------------------------------------------------------------------


def printed(data, width=100):
    console = Console(file=io.StringIO(), width=width)
    Report(data).print(console)
    return console.file.getvalue()


def test_terminal_tells_the_verdict(draw_report):
    data = draw_report()
    text = printed(data)
    flat = re.sub(r"\s+", " ", text)
    assert data["verdict"]["sentence"] in flat
    assert re.search(rf"→ 1\s+{re.escape(data['verdict']['method'])}", text)
    for method in data["methods"]:
        assert method["name"] in text
        assert words.signed(method["gain"]["validation"]["mean"]) in text
    assert words.gain_range(data["verdict"]["test_gain"]).replace(" to ", "…") in text
    for task in data["suite"]["tasks"]:
        assert f"{task['name']} " in text
        assert (
            f"{data['methods'][0]['scores'][task['name']][task['metric']]['test']['mean']:.4f}"
            in text
        )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_terminal_fits(draw_report, crowded, width):
    for data in (draw_report(), draw_report(share=False), crowded):
        text = printed(data, width)
        assert max(map(len, text.splitlines())) <= min(width, 100)
        for method in data["methods"]:  # no name is cut off; it may run over several lines
            assert method["name"].split()[-1] in text


def test_terminal_takes_names_as_they_are(draw_report):
    data = draw_report(tasks=["[red]a[/red]", "[/b]"])
    assert "[red]a[/red]" in printed(data) and "[/b]" in printed(data)


# --- HTML -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.ids = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text.append(data)


def bare(data):
    """The report with every optional part absent and a gain that is not defined."""
    nothing = {"mean": None, "low": None, "high": None, "seeds": [None]}
    data = data | {"transfer": None, "conflict": None}
    for method in data["methods"]:
        method |= {"curves": None, "vs_own_single": None, "settings": {}, "balancer": None}
        method["gain"] = {"validation": nothing, "test": nothing}
        method["cost"] = dict.fromkeys(method["cost"], None)
        method["scores"] = {}
    data["verdict"] |= {"test_gain": nothing, "validation_gain": nothing}
    data["suite"]["notes"] = []
    return data


def test_page_is_self_contained_and_small(crowded):
    html = render.page(Report(crowded).data)
    page = Page(html)
    assert len(html.encode()) < 500_000
    assert not {"script", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert not [n for n, _ in page.attributes if n.startswith("on") or n == "src"]
    links = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_page_says_what_the_data_say(draw_report):
    data = Report(draw_report()).data
    html = render.page(data)
    text = " ".join(Page(html).text)
    for method in data["methods"]:
        assert method["name"] in text
        assert words.percent(method["gain"]["test"]["mean"]) in text
        for task in data["suite"]["tasks"]:
            found = method["scores"][task["name"]][task["metric"]]["test"]
            assert f"{found['mean']:.4f}" in text and f"± {found['std']:.4f}" in text
    for phrase in (data["verdict"]["sentence"], *data["suite"]["notes"], data["suite"]["source"],
                  data["settings"]["budget"], data["settings"]["tuning"], "23 November 2026",
                  "polytask compare flights", "ev ↑"):  # fmt: skip
        assert phrase in text
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == ["asked", "gain", "tasks", "transfer", "conflict", "curves", "cost", "how"]


def test_page_drawings_are_valid_and_ids_unique(crowded):
    html = render.page(Report(crowded).data)
    drawings = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 1 + 1 + 4 + 20 + 2  # sketch, conflicts, legend, curves, cost twice
    for drawing in drawings:
        root = ET.fromstring(drawing.replace("<svg ", '<svg xmlns:xlink="x" ', 1))
        assert root.get("aria-label") or root.get("aria-hidden")
    assert not re.search(r"#0[1-8]0[1-8]0[1-8]", html), "a placeholder colour was left"
    ids = Page(html).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"#([mp][0-9a-f]{10})\b", html)) <= set(ids)


def test_page_escapes_every_name(draw_report):
    evil = '<b onload="x">&$'
    data = draw_report(
        tasks=[f"{evil}1", f"{evil}2"],
        methods=[(f"{evil}m", "l", "single", None, 0.0, 1.0, None),
                 (f"{evil}j", "l", "joint", evil, 0.02, 1.0, 1)],
    )  # fmt: skip
    data["suite"] |= {"name": evil, "source": evil, "notes": [evil]}
    data["settings"]["command"] = evil
    html = render.page(data)
    assert evil not in html and "&lt;b onload" in html
    assert "onload" not in [name for name, _ in Page(html).attributes]


def test_page_and_terminal_without_the_optional_parts(draw_report):
    data = Report(bare(draw_report())).data
    html = render.page(data)
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections == ["asked", "gain", "tasks", "cost", "how"]
    assert "not defined, see the notes" in html
    assert "None" not in " ".join(Page(html).text)
    assert "None" not in printed(data)


def test_page_with_one_seed_claims_no_interval(draw_report):
    html = render.page(Report(draw_report(seeds=1)).data)
    assert "one seed, so no interval" in html and "95 % interval over" not in html


def test_page_is_the_same_every_time(draw_report):
    assert render.page(Report(draw_report()).data) == render.page(Report(draw_report()).data)


@pytest.mark.parametrize(("share", "title"), [(True, "Share one model"), (False, "Do not share")])
def test_page_headline(draw_report, share, title):
    data = draw_report(share=share)
    assert data["verdict"]["share"] is share
    assert f"<h1>{title}</h1>" in render.page(data)


def test_notebook_view_keeps_to_its_frame(draw_report):
    view = Report(draw_report())._repr_html_()
    page = Page(view)
    assert page.tags == ["iframe"]
    assert dict(page.attributes)["srcdoc"] == render.page(Report(draw_report()).data)


# --- the pieces of the page -----------------------------------------------------------------------


def test_methods_are_ranked_by_validation_not_by_test(draw_report):
    methods = words.ranked(draw_report())
    means = [m["gain"]["validation"]["mean"] for m in methods]
    assert means == sorted(means, reverse=True)
    assert [m["number"] for m in methods] == list(range(1, len(methods) + 1))
    assert [m["gain"]["test"]["mean"] for m in methods] != sorted(
        (m["gain"]["test"]["mean"] for m in methods), reverse=True
    )
    assert sum(m["chosen"] for m in methods) == 1


def test_bars_start_at_zero_and_end_at_the_gain():
    rows = [
        ({"name": name}, {"test": interval([value]), "validation": interval([value])})
        for name, value in (("a", 2.0), ("b", -1.0), ("c", 0.0))
    ]
    drawn = render.bars(rows)
    zero, (left_a, width_a) = drawn["zero"], drawn["rows"][0]["bar"]
    left_b, width_b = drawn["rows"][1]["bar"]
    assert left_a == zero and left_b + width_b == pytest.approx(zero)
    assert width_a == pytest.approx(2 * width_b, abs=0.02)
    assert drawn["rows"][2]["bar"][1] == 0
    assert {label: at for at, label in drawn["ticks"]}["0"] == zero


def test_one_diverged_method_does_not_squeeze_the_rest():
    gains = [interval([v]) for v in (1.0, 0.5, -0.7, -400.0)]
    low, high = render.bounds(gains)
    assert low > -10 and high >= 1
    drawn = render.bars([({}, {"test": g, "validation": g}) for g in gains])
    assert [row["cut"] for row in drawn["rows"]] == [False, False, False, True]


@calm
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=12))
def test_bounds_hold_zero_and_every_gain_above_it(values):
    low, high = render.bounds([interval([v]) for v in values])
    assert low < 0 < high and high >= max(values)


def test_a_transfer_smaller_than_its_spread_has_no_shade():
    rows = render.heat(["a", "b"], [[None, 1.0], [-2.0, None]], 2.0, [[None, 1.5], [0.5, None]])
    weak, strong = rows[0]["cells"][1], rows[1]["cells"][0]
    assert weak["unsure"] and not weak["kind"]
    assert (strong["kind"], strong["alpha"], strong["text"]) == (
        "hurt",
        render.STRONGEST,
        f"{words.MINUS}2.0",
    )


def test_score_table_shades_by_better_not_by_higher():
    task = {"name": "a", "metric": "mae", "higher_is_better": False}
    methods = [
        {"reference": r, "scores": {"a": {"mae": {"test": {"mean": v, "std": 0.1}}}}}
        for r, v in ((True, 10.0), (False, 9.0), (False, 12.0))
    ]
    cells = [row["cells"][0] for row in render.score_table([task], methods)]
    assert [cell["change"] for cell in cells] == pytest.approx([0, 10, -20])
    assert [cell["kind"] for cell in cells[1:]] == ["help", "hurt"]
    assert [cell["best"] for cell in cells] == [False, True, False]


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.signed, 1.2, "+1.20"),
        (words.signed, -0.4, f"{words.MINUS}0.40"),
        (words.signed, -0.001, "0.00"),
        (words.percent, None, words.MISSING),
        (words.count, 61_234, "61.2 k"),
        (words.count, 7, "7"),
        (words.count, 10_400_000, "10.4 M"),
        (words.duration, 0.84, "0.84 s"),
        (words.duration, 57.2, "57 s"),
        (words.duration, 251, "4 min 11 s"),
        (words.duration, 7500, "2 h 5 min"),
        (words.number, 24000, "24,000"),
        (words.date, "2026-11-23T14:00:00Z", "23 November 2026"),
        (words.date, "yesterday", "yesterday"),
    ],
)
def test_numbers_as_people_write_them(function, value, text):
    assert function(value) == text
