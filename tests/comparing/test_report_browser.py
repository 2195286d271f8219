"""The page of a report in a real Chromium: layout, colours, contrast, no network, no script."""

import pytest

from polytask.comparing.report import Report
from polytask.comparing.words import MINUS

pytestmark = pytest.mark.browser

LIGHT, DARK = "light", "dark"


@pytest.fixture
def show(browser, look, tmp_path):
    """Open the page of a report at a width and in a colour scheme."""

    def show(data, width=1280, scheme=LIGHT):
        path = tmp_path / "report.html"
        Report(data).to_html(path)
        look(width, scheme)
        browser.get(path.as_uri())
        return browser

    return show


def color(browser, selector, kind="color"):
    return browser.execute_script(
        f"return getComputedStyle(document.querySelector('{selector}')).{kind}"
    )


@pytest.mark.parametrize("case", ["share", "apart", "long", "crowded"])
def test_the_page_never_scrolls_sideways(show, look, draw_report, crowded, case):
    data = {
        "share": draw_report(),
        "apart": draw_report(share=False),
        "long": draw_report(tasks=["x" * 80, "y"]),
        "crowded": crowded,
    }[case]
    page = show(data)
    for width in (1280, 740, 360, 320):
        look(width, LIGHT)
        inner, content = page.execute_script(
            "return [innerWidth, document.documentElement.scrollWidth]"
        )
        assert inner == width and content <= inner


def test_wide_tables_scroll_in_their_own_box(show, crowded):
    page = show(crowded, 360)
    wide = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.clientWidth)"
        ".map(e => [e.scrollWidth > e.clientWidth, e.getBoundingClientRect().right <= innerWidth])"
    )
    assert any(scrolls for scrolls, _ in wide) and all(inside for _, inside in wide)


@pytest.mark.parametrize("width", [360, 1280])
def test_every_drawing_is_seen_once_and_its_text_can_be_read(show, draw_report, width):
    page = show(draw_report(), width)
    sizes = page.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    seen = [(w, h) for w, h in sizes if w > 0]
    assert len(sizes) == len(seen) + 1  # the cost plot of the other width
    assert all(w > 200 and h > 100 for w, h in seen)
    smallest = page.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure svg text')]"
        ".filter(e => e.getClientRects().length)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"
    )
    assert smallest >= 9.5


def test_light_and_dark_differ(show, look, draw_report):
    page = show(draw_report())
    probes = [("body", "backgroundColor"), ("body", "color"), ("h1", "color"),
              ("tr.chosen th", "color"), ("#curves figure svg text", "fill"),
              ("#cost .wide svg text", "fill"), (".bar", "backgroundColor")]  # fmt: skip
    light = [color(page, *probe) for probe in probes]
    look(1280, DARK)
    dark = [color(page, *probe) for probe in probes]
    assert all(a != b for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_all_text_has_contrast(show, weak_text, draw_report, scheme):
    page = show(draw_report(seed=3), scheme=scheme)
    page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert weak_text() == []


def test_the_contrast_probe_can_fail(show, weak_text, draw_report):
    page = show(draw_report())
    page.execute_script("document.querySelector('h1').style.color = '#ddd'")
    assert [text for text, _ in weak_text()] == ["Share one model"]


def test_no_request_and_no_complaint(show, requests, crowded):
    page = show(crowded)
    urls = requests()
    assert [url for url in urls if url.startswith("file:")]
    assert not [url for url in urls if not url.startswith(("file:", "data:"))]
    assert page.get_log("browser") == []


def test_the_page_works_without_scripts(show, draw_report):
    data = draw_report()
    page = show(data, 360)
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        text = page.find_element("css selector", "body").text
        page.find_element("css selector", "#tasks summary").click()
        assert page.find_element("css selector", "#tasks details table").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    for words in ("Share one model", data["verdict"]["sentence"], "How it was measured",
                  *(m["name"] for m in data["methods"])):  # fmt: skip
        assert words in text


def test_the_chosen_bar_ends_where_its_gain_is(show, draw_report):
    """Bars and axis agree: measured in pixels between the ticks of the axis."""
    data = draw_report()
    page = show(data)
    ticks = page.execute_script(
        "return [...document.querySelector('#gain .axis').querySelectorAll('.track span')]"
        ".map(e => [e.textContent, e.getBoundingClientRect()])"
        ".map(([text, r]) => [text, r.left + r.width / 2])"
    )
    (value_a, at_a), *_, (value_b, at_b) = [(float(t.replace(MINUS, "-")), at) for t, at in ticks]
    bar = page.execute_script(
        "const r = document.querySelector('#gain .row.chosen .bar').getBoundingClientRect();"
        "return [r.left, r.right]"
    )
    per_pixel = (value_b - value_a) / (at_b - at_a)
    gain = data["verdict"]["test_gain"]["mean"]
    assert gain > 0
    assert value_a + (bar[1] - at_a) * per_pixel == pytest.approx(gain, abs=2 * per_pixel)
    assert value_a + (bar[0] - at_a) * per_pixel == pytest.approx(0, abs=2 * per_pixel)
