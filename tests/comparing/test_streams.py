"""The picture and the table of prequential records."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from polytask.comparing.streams import picture, table
from polytask.data.streams import Drift
from polytask.errors import InputError
from polytask.training.prequential import Prequential


def record(model: str = "tree", stream: str = "SEA_a", right: int = 90, **more: Any) -> Prequential:
    return Prequential(
        model,
        stream,
        window=100,
        drifts=(Drift(1000, 400), Drift(1500)),
        rows=[100] * 20,
        right=[right, right - 10] * 10,
        majority=[60] * 20,
        no_change=[50] * 20,
        truths=[[60, 40]] * 20,
        answers=[[50, 50]] * 20,
        seconds=[0.5] * 20,
        **{"memory": 3 << 20, "memory_source": "model", **more},
    )


def drawn(svg: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter())


def test_picture_stands_alone_and_follows_the_viewer() -> None:
    svg = picture([record(), record("forest", right=95)])
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in svg and "accuracy on SEA_a" in svg
    variables = {part.split(")")[0] for part in svg.split("var(--")[1:]}
    for name in variables:
        assert svg.count(f"--{name}:") == 2, f"{name} has a colour for light and one for dark"
    texts = [e.text for e in drawn(svg) if e.tag.endswith("text")]
    assert "tree" in texts and "forest" in texts and "rows" in texts


def test_every_record_is_a_line_in_its_own_colour() -> None:
    records = [record(f"m{i}", right=90 - i) for i in range(6)]
    svg = picture(records)
    for i in range(6):
        assert f"stroke: var(--series-{i})" in svg
    assert "#0" not in svg.split("</style>")[1], "no placeholder colour is left"


def test_drifts_are_marked_as_wide_as_they_are() -> None:
    plain, marked = record(), record()
    plain.drifts = ()
    bands = [svg.count("opacity: 0.2") for svg in (picture([plain]), picture([marked]))]
    assert bands == [0, 2]
    svg = picture([marked])
    spans = [e for e in drawn(svg) if "opacity: 0.2" in e.get("style", "")]
    wide = []
    for span in spans:
        numbers = [float(x) for x in span.get("d", "").replace("M", " ").replace("L", " ")
                   .replace("z", " ").split()]  # fmt: skip
        wide.append(max(numbers[::2]) - min(numbers[::2]))
    assert wide[0] > 100 * max(wide[1], 0.1)  # 400 rows beside one


def test_a_name_is_shown_as_it_is() -> None:
    svg = picture([record("a_$x$ <b> & c")])
    assert "a_$x$ <b> & c" in [e.text for e in drawn(svg)]


@pytest.mark.parametrize("metric", ["kappa", "kappa_m", "kappa_temporal"])
def test_other_metrics(metric: Any) -> None:
    assert "κ" in picture([record()], metric)


def test_same_records_give_the_same_picture() -> None:
    assert picture([record()]) == picture([record()])


def test_table_has_the_sums_and_the_references() -> None:
    lines = table([record(), record("forest", right=95, memory_source="process")]).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[0][0] == "model" and len({len(row) for row in cells}) == 1
    assert len({len(line) for line in lines}) == 1, "columns stand below each other"
    assert cells[2] == ["tree", "85.00", "70.00", "62.50", "70.00", "200", "3.0 MB"]
    assert cells[3][0] == "forest" and cells[3][6] == "~3.0 MB"
    assert cells[4][:2] == ["majority so far", "60.00"]
    assert cells[5][:2] == ["no change", "50.00"]


def test_an_undefined_kappa_is_a_dash() -> None:
    flat = record()
    flat.majority = [100] * 20
    assert "–" in table([flat]).splitlines()[2]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: picture([]), "no record"),
    "no rows": (lambda: table([]), "no record"),
    "many": (lambda: picture([record()] * 7), "6 records at most, 7"),
    "streams": (lambda: table([record(), record(stream="LED_g")]), "'SEA_a' and 'LED_g'"),
    "empty": (lambda: table([Prequential("m", "s", 10)]), "'m' holds no row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_sentence(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)
