"""The page of one fitted model: what it shows is what the model says, and it can be read."""

import html
import io
import re
from base64 import b64decode
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import nn

from polytask.baselines.mlp import SharedMLP
from polytask.comparing import figures
from polytask.comparing import gallery as room
from polytask.comparing.gallery import gallery
from polytask.data import Processor, Suite
from polytask.data import batch as batches
from polytask.errors import InputError
from polytask.testing import mixed_suite, picture_suite
from polytask.training import Training
from polytask.training.learner import NeuralLearner
from polytask.training.module import MultiTaskModule

ROWS, HEIGHT, WIDTH = 40, 18, 24
TARGETS = {
    "plants": {"kind": "segmentation", "classes": ["soil", "<b>crop</b>", "weed"]},
    "height": {"kind": "map", "unit": "cm"},
    "normals": "normals",
    "edges": "edges",
    "sharp": "picture",
    "cover": {"kind": "regression", "unit": "%"},
    "many": "classification",
}


class SmallNet(MultiTaskModule):
    """Two convolutions, then one per map; values per row from the mean over the picture."""

    def __init__(self, spec):
        super().__init__(spec.tasks)
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()
        )
        self.heads = nn.ModuleDict({
            t.name: (nn.Conv2d(12, t.kind.outputs, 1) if t.kind.dense
                     else nn.Linear(12, t.kind.outputs)) for t in spec.tasks
        })  # fmt: skip

    def represent(self, inputs, tasks):
        return self.trunk(inputs["photo"])

    def answer(self, representation, task):
        dense = self.tasks[task].kind.dense
        return self.heads[task](representation if dense else representation.mean((2, 3)))


@dataclass
class Small(NeuralLearner):
    """A learner of maps and values that nobody would publish."""

    id: ClassVar[str] = "small"
    reads: ClassVar[tuple[str, ...]] = ("pictures",)

    def build(self, spec):
        return SmallNet(spec)


def scenes():
    """Boxes on soil, of two classes, with gaps in pixels and in rows."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    photo = rng.integers(90, 110, (ROWS, HEIGHT, WIDTH, 3)).astype(np.uint8)
    codes = np.zeros((ROWS, HEIGHT, WIDTH), np.uint8)
    height = np.broadcast_to(100 - 3 * y, codes.shape).astype(np.float32)
    for row, (left, top, side) in enumerate(rng.integers(3, 10, (ROWS, 3))):
        sort = 1 + row % 2
        inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        codes[row][inside] = sort
        photo[row][inside] = [[30, 160, 50], [200, 80, 40]][sort - 1]
        height[row][inside] = 20.0 * sort
    normals = np.stack([codes == 1, codes == 2, codes == 0], 1).astype(np.float32)
    cover = 100 * (codes > 0).mean((1, 2))
    codes[:, :2], height[:, :, :1] = 255, np.nan
    missing = rng.random((2, ROWS)) < 0.25
    table = {
        "photo": photo, "plants": codes, "normals": normals, "sharp": photo,
        "edges": (np.abs(np.diff(codes.astype(int), axis=2, prepend=0)) == 1).astype(np.uint8),
        "height": [None if gone else cells.tolist()
                   for gone, cells in zip(missing[0], height, strict=True)],
        "cover": pa.array(cover, mask=missing[1]), "many": np.where(cover > 8, "much", "few"),
    }  # fmt: skip
    cells = pa.list_(pa.list_(pa.float32(), WIDTH), HEIGHT)
    table["height"] = pa.array(table["height"], cells)
    return Suite.from_table(table, TARGETS, inputs={"photo": "picture"}, name="scenes")


@pytest.fixture(scope="module")
def dense():
    """A fitted learner of five maps and two values, and its suite."""
    suite = scenes()
    return Small(training=Training(epochs=6, batch=4, lr=1e-2)).fit(suite), suite


@pytest.fixture(scope="module")
def table():
    """A fitted learner of a table, and its suite."""
    suite = mixed_suite(300)
    return SharedMLP(training=Training(epochs=3, batch=32)).fit(suite), suite


def given_to_the_template(*arguments, **keywords):
    """What ``gallery`` found out, instead of the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "filled", lambda template, **given: given)
        return gallery(*arguments, **keywords)


@pytest.fixture
def values():
    return given_to_the_template


@pytest.fixture(scope="module")
def dense_values(dense):
    return given_to_the_template(*dense)


def images(page):
    return re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', page)


def part_of(given, task):
    return next(part for part in given["parts"] if part["task"].name == task)


@pytest.mark.parametrize("which", ["dense", "table"])
def test_scores_are_those_of_the_learner(values, request, which):
    learner, suite = request.getfixturevalue(which)
    expected = learner.score(suite, "test")
    for row in values(learner, suite)["scores"]:
        name = row["task"].name
        assert [told["metric"].name for told in row["metrics"]] == list(expected[name])
        for told in row["metrics"]:
            shown = float(told["value"].replace("−", "-").replace(",", ""))
            assert shown == pytest.approx(expected[name][told["metric"].name], rel=1e-3, abs=1e-4)
        labels = suite.labels(row["task"], "test")
        assert row["labelled"] == len(labels) - labels.null_count


def test_rows_go_by_a_few_at_a_time(values, dense_values, dense, monkeypatch):
    learner, suite = dense
    asked = []
    predict = type(learner).predict

    def counted(self, inputs, tasks=None):
        asked.append(inputs.num_rows)
        return predict(self, inputs, tasks)

    monkeypatch.setattr(type(learner), "predict", counted)
    monkeypatch.setattr(batches, "_NUMBERS", 3 * 3 * HEIGHT * WIDTH)
    parts = values(learner, suite)
    assert max(asked) == 3
    for first, second in zip(dense_values["scores"], parts["scores"], strict=True):
        assert [m["value"] for m in first["metrics"]] == [m["value"] for m in second["metrics"]]
    assert part_of(dense_values, "plants")["confusion"] == part_of(parts, "plants")["confusion"]


@pytest.mark.parametrize("task", ["plants", "height", "normals", "edges", "sharp"])
def test_best_median_and_worst_are_so_by_the_tasks_own_metric(dense_values, dense, task):
    learner, suite = dense
    data = learner.processor_.encode(suite, "test")
    kind = learner.processor_.task(task).kind
    decoded = learner.predict(suite.table("test").select(["photo"]), [task])[task]
    target, known = data.targets[task][:].numpy(), data.masks[task].numpy()
    scores = {
        row: kind.scores(target[row : row + 1], decoded[row : row + 1])[kind.primary.name]
        for row in np.flatnonzero(known)
    }
    shown = {e["which"]: e["row"] for e in part_of(dense_values, task)["extremes"]}
    assert list(shown) == ["best", "median", "worst"]
    sign = kind.primary.sign
    assert sign * scores[shown["best"]] == max(sign * s for s in scores.values())
    assert sign * scores[shown["worst"]] == min(sign * s for s in scores.values())
    better = sum(sign * s > sign * scores[shown["median"]] for s in scores.values())
    assert abs(better - len(scores) // 2) <= sum(
        s == scores[shown["median"]] for s in scores.values()
    )


def test_confusion_of_pixels_and_rows(values, dense_values, dense, table):
    learner, suite = dense
    inputs, data = suite.table("test").select(["photo"]), learner.processor_.encode(suite, "test")
    answers = learner.predict(inputs)
    pixels = data.targets["plants"][:].numpy()
    valid = pixels != 255
    counts = confusion_matrix(pixels[valid], answers["plants"][valid], labels=[0, 1, 2])
    shown = part_of(dense_values, "plants")["confusion"]
    for i, row in enumerate(shown["rows"]):
        assert [int(c["count"].replace(",", "")) for c in row["cells"]] == counts[i].tolist()
        assert [int(c["text"]) for c in row["cells"]] == pytest.approx(
            100 * counts[i] / counts[i].sum(), abs=0.51
        )
        union = counts[i].sum() + counts[:, i].sum() - counts[i, i]
        assert float(row["iou"]) == pytest.approx(counts[i, i] / union, abs=0.006)
    learner, suite = table
    rooms = part_of(values(learner, suite), "rooms")["confusion"]
    data = learner.processor_.encode(suite, "test")
    said = learner.predict(suite.table("test").select(list(suite.inputs)))["rooms"].argmax(1)
    known = data.masks["rooms"].numpy()
    counts = confusion_matrix(data.targets["rooms"].numpy()[known], said[known])
    assert [[int(c["count"]) for c in row["cells"]] for row in rooms["rows"]] == counts.tolist()


def test_many_classes_show_the_most_frequent(values, monkeypatch, table):
    learner, suite = table
    monkeypatch.setattr(room, "_CLASSES", 2)
    shown = part_of(values(learner, suite), "rooms")["confusion"]
    labels = suite.labels(suite.tasks[2], "test").drop_null().to_numpy()
    assert shown["left_out"] == 1
    rare = np.bincount(labels).argmin()
    assert [row["name"] for row in shown["rows"]] == [str(c) for c in range(3) if c != rare]


def test_examples_are_spread_and_their_answers_right(values, dense):
    learner, suite = dense
    given = values(learner, suite, examples=4)
    assert [card["row"] for card in given["cards"]] == [0, 2, 4, 7]  # of eight
    test = suite.table("test").to_pydict()
    answers = learner.predict(suite.table("test").select(["photo"]))
    for card in given["cards"]:
        row = card["row"]
        cover, many = card["answers"]
        said = str(learner.processor_.task("many").kind.answer(answers["many"])[row])
        assert (many["predicted"], many["true"]) == (said, test["many"][row])
        assert many["right"] == (said == test["many"][row])
        assert float(cover["predicted"].removesuffix(" %")) == pytest.approx(
            answers["cover"][row], abs=0.006
        )
        if test["cover"][row] is None:
            assert cover["true"] is None
        else:
            assert float(cover["true"].removesuffix(" %")) == pytest.approx(
                test["cover"][row], abs=0.006
            )
        maps = {m["task"].name: [s.caption for s in m["shots"]] for m in card["tasks"]}
        known = ["true", "predicted", "error"]
        assert maps.pop("height") == (["predicted"] if test["height"][row] is None else known)
        assert all(captions == known for captions in maps.values())


def test_all_examples_of_a_small_split_once(values, dense):
    learner, suite = dense
    assert [c["row"] for c in values(learner, suite, examples=50)["cards"]] == list(range(8))


def test_maps_that_are_shown_are_the_models(values, dense):
    learner, suite = dense
    given = values(learner, suite, examples=2)
    answers = learner.predict(suite.table("test").select(["photo"]), ["edges"])["edges"]
    shots = {m["task"].name: m["shots"] for m in given["cards"][0]["tasks"]}
    drawn = np.asarray(shots["edges"][1].image.convert("L")) / 255
    assert np.abs(drawn - answers[0]).max() < 0.01
    saved = Image.open(io.BytesIO(b64decode(shots["edges"][1].src.partition(",")[2])))
    assert np.array_equal(
        np.asarray(saved.convert("L")), np.asarray(shots["edges"][1].image.convert("L"))
    )


def test_pictures_shrink_until_the_page_is_small(values, dense, monkeypatch):
    learner, suite = dense
    monkeypatch.setattr(room, "_FORMS", ((24, None), (12, 256), (6, 256)))

    def sizes(most):
        monkeypatch.setattr(room, "_BYTES", most)
        card = values(learner, suite)["cards"][0]
        sources = [shot.src for item in card["tasks"] for shot in item["shots"]]
        return {Image.open(io.BytesIO(b64decode(s.partition(",")[2]))).width for s in sources}

    assert sizes(10**6) == {24}
    assert sizes(1) == {6}


def test_the_page_stands_alone_and_tells_what_it_shows(dense):
    page = gallery(*dense)
    assert len(page) < 3_000_000
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page) and "<script" not in page
    shown = images(page)
    # Eight rows of an input and five maps, three rows per map with their input, bars of colours.
    gaps = sum(value is None for value in dense[1].table("test")["height"].to_pylist())
    assert gaps
    assert len(shown) == 8 * 16 - 2 * gaps + 5 * 3 * 4 + 2 * 5
    assert all(alt for _, alt in shown)
    assert any(
        re.fullmatch(r"predicted height of row 1: [\d.−]+ cm to [\d.−]+ cm", a) for _, a in shown
    )
    assert "&lt;b&gt;crop&lt;/b&gt;" in page and "<b>crop</b>" not in page


def test_of_five_channels_three_are_shown(values):
    rng = np.random.default_rng(0)
    bands = rng.integers(0, 256, (20, 8, 8, 5), np.uint8)
    table = {"photo": bands, "wet": bands[..., 4].mean((1, 2))}
    suite = Suite.from_table(table, ["wet"], inputs={"photo": "picture"})

    class Mean:
        processor_ = Processor.fit(suite)

        def predict(self, inputs, tasks=None):
            return {"wet": np.full(inputs.num_rows, 127.0)}

    (shot,) = values(Mean(), suite, examples=1)["cards"][0]["pictures"]
    first = np.array(suite.table("test")["photo"][0].as_py(), np.uint8)
    assert np.array_equal(np.asarray(shot.image), first[..., :3])


def test_a_page_of_a_table_has_no_pictures(table):
    learner, suite = table
    page = gallery(learner, suite)
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    assert not images(page)
    for words in ("price", "rent", "rooms", "sold", "mixed", "training.epochs", "Shared MLP"):
        assert words in text


def test_odd_names_are_only_names():
    rng = np.random.default_rng(0)
    names = ["<script>alert(1)</script>", "$x^2$ {{ 7 * 7 }}"]
    table = {
        "a": rng.normal(size=60),
        names[0]: rng.normal(size=60),
        names[1]: rng.random(60) > 0.5,
    }
    suite = Suite.from_table(
        table, {names[0]: {"kind": "regression", "unit": "$&<"}, names[1]: None}
    )
    page = gallery(SharedMLP(training=Training(epochs=1)).fit(suite), suite)
    assert "<script" not in page and "{{ 7 * 7 }}" in page
    assert "predicted in $&amp;&lt;" in page


def test_an_array_of_two_dimensions_is_a_picture(values):
    suite = picture_suite()
    learner = SharedMLP(training=Training(epochs=1)).fit(suite)
    card = values(learner, suite)["cards"][0]
    (shot,) = card["pictures"]
    cells = np.array(suite.table("test")["picture"][0].as_py())
    unit = (cells - cells.min()) / (cells.max() - cells.min())
    assert np.abs(np.asarray(shot.image)[..., 0] / 255 - unit).max() < 0.01


@pytest.mark.parametrize("shape", [(400,), (400, 2), (2, 400)])
def test_signals_are_curves_with_the_attention_of_each_task(values, shape):
    rng = np.random.default_rng(0)
    signal = 5 + 20 * rng.normal(size=(40, *shape))
    table = {"flow": signal, "sick": rng.random(40) > 0.5, "age": rng.normal(size=40)}
    suite = Suite.from_table(table, ["sick", "age"])
    learner = SharedMLP(training=Training(epochs=1)).fit(suite)
    asked = []

    def attention(inputs, task=None):
        asked.append((inputs.num_rows, task))
        return np.ones((inputs.num_rows, 390))

    learner.attention = attention
    (drawn,) = values(learner, suite, examples=1)["cards"][0]["signals"]
    assert drawn["tasks"] == ["sick", "age"]
    assert asked == [(1, "sick"), (1, "age")]
    labels = re.findall(r">([^<>]+)</text>", drawn["wide"])
    assert "attention" in labels and {"50", "−50"} & set(labels)  # in its own numbers
    assert ("2" in labels) == (len(shape) == 2)


@pytest.mark.parametrize("spike", [1, 4321])
def test_a_long_signal_keeps_its_spikes(spike):
    values = np.zeros(5000)
    values[spike] = 1.0
    drawing = figures.signal([values], [], "a spike", 328)
    path = max(re.findall(r' d="([^"]*)"', drawing), key=len)
    places = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float)
    top = places[places[:, 1].argmin()]
    assert len(places) < 1000
    share = (top[0] - places[0, 0]) / (places[-1, 0] - places[0, 0])
    assert share == pytest.approx(spike / 5000, abs=0.01)
    assert top[1] < np.median(places[:, 1]) - 20


def test_predicted_and_true_have_one_scale(values, table):
    learner, suite = table
    drawing = part_of(values(learner, suite), "price")["plots"][0]
    labels = re.findall(r">(−?[\d.]+)</text>", drawing)
    ticks = [float(label.replace("−", "-")) for label in labels]
    across, up = ticks[: len(ticks) // 2], ticks[len(ticks) // 2 :]
    assert (min(across), max(across)) == (min(up), max(up))


def test_a_learner_that_only_predicts_has_a_page(dense):
    learner, suite = dense

    class Bare:
        processor_ = learner.processor_
        predict = staticmethod(learner.predict)

    page = gallery(Bare(), suite)
    assert "Bare on scenes" in page and "Settings" not in page


def test_fewer_tasks_of_the_suite(values, dense):
    learner, suite = dense
    given = values(learner, suite.only("edges", "cover"))
    assert [task.name for task in given["tasks"]] == ["edges", "cover"]


def test_a_split_without_labels_of_a_task(values, table):
    learner, suite = table
    test = suite.table("test")
    at = test.column_names.index("rent")
    empty = test.set_column(at, "rent", pa.nulls(test.num_rows, pa.float64()))
    from datasets import Dataset
    from datasets.table import InMemoryTable

    suite = replace(suite, splits={**suite.splits, "test": Dataset(InMemoryTable(empty))})
    given = values(learner, suite)
    row = next(row for row in given["scores"] if row["task"].name == "rent")
    assert row["labelled"] == 0 and {m["value"] for m in row["metrics"]} == {"–"}
    assert part_of(given, "rent")["plots"] == []


def test_what_cannot_be_shown_is_refused(table, dense):
    with pytest.raises(InputError, match="mlp is not fitted"):
        gallery(SharedMLP(), table[1])
    with pytest.raises(InputError, match="'scenes' has none of the model's tasks price, rent"):
        gallery(table[0], dense[1])


@pytest.mark.browser
class TestInABrowser:
    """The pages in a real Chromium."""

    @pytest.fixture(params=["dense", "table"])
    def page(self, request, browser, look, tmp_path):
        path = tmp_path / "page.html"
        path.write_text(gallery(*request.getfixturevalue(request.param)), encoding="utf-8")
        look(1280, "light")
        browser.get(path.as_uri())
        return browser

    def test_it_never_scrolls_sideways(self, page, look):
        for width in (1280, 740, 360, 320):
            look(width, "light")
            assert page.execute_script("return document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_all_text_has_contrast(self, page, look, weak_text, scheme):
        look(1280, scheme)
        page.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert weak_text() == []

    def test_pictures_are_there_and_large_enough(self, page, look):
        for width, least in ((1280, 90), (360, 75)):
            look(width, "light")
            sizes = page.execute_script(
                "return [...document.querySelectorAll('figure img')]"
                ".map(e => [e.naturalWidth, e.getBoundingClientRect().width])"
            )
            assert all(natural > 0 and shown >= least for natural, shown in sizes)

    def test_no_request_and_no_complaint(self, page, requests):
        assert {url.partition(":")[0] for url in requests()} <= {"file", "data"}
        assert page.get_log("browser") == []
