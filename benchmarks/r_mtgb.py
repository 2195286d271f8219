"""R-MTGB: the paper's scenarios, real tables at stumps and at chosen depths, and speed.

Every choice (rounds, depth, Newton leaves) is made on validation rows; the model that was chosen
there is the one tested, nothing is fitted again on more rows. Single-task boosting, pooling, the
task as a feature (one-hot) and MTGB are the same code with blocks switched off, so that a row
differs from the next in what is shared and in nothing else. LightGBM and ridge regression stand
beside them as what a user would pick.

    PYTHONPATH=src python benchmarks/r_mtgb.py     # measures what the record lacks, then judges

Real sets: POLYTASK_DATA names the folder of the tables. A set that is not there is left out.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from harness import Record, write_claims
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.tree import DecisionTreeRegressor
from tables import MissingDataError, read

from polytask.comparing.claims import Claim
from polytask.parts.boosting import CrossEntropy, Loss, Rows, Scale, Squared
from polytask.parts.histogram import Bins, Forest, Grower
from polytask.systems.r_mtgb import Blocks, Boosting, RMTGBRegressor

COMMAND = "python benchmarks/r_mtgb.py"
SYSTEM = "r_mtgb"
SCENARIO_SEEDS = tuple(range(10))
SEEDS = (0, 1, 2)
PARTS = ("train", "validation", "test")

BLOCKS = ("R-MTGB", "MTGB", "single task", "pooling", "task as feature")
LIGHTGBM = ("LightGBM per task", "LightGBM, task as category")
RIDGE = "ridge, task one-hot"


# -- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Rows by task in three parts.

    Attributes:
        y: numbers ``[n, 1]`` in their unit, or one-hot classes ``[n, classes]``.
        part: 0, 1, 2 for train, validation, test.
        categorical: columns of ``X`` that are codes.
        joint: whether targets of regressions are standardised together (groups of one question).
    """

    X: NDArray
    y: NDArray
    task: NDArray
    part: NDArray
    categorical: tuple[int, ...] = ()
    joint: bool = True
    max_bins: int = 255

    @property
    def loss(self) -> Loss:
        return Squared() if self.y.shape[1] == 1 else CrossEntropy()

    @property
    def tasks(self) -> int:
        return int(self.task.max()) + 1

    def rows(self, part: str, X: NDArray | None = None) -> Rows:
        mine = self.part == PARTS.index(part)
        return Rows.sorted((self.X if X is None else X)[mine], self.y[mine], self.task[mine])

    def with_task(self) -> NDArray:
        """``X`` with the task one-hot beside it."""
        return np.column_stack([self.X, np.eye(self.tasks)[self.task]])


def dealt(X: NDArray, y: NDArray, task: NDArray, seed: int, **more: Any) -> Data:
    """64 % train, 16 % validation, 20 % test of every task's rows."""
    rng = np.random.default_rng(seed)
    part = np.zeros(len(X), np.int64)
    for r in np.unique(task):
        mine = rng.permutation(np.flatnonzero(task == r))
        test, validation = round(0.2 * len(mine)), round(0.16 * len(mine))
        part[mine[:test]] = 2
        part[mine[test : test + validation]] = 1
    return Data(X, y, task, part, **more)


def fourier(rng: np.random.Generator, columns: int, terms: int = 500) -> Callable[..., NDArray]:
    """A random function ``Σ_j θ_j √(2/terms) cos(w_j·x / l + b_j)`` with ``l = columns / 4``."""
    w, theta = rng.normal(size=(terms, columns)), rng.normal(size=terms)
    b = rng.uniform(0, 2 * np.pi, terms)
    return lambda X: np.cos(X @ w.T / (0.25 * columns) + b) @ theta * np.sqrt(2 / terms)


def scenario(number: int, seed: int, tasks: int = 10, outliers: int = 2, columns: int = 5) -> Data:
    """The paper's generator: 300 rows to train (60 of them validate) and 1000 to test per task.

    1: one function. 2: a function for each task. 3: 0.9 · common + 0.1 · own. 4: as 3, but the last
    tasks have another common function.
    """
    rng = np.random.default_rng([number, seed])
    common, other = fourier(rng, columns), fourier(rng, columns)
    X = rng.uniform(-1, 1, (tasks * 1300, columns))
    task = np.repeat(np.arange(tasks), 1300)
    y = np.empty(len(X))
    for r in range(tasks):
        mine, own = task == r, fourier(rng, columns)
        base = other if number == 4 and r >= tasks - outliers else common
        share = {1: 1.0, 2: 0.0}.get(number, 0.9)
        y[mine] = share * base(X[mine]) + (1 - share) * own(X[mine])
    part = np.tile(np.repeat([0, 1, 2], [240, 60, 1000]), tasks)
    return Data(X, y[:, None], task, part)


def table(name: str, seed: int) -> Data:
    """A real table, its tasks and a seeded split."""
    if name in ("adult, sex", "adult, race"):
        frame = read("tab_adult/data.parquet").drop(columns="split")
        task = frame[name.removeprefix("adult, ")].astype("category").cat.codes.to_numpy()
        y = frame["income_over_50k"].to_numpy(int)
        frame = frame.drop(columns=["sex", "race", "income_over_50k"])
        text = [i for i, c in enumerate(frame) if frame[c].dtype.kind not in "iufb"]
        for i in text:
            codes = frame.iloc[:, i].astype("category").cat.codes.astype(float)
            frame[frame.columns[i]] = codes.where(codes >= 0)
        X = frame.to_numpy(float)
        return dealt(X, np.eye(2)[y], task.astype(int), seed, categorical=tuple(text))
    if name == "wq":
        frame = read("tab_mulan_mtr/wq.parquet").drop(columns="split")
        targets = frame.filter(like="target_").to_numpy(float)
        X = frame.drop(columns=[c for c in frame if c.startswith("target_")]).to_numpy(float)
        rows, tasks = targets.shape
        task = np.repeat(np.arange(tasks), rows)
        return dealt(np.tile(X, (tasks, 1)), targets.T.reshape(-1, 1), task, seed, joint=False)
    frame = read(f"tab_{name}/data.parquet").drop(columns="split")
    label = {
        "school": "exam_score", "computer": "rating", "abalone": "rings", "avila": "scribe",
        "bank": "subscribed",
    }[name]  # fmt: skip
    task, y = frame.pop("task").to_numpy(int), frame.pop(label)
    X = frame.to_numpy(float)
    task = np.unique(task, return_inverse=True)[1]
    if name in ("avila", "bank"):
        codes = np.unique(y, return_inverse=True)[1]
        bins = 64 if name == "avila" else 255
        return dealt(X, np.eye(codes.max() + 1)[codes], task, seed, max_bins=bins)
    return dealt(X, y.to_numpy(float)[:, None], task, seed)


TITLES = {
    "school": "school: exam scores, 139 schools, 15,362 rows",
    "computer": "computer: ratings, 190 persons of 20 rows",
    "abalone": "abalone: rings, 3 sexes, 4,177 rows",
    "wq": "water quality: 14 species in the same 1,060 samples",
    "avila": "avila: 12 scribes, 48 groups, 20,867 rows",
    "bank": "bank: does the customer subscribe, 12 jobs, 45,211 rows",
    "adult, sex": "adult: income, 2 sexes, 32,561 rows",
    "adult, race": "adult: income, 5 races, 32,561 rows",
}


# -- ways to learn -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """Settings, and after how many rounds in all they may end; None lets blocks stop early."""

    settings: Boosting
    ends: tuple[int, ...] | None


def candidates(way: str, protocol: str, data: Data, eta: float) -> Iterator[Candidate]:
    """What is tried on validation.

    ``stumps`` is the paper's: grids of rounds. ``depth`` is depth 3 or 6, at least 5 rows a leaf,
    Newton leaves for classes, and blocks that stop early.
    """
    if protocol == "stumps":
        base = Boosting(eta=eta, max_bins=data.max_bins)
        alone = (20, 50, 100, 250)
        if way in ("pooling", "task as feature"):
            yield Candidate(replace(base, n1=250, n2=0, n3=0), alone)
        elif way == "single task":
            yield Candidate(replace(base, n1=0, n2=0, n3=250), alone)
        elif way == "MTGB":
            for n1 in (20, 50, 100):
                yield Candidate(
                    replace(base, n1=n1, n2=0, n3=100), tuple(n1 + n for n in (0, 20, 50, 100))
                )
        else:
            for n1 in (0, 20, 50, 100):
                for n2 in (20, 50):
                    yield Candidate(
                        replace(base, n1=n1, n2=n2, n3=100),
                        tuple(n1 + n2 + n for n in (0, 20, 50, 100)),
                    )
        return
    most = 100 if data.max_bins < 255 else 300
    newton = isinstance(data.loss, CrossEntropy)
    for depth in (3, 6):
        base = Boosting(
            eta=0.1, depth=depth, newton=newton, min_leaf=5, patience=20, max_bins=data.max_bins
        )
        if way in ("pooling", "task as feature"):
            yield Candidate(replace(base, n1=most, n2=0, n3=0), None)
        elif way == "single task":
            yield Candidate(replace(base, n1=0, n2=0, n3=most), None)
        elif way == "MTGB":
            for n1 in (30, most):
                yield Candidate(replace(base, n1=n1, n2=0, n3=most), None)
        else:
            for n1 in (0, 30, most):
                yield Candidate(replace(base, n1=n1, n2=100, n3=most), None)


def learn(data: Data, way: str, protocol: str, eta: float = 0.1) -> dict[str, Any]:
    """Fit the candidates of a way, choose on validation, measure on test."""
    if way in LIGHTGBM:
        return lightgbm(data, way, protocol, eta)
    if way == RIDGE:
        return ridge(data)
    X = data.with_task() if way == "task as feature" else data.X
    train, held, test = (data.rows(part, X) for part in PARTS)
    scale = scaling(data, train)
    train, held = (replace(r, y=scale.down(r.y, r.tasks)) for r in (train, held))
    best: tuple[float, Blocks, str] | None = None
    for candidate in candidates(way, protocol, data, eta):
        settings, ends = candidate.settings, candidate.ends
        watched = held if ends is None else None
        blocks = settings.boost(train, data.loss, categorical=data.categorical, validation=watched)
        if ends is None:
            found = data.loss.value(held.y, blocks.answers(held.X, held.tasks))
            options = [(found, blocks)]
        else:
            stages = enumerate(blocks.staged(held.X, held.tasks), 1)
            losses = {j: data.loss.value(held.y, F) for j, F in stages if j in ends}
            options = [(value, cut(blocks, end)) for end, value in losses.items()]
        for value, option in options:
            if best is None or value < best[0]:
                best = value, option, f"depth {settings.depth}" + " newton" * settings.newton
    assert best is not None
    value, blocks, name = best
    rounds = [blocks.shared.rounds, blocks.regular.rounds, blocks.own.rounds]
    answers = scale.up(blocks.answers(test.X, test.tasks), test.tasks)
    return {
        **measured(data, test, answers),
        "validation": value,
        "chosen": f"{name} {rounds}",
        "gap": blocks.outliers.gap,
        "outliers": len(blocks.outliers.tasks),
    }


def scaling(data: Data, train: Rows) -> Scale:
    if isinstance(data.loss, CrossEntropy):
        return Scale.fit(train, "none")
    return Scale.fit(train, "joint" if data.joint else "task")


def cut(blocks: Blocks, end: int) -> Blocks:
    """The model as it was after so many rounds in all."""

    def first(forest: Forest, rounds: int) -> Forest:
        return replace(forest, roots=forest.roots[: max(rounds, 0)])

    n1, n2 = blocks.shared.rounds, blocks.regular.rounds
    return replace(
        blocks,
        shared=first(blocks.shared, end),
        regular=first(blocks.regular, end - n1),
        outlier=first(blocks.outlier, end - n1),
        own=first(blocks.own, end - n1 - n2),
        theta=blocks.theta[: max(end - n1, 0) + 1],
    )


def measured(data: Data, test: Rows, answers: NDArray) -> dict[str, Any]:
    """RMSE, or accuracy and log loss; answers are values or the logarithms of chances."""
    if isinstance(data.loss, CrossEntropy):
        right = answers.argmax(1) == test.y.argmax(1)
        return {"accuracy": float(right.mean()), "log_loss": data.loss.value(test.y, answers)}
    squares = np.square(test.y - answers)[:, 0]
    by_task = np.sqrt(np.bincount(test.tasks, squares) / np.bincount(test.tasks))
    return {"rmse": float(np.sqrt(squares.mean())), "rmse_by_task": by_task.tolist()}


def lightgbm(data: Data, way: str, protocol: str, eta: float) -> dict[str, Any]:
    """LightGBM with the same depths, bins and rounds; rounds are chosen for all tasks together."""
    import lightgbm as lgb

    classes = data.y.shape[1]
    apart = way == LIGHTGBM[0]
    train, held, test = (data.rows(part) for part in PARTS)
    scale = scaling(data, train)
    most = 250 if protocol == "stumps" else (100 if data.max_bins < 255 else 300)
    ends = [n for n in (20, 50, 100, 150, 200, 250, 300) if n <= most]
    best: tuple[float, NDArray, str] | None = None
    options = [(d, g) for d in ((1,) if protocol == "stumps" else (3, 6)) for g in (100, 10)]
    for depth, group in options:
        if apart and group != 100:
            continue  # there are no categories to group
        parameters = {
            "objective": "regression" if classes == 1 else "multiclass",
            **({"num_class": classes} if classes > 1 else {}),
            "learning_rate": eta, "max_depth": depth, "num_leaves": 2**depth,
            "max_bin": data.max_bins, "min_data_per_group": group, "num_threads": 1,
            "min_data_in_leaf": 1 if protocol == "stumps" else 5, "seed": 0,
            "deterministic": True, "verbosity": -1,
        }  # fmt: skip
        parts = {k: {n: np.zeros_like(r.y) for n in ends} for k, r in (("h", held), ("t", test))}
        for r in range(data.tasks) if apart else (None,):
            mine = [rows.tasks == r if apart else slice(None) for rows in (train, held, test)]
            target = scale.down(train.y, train.tasks)[mine[0]]
            label = target[:, 0] if classes == 1 else target.argmax(1)
            X = [
                rows.X[m] if apart else np.column_stack([rows.X, rows.tasks])
                for rows, m in zip((train, held, test), mine, strict=True)
            ]
            columns = [*data.categorical, *([] if apart else [data.X.shape[1]])]
            known = lgb.Dataset(X[0], label, categorical_feature=columns, params=parameters)
            model = lgb.train(parameters, known, most)
            for n in ends:
                for key, i in (("h", 1), ("t", 2)):
                    if len(X[i]):
                        found = model.predict(X[i], num_iteration=n, num_threads=1)
                        parts[key][n][mine[i]] = found.reshape(len(X[i]), classes)
        for n in ends:
            value = data.loss.value(scale.down(held.y, held.tasks), _told(parts["h"][n], classes))
            if best is None or value < best[0]:
                best = value, parts["t"][n], f"depth {depth} rounds {n}"
    assert best is not None
    answers = scale.up(_told(best[1], classes), test.tasks)
    return {**measured(data, test, answers), "validation": best[0], "chosen": best[2]}


def _told(found: NDArray, classes: int) -> NDArray:
    """Values as they are, chances as logarithms (no less than 1e-7)."""
    return found if classes == 1 else np.log(np.clip(found, 1e-7, 1))


def ridge(data: Data) -> dict[str, Any]:
    """A linear model with an intercept for each task; the penalty is chosen on validation."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    train, held, test = (data.rows(part, data.with_task()) for part in PARTS)
    scale, inputs = scaling(data, train), StandardScaler().fit(train.X)
    best: tuple[float, NDArray, str] | None = None
    for penalty in np.logspace(-1, 4, 11):
        model = Ridge(alpha=penalty).fit(
            inputs.transform(train.X), scale.down(train.y, train.tasks)[:, 0]
        )
        found = [model.predict(inputs.transform(rows.X))[:, None] for rows in (held, test)]
        value = data.loss.value(scale.down(held.y, held.tasks), found[0])
        if best is None or value < best[0]:
            best = value, found[1], f"penalty {penalty:.3g}"
    assert best is not None
    answers = scale.up(best[1], test.tasks)
    return {**measured(data, test, answers), "validation": best[0], "chosen": best[2]}


# -- the sheet's fixed settings on scenario 4 ----------------------------------------------------

FIXED = {
    "R-MTGB (0, 50, 0)": (0, 50, 0),
    "R-MTGB (30, 50, 20)": (30, 50, 20),
    "MTGB (30, 0, 20)": (30, 0, 20),
    "single task (30)": (0, 0, 30),
    "pooling (50)": (50, 0, 0),
}


def fixed(number: int, seed: int, eta: float) -> dict[str, Any]:
    """Stumps with the paper's rounds on all 300 rows of every task, as selected there."""
    data = scenario(number, seed)
    train = [data.rows(part) for part in ("train", "validation")]
    rows = Rows.sorted(
        *(np.concatenate([getattr(r, f) for r in train]) for f in ("X", "y", "tasks"))
    )
    test, times = data.rows("test"), 1 if eta == 1.0 else 3
    found: dict[str, Any] = {}
    for name, counts in FIXED.items():
        n1, n2, n3 = (times * n for n in counts)
        settings = Boosting(n1=n1, n2=n2, n3=n3, eta=eta, seed=seed)
        blocks = settings.boost(rows, Squared())
        result = measured(data, test, blocks.answers(test.X, test.tasks))
        outliers = blocks.outliers
        found[name] = {**result, "scores": outliers.scores.tolist(), "gap": outliers.gap}
    return found


# -- speed ---------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def numbers(rows: int, columns: int, tasks: int, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """(X, y, task) of a regression in which a fifth of the tasks is unlike the others."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    task = np.sort(np.arange(rows) % tasks)
    other = task < max(tasks // 5, 1)
    y = 2 * X[:, 0] + np.sin(3 * X[:, 1]) + 2 * X[:, 2] * other + rng.normal(size=rows)
    return X, y[:, None], task


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def exact_loop(X: NDArray, y: NDArray, task: NDArray, counts: Sequence[int], eta: float) -> NDArray:
    """The same algorithm over scikit-learn's exact stumps, one ``fit`` per tree; answers on X."""

    def stump(g: NDArray, rows: Any = slice(None)) -> NDArray:
        tree = DecisionTreeRegressor(max_depth=1).fit(X[rows], g[rows])
        return tree.predict(X[rows])

    y = y[:, 0]
    tasks = task.max() + 1
    F, n, o = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    theta = 0.1 * np.random.default_rng(0).standard_normal(tasks)
    for _ in range(counts[0]):
        F += eta * stump(y - F)
    for _ in range(counts[1]):
        w = expit(theta)[task]
        g, apart = y - F - (1 - w) * n - w * o, o - n
        n, o = n + eta * stump((1 - w) * g), o + eta * stump(w * g)
        slope = expit(theta) * (1 - expit(theta))
        theta = theta + eta * np.bincount(task, g * apart) * slope
    w = expit(theta)[task]
    F = F + (1 - w) * n + w * o
    for _ in range(counts[2]):
        for r in range(tasks):
            F[task == r] += eta * stump(y - F, task == r)
    return F


def against_exact() -> dict[str, Any]:
    """Seconds per round and block at 200k rows x 20 columns x 20 tasks, stumps, interleaved.

    The exact loop runs one round of each block (its rounds cost alike), ours all fifty.
    """
    X, y, task = numbers(200_000, 20, 20)
    rows = Rows(X, y, task)
    settings = Boosting(n1=50, n2=50, n3=50)
    exact: list[list[float]] = []
    ours = []
    for _ in range(3):
        exact.append(
            [
                timed(lambda c=c: exact_loop(X, y, task, c, 0.1))  # type: ignore[misc]
                for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
            ]
        )
        ours.append(timed(lambda: settings.boost(rows, Squared())))
    by_block = np.median(exact, axis=0)
    total = 50 * float(by_block.sum())
    mine = float(np.median(ours))
    return {"exact_round": by_block.tolist(), "exact": total, "ours": mine, "ratio": total / mine}


def accuracy_against_exact() -> dict[str, Any]:
    """Both to the end on 20k rows: RMSE on 20k other rows."""
    X, y, task = numbers(40_000, 20, 20)
    first = np.arange(40_000) % 2 == 0
    settings, scores = Boosting(n1=50, n2=50, n3=50), {}
    for name, bins in (("63 bins", 63), ("255 bins", 255)):
        blocks = replace(settings, max_bins=bins).boost(
            Rows(X[first], y[first], task[first]), Squared()
        )
        found = blocks.answers(X[first], task[first])
        scores[name] = float(np.sqrt(np.mean((y[first] - found) ** 2)))
    found = exact_loop(X[first], y[first], task[first], (50, 50, 50), 0.1)
    scores["exact"] = float(np.sqrt(np.mean((y[first, 0] - found) ** 2)))
    return scores


def per_tree(depth: int) -> dict[str, Any]:
    """Milliseconds per tree beside LightGBM: 200k x 20, 255 bins, one thread, interleaved."""
    import lightgbm as lgb

    X, y, task = numbers(200_000, 20, 20)
    bins = Bins.fit(X)
    starts = Rows(X, y, task).starts
    grower = Grower(bins, X, starts, depth)
    parameters = {
        "objective": "regression", "num_leaves": 2**depth, "max_depth": depth, "max_bin": 255,
        "learning_rate": 0.1, "num_threads": 1, "min_data_in_leaf": 1, "verbosity": -1,
        "boost_from_average": False, "min_sum_hessian_in_leaf": 0,
    }  # fmt: skip
    known = lgb.Dataset(X, y[:, 0], params=parameters).construct()
    F, B = np.zeros_like(y), np.zeros_like(y)
    booster = lgb.Booster(parameters, known)
    grower.grow(y - F, F, 0.1)  # compiled before the clock starts
    booster.update()
    times: dict[str, list[float]] = {"ours": [], "lightgbm": [], "a tree per task": []}
    for _ in range(40):
        times["ours"].append(timed(lambda: grower.grow(y - F, F, 0.1)))
        times["lightgbm"].append(timed(booster.update))
        times["a tree per task"].append(timed(lambda: grower.grow(y - B, B, 0.1, by_block=True)))
    found = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    return {**found, "ratio": found["ours"] / found["lightgbm"]}


def prediction() -> dict[str, Any]:
    """Rows per second and core for 150 stumps a row: 50 shared, 2 x 25 of the groups, 50 own."""
    X, y, task = numbers(200_000, 20, 20)
    model = RMTGBRegressor(n1=50, n2=25, n3=50, random_state=0).fit(X[::10], y[::10, 0], task[::10])
    model.predict(X[:10], task[:10])
    seconds = float(np.median([timed(lambda: model.predict(X, task)) for _ in range(7)]))
    return {"rows_per_second": len(X) / seconds}


def school_times() -> dict[str, Any]:
    """The sheet's case: 12.3k rows, 139 tasks, 50/50/20 stumps; and 120 LightGBM stumps."""
    import lightgbm as lgb

    data = table("school", 0)
    fitted, test = data.part < 2, data.part == 2
    X, y, task = data.X, data.y[:, 0], data.task
    model = RMTGBRegressor(n1=50, n2=50, n3=20, scale="none", random_state=0)
    light = lgb.LGBMRegressor(
        n_estimators=120, num_leaves=2, n_jobs=1, min_child_samples=1, verbosity=-1
    )
    times: dict[str, list[float]] = {"fit": [], "predict": [], "lightgbm": []}
    for _ in range(5):
        times["fit"].append(timed(lambda: model.fit(X[fitted], y[fitted], task[fitted])))
        times["predict"].append(timed(lambda: model.predict(X[test], task[test])))
        times["lightgbm"].append(timed(lambda: light.fit(X[fitted], y[fitted])))
    found = {name: float(np.median(values)) for name, values in times.items()}
    errors = {
        "rmse": model.predict(X[test], task[test]),
        "rmse_lightgbm": np.asarray(light.predict(X[test])),
    }
    return found | {k: float(np.sqrt(np.mean((v - y[test]) ** 2))) for k, v in errors.items()}


CURVES = {
    "rows": [(n, 20, 20) for n in (25_000, 50_000, 100_000, 200_000, 400_000)],
    "columns": [(100_000, d, 20) for d in (5, 10, 20, 40, 80)],
    "tasks": [(100_000, 20, t) for t in (2, 10, 50, 200, 1000)],
}


def curve(along: str) -> dict[str, Any]:
    """Seconds of a fit of (20, 20, 20) stumps, the sizes interleaved, median of three."""
    settings, times = Boosting(n1=20, n2=20, n3=20), {size: [] for size in CURVES[along]}
    for _ in range(3):
        for size, seconds in times.items():
            rows = Rows(*numbers(*size))
            seconds.append(timed(lambda rows=rows: settings.boost(rows, Squared())))  # type: ignore[misc]
    return {str(size): float(np.median(seconds)) for size, seconds in times.items()}


def _peak(size: tuple[int, int, int], queue: Any) -> None:
    rows = Rows(*numbers(*size))
    warm = Rows(*(part[:100] for part in (rows.X, rows.y, np.zeros(len(rows.X), np.int64))))
    Boosting(n1=1, n2=1, n3=1).boost(warm, Squared())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Boosting(n1=5, n2=5, n3=5).boost(rows, Squared())
    queue.put((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def memory() -> dict[str, Any]:
    """Peak memory (MB) that a fit adds to a process that holds the rows, one process per size."""
    context = multiprocessing.get_context("spawn")
    added = {}
    for rows in (200_000, 400_000, 800_000, 1_600_000):
        queue = context.Queue()
        process = context.Process(target=_peak, args=((rows, 10, 10), queue))
        process.start()
        before, after = queue.get()
        process.join()
        added[str(rows)] = (after - before) / 1024
    return added


# -- the record ----------------------------------------------------------------------------------


def run() -> None:
    """Measure every cell that is not on record, cheapest and most asked first."""
    record = Record(SYSTEM)
    speed(record)
    for seed in SCENARIO_SEEDS:
        for number in (4, 1, 2, 3):
            for eta in (1.0, 0.1) if number == 4 else (1.0,):
                settings = {"scenario": number, "seed": seed, "fixed": True, "eta": eta}
                record.cell(settings, lambda n=number, s=seed, e=eta: fixed(n, s, e))  # type: ignore[misc]
    for seed in SEEDS:
        for name in TITLES:
            try:
                data = table(name, seed)
            except MissingDataError as error:
                print(f"{SYSTEM}: {error}")
                continue
            for protocol in ("stumps", "depth"):
                for way in ways(data, protocol):
                    settings = {"table": name, "seed": seed, "way": way, "protocol": protocol}
                    record.cell(settings, lambda d=data, w=way, p=protocol: learn(d, w, p))  # type: ignore[misc]
    for seed in SCENARIO_SEEDS:
        for number in (1, 2, 3, 4):
            data = scenario(number, seed)
            for protocol in ("stumps", "depth"):
                for way in ways(data, protocol):
                    settings = {"scenario": number, "seed": seed, "way": way, "protocol": protocol}
                    eta = 1.0 if protocol == "stumps" and way in BLOCKS else 0.1
                    record.cell(
                        settings,
                        lambda d=data, w=way, p=protocol, e=eta: learn(d, w, p, e),  # type: ignore[misc]
                    )
    write_claims(SYSTEM, claims())


def ways(data: Data, protocol: str) -> tuple[str, ...]:
    """Ridge has no depth, and no classes here."""
    extra = (RIDGE,) if protocol == "depth" and data.y.shape[1] == 1 else ()
    return (*BLOCKS, *LIGHTGBM, *extra)


def speed(record: Record) -> None:
    """The cells of the clock; figures of one cell were taken side by side."""
    record.cell({"speed": "exact loop"}, against_exact)
    record.cell({"speed": "accuracy of bins"}, accuracy_against_exact)
    for depth in (1, 3, 6):
        record.cell({"speed": "per tree", "depth": depth}, lambda d=depth: per_tree(d))  # type: ignore[misc]
    record.cell({"speed": "prediction"}, prediction)
    try:
        record.cell({"speed": "school"}, school_times)
    except MissingDataError as error:
        print(f"{SYSTEM}: {error}")
    for along in CURVES:
        record.cell({"speed": "curve", "along": along}, lambda a=along: curve(a))  # type: ignore[misc]
    record.cell({"speed": "memory"}, memory)


def claims() -> list[Claim]:
    return []


if __name__ == "__main__":
    run()
