"""R-MTGB: the identities of its three blocks, the estimators, and the learner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import check_estimator

from polytask.data import ColumnSplit, Suite
from polytask.errors import InputError
from polytask.parts.boosting import CrossEntropy, Rows, Scale, Squared
from polytask.systems.r_mtgb import RMTGB, Boosting, Outliers, RMTGBClassifier, RMTGBRegressor
from polytask.testing import check_system, mixed_suite
from polytask.training.saved import load

SMALL: dict[str, Any] = {"n1": 8, "n2": 8, "n3": 8, "eta": 0.5, "random_state": 0}


def draw(tasks=3, rows=80, outputs=1, seed=0):
    """(X, y, task) of regressions; the last task's second column counts the other way."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(tasks), rows)
    X = rng.normal(size=(len(task), 4))
    turn = np.where(task == tasks - 1, -1.0, 1.0)
    y = np.stack([np.sin(X[:, 0] + k) + turn * X[:, 1] for k in range(outputs)], axis=1)
    return X, y + 0.3 * rng.normal(size=y.shape), task


def boosted(settings, X, y, task, loss=None, **more):
    """(fitted blocks, answers on the training rows), the target as it is."""
    blocks = settings.boost(Rows(X, y, task), loss or Squared(), **more)
    return blocks, blocks.answers(X, task)


def one_hot(y):
    codes = np.digitize(y[:, 0], [-0.5, 0.5])
    return np.eye(3)[codes], codes


# -- identities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_the_shared_block_is_plain_boosting(depth: int) -> None:
    X, y, task = draw()
    theirs = GradientBoostingRegressor(
        init="zero", n_estimators=40, learning_rate=0.3, max_depth=depth
    ).fit(X, y[:, 0])
    settings = Boosting(n1=40, n2=0, n3=0, eta=0.3, depth=depth)
    _, found = boosted(settings, X, y, np.zeros_like(task))
    np.testing.assert_allclose(found[:, 0], theirs.predict(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_all_three_blocks_are_those_of_exact_trees(outputs: int) -> None:
    X, y, task = draw(outputs=outputs)
    theta = np.array([0.2, -0.1, 0.15])
    eta, exact = 0.4, DecisionTreeRegressor(max_depth=2, random_state=0)

    def tree(g, rows=slice(None)):
        return exact.fit(X[rows], g[rows]).predict(X[rows]).reshape(g[rows].shape)

    F, n, o = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    for _ in range(6):
        F += eta * tree(y - F)
    start = theta.copy()
    for _ in range(6):
        w = expit(theta)[task][:, None]
        g = y - F - (1 - w) * n - w * o
        rise = [(g * (o - n))[task == r].sum() for r in range(3)]
        n, o = n + eta * tree((1 - w) * g), o + eta * tree(w * g)
        theta = theta + eta * np.array(rise) * expit(theta) * (1 - expit(theta))
    w = expit(theta)[task][:, None]
    F = F + (1 - w) * n + w * o
    for _ in range(6):
        for r in range(3):
            F[task == r] += eta * tree(y - F, task == r)
    settings = Boosting(n1=6, n2=6, n3=6, eta=eta, depth=2)
    blocks, found = boosted(settings, X, y, task, theta=start)
    np.testing.assert_allclose(blocks.theta[-1], theta, rtol=1e-9)
    np.testing.assert_allclose(found, F, rtol=0, atol=1e-9)


def test_the_last_block_alone_is_a_model_for_each_task() -> None:
    X, y, task = draw()
    settings = Boosting(n1=0, n2=0, n3=20, eta=0.3, depth=2)
    _, together = boosted(settings, X, y, task)
    for r in range(3):
        mine = task == r
        _, alone = boosted(settings, X[mine], y[mine], np.zeros(mine.sum(), int))
        np.testing.assert_array_equal(together[mine], alone)


def test_the_shared_block_does_not_see_tasks() -> None:
    X, y, task = draw()
    settings = Boosting(n1=20, n2=0, n3=0)
    other = np.random.default_rng(0).permutation(3)[task]
    order = np.argsort(other, kind="stable")
    _, one = boosted(settings, X, y, task)
    _, same = boosted(settings, X[order], y[order], other[order])
    np.testing.assert_allclose(same, one[order], rtol=0, atol=1e-12)


def test_without_noise_the_groups_are_pooling_at_half_the_rate() -> None:
    X, y, task = draw()
    blocks, found = boosted(Boosting(n1=0, n2=30, n3=0, eta=0.4), X, y, task, theta=np.zeros(3))
    _, pooled = boosted(Boosting(n1=30, n2=0, n3=0, eta=0.2), X, y, task)
    np.testing.assert_allclose(found, pooled, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(blocks.theta, 0)


@pytest.mark.parametrize("newton", [False, True])
def test_the_two_sides_are_symmetric(newton: bool) -> None:
    X, y, task = draw()
    settings = Boosting(n1=3, n2=15, n3=3, eta=0.5, newton=newton)
    theta = np.array([0.1, 0.05, -0.2])
    one, found = boosted(settings, X, y, task, theta=theta)
    other, mirrored = boosted(settings, X, y, task, theta=-theta)
    np.testing.assert_allclose(mirrored, found, rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.outliers.scores, other.outliers.scores, atol=1e-9)
    swapped = replace(one, theta=-one.theta, regular=one.outlier, outlier=one.regular)
    np.testing.assert_allclose(swapped.answers(X, task), found, rtol=0, atol=1e-12)


def test_rows_of_the_other_group_shrink_means_but_not_newton_leaves() -> None:
    """At θ = ±∞ only the Newton leaf Σσg/Σσ²h gives two pooled models."""
    X, y, task = draw(tasks=2)
    apart = np.array([-800.0, 800.0])
    rounds = {"n2": 10, "n3": 0, "eta": 0.3}
    _, means = boosted(Boosting(n1=0, **rounds), X, y, task, theta=apart)
    _, newton = boosted(Boosting(n1=0, newton=True, leaf_l2=0, **rounds), X, y, task, theta=apart)
    pooled = np.concatenate(
        [
            boosted(Boosting(n1=10, n2=0, n3=0, eta=0.3), X[m], y[m], np.zeros(80, int))[1]
            for m in (task == 0, task == 1)
        ]
    )
    np.testing.assert_allclose(newton, pooled, rtol=0, atol=1e-9)
    first = Boosting(n1=0, n2=1, n3=0, eta=1.0)
    blocks, _ = boosted(first, X, np.ones_like(y), task, theta=apart)
    np.testing.assert_allclose(blocks.regular.value[0], 0.5)  # half the rows have the target 0
    assert np.abs(means - pooled).max() > 0.1


@pytest.mark.parametrize("loss", [Squared(), CrossEntropy()])
@pytest.mark.parametrize("l2", [0.0, 3.0])
def test_the_step_of_theta_is_downhill(loss: Any, l2: float) -> None:
    """Finite differences of the summed loss, at the state after the first round."""
    X, y, task = draw(outputs=2)
    if isinstance(loss, CrossEntropy):
        y, _ = one_hot(y)
    eta = 0.01
    settings = Boosting(n1=2, n2=2, n3=0, eta=eta, theta_l2=l2)
    blocks, _ = boosted(settings, X, y, task, loss, theta=np.array([0.3, -0.4, 0.1]))
    one_round, _ = boosted(
        replace(settings, n2=1), X, y, task, loss, theta=np.array([0.3, -0.4, 0.1])
    )
    step = (blocks.theta[2] - blocks.theta[1]) / eta

    def total(theta):
        at = replace(one_round, theta=theta[None])
        rows = [loss.value(y[task == r], at.answers(X, task)[task == r]) * 80 for r in range(3)]
        return np.array(rows) + 0.5 * l2 * theta**2

    theta, small = one_round.theta[-1], 1e-5
    slope = (total(theta + small) - total(theta - small)) / (2 * small)
    np.testing.assert_allclose(step, -slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [Squared(), CrossEntropy()])
def test_gradients_and_hessians_are_those_of_the_loss(loss: Any) -> None:
    rng = np.random.default_rng(0)
    y, F, small = np.eye(3)[[0, 2]], rng.normal(size=(2, 3)), 1e-5
    for i, k in np.ndindex(2, 3):
        step = np.zeros_like(F)
        step[i, k] = small
        slope = (loss.value(y, F + step) - loss.value(y, F - step)) * 2 / (2 * small)
        assert loss.gradient(y, F)[i, k] == pytest.approx(-slope, abs=1e-6)
        bend = (loss.gradient(y, F - step) - loss.gradient(y, F + step))[i, k] / (2 * small)
        assert loss.hessian(y, F)[i, k] == pytest.approx(bend, abs=1e-6)


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_training_loss_falls_in_the_first_and_last_block(eta: float) -> None:
    X, y, task = draw()
    blocks, _ = boosted(Boosting(n1=15, n2=15, n3=15, eta=eta, depth=2), X, y, task)
    losses = [Squared().value(y, F) for F in blocks.staged(X, task)]
    assert len(losses) == 45
    assert (np.diff(losses[:15]) <= 1e-12).all()
    assert (np.diff(losses[30:]) <= 1e-12).all()


def test_the_bound_holds_theta() -> None:
    X, y, task = draw()
    blocks, _ = boosted(Boosting(n2=30, eta=1.0, theta_clip=0.5), X, y, task)
    assert np.abs(blocks.theta).max() == 0.5


# -- what block 2 finds ----------------------------------------------------------------------------


def random_function(rng, columns=5):
    """A random Fourier function of length scale 0.25 · columns."""
    w, b, a = rng.normal(size=(300, columns)), rng.uniform(0, 2 * np.pi, 300), rng.normal(size=300)
    return lambda X: np.cos(X @ w.T / (0.25 * columns) + b) @ a / np.sqrt(150)


def test_planted_outliers_are_found() -> None:
    """Scenario 4 of the paper in small: 8 tasks of one function, 2 of another."""
    rng = np.random.default_rng(0)
    common, other = random_function(rng), random_function(rng)
    task = np.repeat(np.arange(10), 300)
    X = rng.uniform(-1, 1, (3000, 5))
    own = [random_function(rng) for _ in range(10)]
    y = 0.9 * np.where(task >= 8, other(X), common(X))
    y += 0.1 * np.concatenate([own[r](X[task == r]) for r in range(10)])
    model = RMTGBRegressor(n1=0, n2=50, n3=0, eta=1.0, random_state=0).fit(X, y, task)
    assert model.outlier_tasks_.tolist() == [8, 9]
    assert model.outlier_gap_ > 0.9
    assert model.outlier_scores_[:8].max() < 0.1


def test_scores_are_oriented_by_the_majority() -> None:
    theta, rows = np.array([4.0, 4.0, -4.0]), np.array([10, 10, 10])
    for sign in (1, -1):
        found = Outliers.of(sign * theta, rows)
        assert found.tasks.tolist() == [2]
        assert found.gap == pytest.approx(expit(4) - expit(-4))
        assert found.sentence("abc") == "1 of 3 tasks do not go with the others: c (gap 0.96)"
    halves = Outliers.of(np.array([4.0, -4.0]), np.array([5, 90]))
    assert halves.tasks.tolist() == [0]


@pytest.mark.parametrize("theta", [[0.1, -0.1], [5.0, 5.0], [-5.0, -5.0]])
def test_there_need_not_be_outliers(theta: list[float]) -> None:
    found = Outliers.of(np.array(theta), np.array([10, 10]))
    assert len(found.tasks) == 0
    assert found.scores.max() < 0.55
    assert found.sentence("ab").startswith("no outlier group (gap 0.")


# -- estimators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RMTGBRegressor, RMTGBClassifier])
def test_scikit_learn_finds_nothing_amiss(kind: Any) -> None:
    """No check is excused: without ``task`` all rows are one task."""
    checks = check_estimator(kind(n1=5, n2=5, n3=20), on_skip=None, on_fail=None)
    assert [c["check_name"] for c in checks if c["status"] == "failed"] == []
    assert [c["check_name"] for c in checks if c["status"] == "skipped"] == [
        "check_array_api_input"
    ]


def test_a_task_alone_is_answered_as_among_others() -> None:
    X, y, task = draw()
    names = np.array(["north", "south", "east"])[task]
    model = RMTGBRegressor(**SMALL).fit(X, y[:, 0], names)
    assert model.tasks_.tolist() == ["east", "north", "south"]
    whole = model.predict(X, names)
    for name in model.tasks_:
        mine = names == name
        np.testing.assert_array_equal(model.predict(X[mine], names[mine]), whole[mine])


def test_the_order_of_rows_does_not_matter() -> None:
    X, y, task = draw()
    order = np.random.default_rng(1).permutation(len(X))
    one = RMTGBRegressor(**SMALL).fit(X, y[:, 0], task)
    other = RMTGBRegressor(**SMALL).fit(X[order], y[order, 0], task[order])
    np.testing.assert_allclose(other.predict(X, task), one.predict(X, task), rtol=0, atol=1e-9)


def test_an_unseen_task_gets_the_shared_trees_and_the_mean_mixture() -> None:
    X, y, task = draw()
    model = RMTGBRegressor(scale="none", **SMALL).fit(X, y[:, 0], task)
    _, m, n, o = model.blocks_.parts(X)
    share = expit(model.blocks_.theta[-1]).mean()
    expected = (m + (1 - share) * n + share * o)[:, 0]
    np.testing.assert_allclose(model.predict(X, np.full(len(X), 77)), expected, atol=1e-12)


def test_the_task_can_be_a_column() -> None:
    X, y, task = draw()
    beside = RMTGBRegressor(**SMALL).fit(X, y[:, 0], task)
    within = np.column_stack([X[:, :2], task, X[:, 2:]])
    model = RMTGBRegressor(task_column=2, **SMALL).fit(within, y[:, 0])
    np.testing.assert_array_equal(model.predict(within), beside.predict(X, task))
    frame = pd.DataFrame(within, columns=["a", "b", "school", "c", "d"])
    model = RMTGBRegressor(task_column="school", **SMALL).fit(frame, y[:, 0])
    np.testing.assert_array_equal(model.predict(frame), beside.predict(X, task))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "d"]


def test_text_columns_and_gaps_are_read() -> None:
    X, y, task = draw()
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["town"] = np.array(["Bonn", "Kiel", "Ulm", None], object)[np.arange(len(X)) % 4]
    frame.loc[::7, "a"] = np.nan
    target = y[:, 0] + 3 * (frame["town"] == "Kiel").to_numpy()
    model = RMTGBRegressor(**SMALL).fit(frame, target, task)
    codes = frame.assign(town=frame["town"].map({"Bonn": 4, "Kiel": 1, "Ulm": 2}))
    by_position = RMTGBRegressor(categorical=[4], **SMALL).fit(codes.to_numpy(), target, task)
    np.testing.assert_allclose(
        by_position.predict(codes.to_numpy(), task), model.predict(frame, task), atol=1e-9
    )
    assert np.corrcoef(model.predict(frame, task), target)[0, 1] > 0.9
    unseen = frame.head(2).assign(town="Mainz")
    np.testing.assert_array_equal(
        model.predict(unseen, task[:2]), model.predict(frame.head(2).assign(town=None), task[:2])
    )


def test_a_second_fit_forgets_the_first() -> None:
    X, y, task = draw()
    frame = pd.DataFrame(X, columns=list("abcd")).assign(a="Bonn")
    model = RMTGBRegressor(**SMALL).fit(frame, y[:, 0], task)
    again = model.fit(X, y[:, 0], np.where(task == 2, "b", "a")).predict(X, ["a"] * len(X))
    fresh = RMTGBRegressor(**SMALL).fit(X, y[:, 0], np.where(task == 2, "b", "a"))
    np.testing.assert_array_equal(again, fresh.predict(X, ["a"] * len(X)))
    assert model.tasks_.tolist() == ["a", "b"]


def test_several_targets_at_once() -> None:
    X, y, task = draw(outputs=3)
    y[:, 1] *= 1000
    model = RMTGBRegressor(**SMALL | {"depth": 3}).fit(X, y, task)
    found = model.predict(X, task)
    assert found.shape == y.shape
    for k in range(3):
        assert np.corrcoef(found[:, k], y[:, k])[0, 1] > 0.9


@pytest.mark.parametrize("scale", ["joint", "task"])
def test_scaled_targets_do_not_hang_on_their_unit(scale: Any) -> None:
    X, y, task = draw()
    model, other = (RMTGBRegressor(scale=scale, **SMALL) for _ in range(2))
    found = model.fit(X, y[:, 0], task).predict(X, task)
    in_cents = other.fit(X, 100 * y[:, 0] + 7000, task).predict(X, task)
    np.testing.assert_allclose(in_cents, 100 * found + 7000, rtol=1e-9)


def test_scaling_by_task_takes_levels_away() -> None:
    rows = Rows(np.zeros((4, 1)), np.array([[1.0], [3.0], [10.0], [10.0]]), np.array([0, 0, 1, 1]))
    scale = Scale.fit(rows, "task")
    np.testing.assert_array_equal(scale.mean[:, 0], [2, 10])
    np.testing.assert_array_equal(scale.std[:, 0], [1, 1])  # one value has no spread
    back = scale.up(scale.down(rows.y, rows.tasks), rows.tasks)
    np.testing.assert_array_equal(back, rows.y)
    np.testing.assert_array_equal(scale.up(np.zeros((1, 1)), np.array([-1])), [[6.0]])


def test_classes_and_their_chances() -> None:
    X, y, task = draw()
    names = np.array(["low", "middle", "high"])[one_hot(y)[1]]
    only_high = task == 1
    X, names, task = (a[~only_high | (names == "high")] for a in (X, names, task))
    model = RMTGBClassifier(**SMALL | {"depth": 2}).fit(X, names, task)  # task 1 has one class
    chances = model.predict_proba(X, task)
    assert model.classes_.tolist() == ["high", "low", "middle"]
    np.testing.assert_allclose(chances.sum(1), 1)
    np.testing.assert_array_equal(model.predict(X, task), model.classes_[chances.argmax(1)])
    assert (model.predict(X, task) == names).mean() > 0.85
    assert chances[task == 1, 0].mean() > 0.8


def test_two_classes_have_two_columns() -> None:
    X, y, task = draw()
    model = RMTGBClassifier(**SMALL).fit(X, y[:, 0] > 0, task)
    assert model.blocks_.outputs == 2
    answers = model.blocks_.answers(X, task)
    np.testing.assert_allclose(model.predict_proba(X, task), softmax(answers, axis=1))


@pytest.mark.parametrize("newton", [False, True])
def test_a_task_of_one_row_is_fitted(newton: bool) -> None:
    X, y, task = draw()
    task = task.copy()
    task[0] = 9
    model = RMTGBRegressor(newton=newton, **SMALL).fit(X, y[:, 0], task)
    assert len(model.tasks_) == 4
    assert np.isfinite(model.predict(X, task)).all()


def test_newton_fits_classes_faster() -> None:
    X, y, task = draw()
    labels = one_hot(y)[1]
    loss = {}
    for newton in (False, True):
        model = RMTGBClassifier(newton=newton, **SMALL).fit(X, labels, task)
        loss[newton] = CrossEntropy().value(np.eye(3)[labels], model.blocks_.answers(X, task))
    assert loss[True] < 0.8 * loss[False]


def test_stages_end_at_the_prediction() -> None:
    X, y, task = draw()
    model = RMTGBRegressor(**SMALL).fit(X, y[:, 0], task)
    stages = list(model.staged_predict(X, task))
    assert len(stages) == 24
    np.testing.assert_allclose(stages[-1], model.predict(X, task), rtol=0, atol=1e-12)
    errors = [np.square(s - y[:, 0]).mean() for s in stages]
    assert errors[-1] < errors[7] < errors[0]
    classifier = RMTGBClassifier(**SMALL).fit(X, y[:, 0] > 0, task)
    *_, last = classifier.staged_predict_proba(X, task)
    np.testing.assert_allclose(last, classifier.predict_proba(X, task), atol=1e-12)


def test_each_block_stops_at_its_best_round() -> None:
    X, y, task = draw(rows=60)
    rng = np.random.default_rng(0)
    held = rng.random(len(X)) < 0.3
    train, validation = (Rows(X[m], y[m], task[m]) for m in (~held, held))
    settings = Boosting(n1=300, n2=300, n3=300, eta=0.5, depth=3, patience=5)
    blocks = settings.boost(train, Squared(), validation=validation)
    kept = (blocks.shared.rounds, blocks.regular.rounds, blocks.own.rounds)
    assert blocks.theta.shape == (kept[1] + 1, 3)
    answers = blocks.answers(validation.X, validation.tasks)
    best = min(min(losses, default=np.inf) for losses in blocks.losses)
    assert Squared().value(validation.y, answers) == pytest.approx(best)
    for rounds, losses in zip(kept, blocks.losses, strict=True):
        assert len(losses) == rounds + 5
        assert rounds == 0 or np.argmin(losses) == rounds - 1
    assert kept[0] > 0
    fixed = replace(settings, n1=kept[0], n2=kept[1], n3=kept[2], patience=None)
    again = fixed.boost(train, Squared())
    np.testing.assert_allclose(again.answers(X, task), blocks.answers(X, task), rtol=0, atol=1e-9)


def test_early_stopping_holds_rows_of_every_task_out() -> None:
    X, y, task = draw()
    model = RMTGBRegressor(**SMALL | {"n1": 200, "patience": 3}).fit(X, y[:, 0], task)
    assert model.blocks_.rows.tolist() == [72, 72, 72]
    assert 0 < model.blocks_.shared.rounds < 200
    assert len(model.validation_loss_[0]) == model.blocks_.shared.rounds + 3


def test_importances_know_the_block() -> None:
    rng = np.random.default_rng(0)
    task = np.repeat([0, 1], 200)
    X = rng.normal(size=(400, 4))
    y = 3 * X[:, 0] + np.where(task == 1, X[:, 2], 0)
    model = RMTGBRegressor(n1=60, n2=0, n3=20, eta=0.3, random_state=0).fit(X, y, task)
    found = model.block_importances_
    assert found["shared"].argmax() == 0
    assert found["own"].argmax() == 2
    assert found["regular"].sum() == 0
    assert model.feature_importances_.argmax() == 0
    assert model.feature_importances_.sum() == pytest.approx(1)


def test_theta_comes_from_the_given_seed_alone() -> None:
    X, y, task = draw()
    found = []
    for seed in (0, 0, 1):
        np.random.seed(len(found))  # noqa: NPY002 - what must not matter
        found.append(RMTGBRegressor(**SMALL | {"random_state": seed}).fit(X, y[:, 0], task))
    thetas = [model.blocks_.theta for model in found]
    np.testing.assert_array_equal(thetas[0], thetas[1])
    assert np.abs(thetas[0] - thetas[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n1": -1}, "n1 is -1; it must be at least 0"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"eta": 0.0}, "eta is 0.0; it must be above 0"),
        ({"theta_clip": -1.0}, "theta_clip is -1.0; it must be above 0, or None"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"patience": 1, "validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"patience": 1, "validation_fraction": 1e-9}, "leaves no validation row"),
        ({"scale": "tasks"}, r"scale is 'tasks' \(did you mean 'task'\?\)"),
        ({"categorical": ["town"]}, "categorical column 'town' is not in X"),
        ({"task_column": 9}, "task_column is 9, but X has 4 columns"),
        ({"task_column": "school"}, "task_column 'school' needs a data frame"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], sentence: str) -> None:
    X, y, _ = draw()
    with pytest.raises(InputError, match=sentence):
        RMTGBRegressor(**SMALL | settings).fit(X, y[:, 0])


def test_wrong_rows_are_named() -> None:
    X, y, task = draw()
    model = RMTGBRegressor(**SMALL).fit(X, y[:, 0], task)
    with pytest.raises(InputError, match="task is missing: this model was fitted with one"):
        model.predict(X)
    with pytest.raises(InputError, match=r"task has shape \(3,\); it needs one entry for each"):
        model.predict(X, [0, 1, 2])
    with pytest.raises(InputError, match="task is missing in row 1"):
        model.predict(X[:2], np.array(["a", None], object))
    with pytest.raises(InputError, match="y holds only one class"):
        RMTGBClassifier(**SMALL).fit(X, np.ones(len(X)), task)
    X[3, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        model.predict(X, task)


# -- learner ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schools() -> Suite:
    """Groups as tasks; school 3 is the one where effort does not pay."""
    rng = np.random.default_rng(0)
    school = np.repeat(np.arange(4), 250)
    effort, talent = rng.normal(size=(2, 1000))
    score = school + 5 * np.where(school == 3, -effort, effort) + talent
    table = {"effort": effort, "talent": talent, "school": school, "score": score}
    return Suite.from_table(table, ["score"], by="school")


@pytest.mark.parametrize("tasks", [("price", "rent"), ("rooms",), ("sold",)])
def test_it_keeps_every_learners_promises(tasks: tuple[str, ...]) -> None:
    checks = check_system(RMTGB, suite=mixed_suite().only(*tasks), n1=4, n2=4, n3=4)
    assert [c for c in checks if c.passed is False] == []


def test_groups_are_told_apart_and_explained(schools: Suite) -> None:
    learner = RMTGB(depth=2, eta=0.3).fit(schools)
    told = learner.explain()
    assert told["outliers"] == ["school=3"]
    assert told["scores"]["school=3"] > 0.9 > 0.1 > told["scores"]["school=0"]
    assert told["sentence"].startswith("1 of 4 tasks do not go with the others: school=3 (gap ")
    assert all(scores["ev"] > 0.9 for scores in learner.score(schools).values())


def test_without_the_groups_there_is_nothing_to_explain(schools: Suite) -> None:
    told = RMTGB(n1=2, n2=0, n3=2).fit(schools).explain()
    assert told["sentence"] == "no outlier group: block 2, which would find it, has no trees"
    assert set(told["scores"].values()) == {0.0} and told["outliers"] == []


def test_targets_of_groups_are_scaled_together_and_others_apart(schools: Suite) -> None:
    one = RMTGB(n1=2, n2=2, n3=2).fit(schools)
    assert len(set(one.scale_.mean[:, 0])) == 1
    two = RMTGB(n1=2, n2=2, n3=2).fit(mixed_suite().only("price", "rent"))
    assert len(set(two.scale_.mean[:, 0])) == 2
    forced = RMTGB(n1=2, n2=2, n3=2, scale="task").fit(schools)
    assert len(set(forced.scale_.mean[:, 0])) == 4


def test_the_learner_is_the_estimator() -> None:
    """The same rows, numbers and settings give the same trees."""
    X, y, task = draw()
    part = np.array(["train", "validation", "test"])[np.arange(len(X)) % 3]
    table = {f"x{i}": X[:, i] for i in range(4)} | {"y": y[:, 0], "group": task, "part": part}
    suite = Suite.from_table(table, ["y"], by="group", split=ColumnSplit("part"))
    learner = RMTGB(n1=9, n2=0, n3=9, eta=0.3, patience=None).fit(suite)
    train, test = part == "train", part == "test"
    model = RMTGBRegressor(n1=9, n2=0, n3=9, eta=0.3).fit(X[train], y[train, 0], task[train])
    predicted = learner.predict(suite.table("test"))
    for r in range(3):
        mine = test & (task == r)
        rows = task[test] == r
        np.testing.assert_allclose(
            predicted[f"group={r}"][rows], model.predict(X[mine], task[mine]), atol=1e-4
        )


def test_tasks_may_have_different_classes(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    table = {
        "a": x[:, 0],
        "b": x[:, 1],
        "mood": np.array(["bad", "good"])[(x[:, 0] > 0).astype(int)],
        "taste": np.array(["bad", "fair", "fine"])[np.digitize(x[:, 1], [-0.4, 0.4])],
    }
    suite = Suite.from_table(table, ["mood", "taste"])
    learner = RMTGB(depth=2, eta=0.5).fit(suite)
    found = learner.predict(suite.table("test"))
    assert found["mood"].shape[1] == 2 and found["taste"].shape[1] == 3
    np.testing.assert_allclose(found["mood"].sum(1), 1)
    assert all(scores["auroc"] > 0.95 for scores in learner.score(suite).values())
    learner.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, RMTGB)
    for name, values in again.predict(suite.table("test")).items():
        np.testing.assert_array_equal(values, found[name])
    assert again.explain() == learner.explain()
    assert again.parameters_ == learner.parameters_ > 0
    assert {f.suffix for f in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}


def test_tasks_of_mixed_kind_are_refused() -> None:
    with pytest.raises(InputError, match="this suite has classification and regression"):
        RMTGB().fit(mixed_suite())
    with pytest.raises(InputError, match="this suite has classes of type bool and int64"):
        RMTGB().fit(mixed_suite().only("rooms", "sold"))


def test_the_suites_validation_rows_stop_it(schools: Suite) -> None:
    learner = RMTGB(n1=400, n2=0, n3=0, eta=1.0, patience=3).fit(schools)
    assert learner.blocks_.shared.rounds < 400
    assert RMTGB(n1=40, n2=0, n3=0, patience=None).fit(schools).blocks_.shared.rounds == 40
