"""The page of a report in a real Chromium: layout, colours, contrast, no network, no script."""

import json
import os
import shutil

import pytest

from polytask.comparing.report import Report
from polytask.comparing.words import MINUS

pytestmark = pytest.mark.browser

LIGHT, DARK = "light", "dark"

# The text elements whose contrast to what lies behind them is below the 4.5 of WCAG AA. Behind a
# text lie the backgrounds of its ancestors; drawings take their text colour from `fill`.
WEAK_TEXT = """
const parse = c => { const n = c.match(/[\\d.]+/g).map(Number);
  const k = c.startsWith('color(') ? 255 : 1;
  return [n[0] * k, n[1] * k, n[2] * k, n.length > 3 ? n[3] : 1]; };
const over = (top, under) => under.map((u, i) => i < 3 ? top[i] * top[3] + u * (1 - top[3]) : 1);
const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= 0.03928
  ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { if (!e) return [255, 255, 255, 1];
  const style = getComputedStyle(e);
  const c = over(parse(style.backgroundColor), behind(e.parentElement));
  const shade = style.backgroundImage.match(/(rgba?|color)\\([^)]*\\)/);
  return shade ? over(parse(shade[0]), c) : c; };
const weak = [];
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length) continue;
  const inside = e.ownerSVGElement, style = getComputedStyle(e);
  if (inside && inside.closest('#cost') && /^\\d+$/.test(e.textContent)) continue;  // on a disc
  const a = light(parse(inside ? style.fill : style.color)), b = light(behind(inside || e));
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) weak.push([e.textContent.trim().slice(0, 40), contrast.toFixed(2)]);
}
return weak;
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        reason = "needs chromium and chromedriver on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    os.environ["SE_OFFLINE"] = "true"
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
                     "--no-first-run", "--disable-background-networking", "--disable-sync",
                     "--disable-component-update", "--disable-dev-shm-usage",
                     f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of a report at a width and in a colour scheme."""

    def show(data, width=1280, scheme=LIGHT):
        path = tmp_path / "report.html"
        Report(data).to_html(path)
        look(browser, width, scheme)
        browser.get(path.as_uri())
        return browser

    yield show
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def look(browser, width, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def color(browser, selector, kind="color"):
    return browser.execute_script(
        f"return getComputedStyle(document.querySelector('{selector}')).{kind}"
    )


@pytest.mark.parametrize("case", ["share", "apart", "long", "crowded"])
def test_the_page_never_scrolls_sideways(show, draw_report, crowded, case):
    data = {
        "share": draw_report(),
        "apart": draw_report(share=False),
        "long": draw_report(tasks=["x" * 80, "y"]),
        "crowded": crowded,
    }[case]
    page = show(data)
    for width in (1280, 740, 360, 320):
        look(page, width, LIGHT)
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


def test_light_and_dark_differ(show, draw_report):
    page = show(draw_report())
    probes = [("body", "backgroundColor"), ("body", "color"), ("h1", "color"),
              ("tr.chosen th", "color"), ("#curves figure svg text", "fill"),
              ("#cost .wide svg text", "fill"), (".bar", "backgroundColor")]  # fmt: skip
    light = [color(page, *probe) for probe in probes]
    look(page, 1280, DARK)
    dark = [color(page, *probe) for probe in probes]
    assert all(a != b for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_all_text_has_contrast(show, draw_report, scheme):
    page = show(draw_report(seed=3), scheme=scheme)
    page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.execute_script(WEAK_TEXT) == []


def test_the_contrast_probe_can_fail(show, draw_report):
    page = show(draw_report())
    page.execute_script("document.querySelector('h1').style.color = '#ddd'")
    assert [text for text, _ in page.execute_script(WEAK_TEXT)] == ["Share one model"]


def test_no_request_and_no_complaint(show, crowded):
    page = show(crowded)
    page.get_log("performance"), page.get_log("browser")
    page.refresh()
    requests = [
        message["params"]["request"]["url"]
        for entry in page.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if url.startswith("file:")]
    assert not [url for url in requests if not url.startswith(("file:", "data:"))]
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
