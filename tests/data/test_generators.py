import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.data.generators import MultiTabBench

ROWS = 20_000


def bench(tasks: int = 4, **settings) -> MultiTabBench:
    return MultiTabBench(**{"tasks": tasks, "inputs": 8, "degrees": (1,) * tasks} | settings)


@st.composite
def related(draw):
    """A bench with any admissible number of tasks, inputs and one correlation."""
    tasks = draw(st.integers(1, 8))
    lowest = -1 / (tasks - 1) if tasks > 1 else -1.0
    correlation = draw(st.floats(lowest, 1))
    inputs = tasks + draw(st.integers(0, 6))
    return bench(tasks, inputs=inputs, correlation=correlation, seed=draw(st.integers(0, 999)))


def correlation_matrices(tasks: int):
    """Random correlation matrices of any rank from 1."""

    def build(seed, rank):
        rows = np.random.default_rng(seed).standard_normal((tasks, rank))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows @ rows.T

    return st.builds(build, st.integers(0, 999), st.integers(1, tasks))


def off_diagonal(matrix):
    return matrix[~np.eye(len(matrix), dtype=bool)]


@given(related())
def test_directions_are_orthonormal_and_weights_have_the_wanted_gram_matrix(made):
    np.testing.assert_allclose(made.directions @ made.directions.T, np.eye(made.tasks), atol=1e-5)
    wanted = np.full((made.tasks, made.tasks), made.correlation)
    np.fill_diagonal(wanted, 1)
    assert made.weights.shape == (made.tasks, made.inputs)
    assert np.abs(made.weights @ made.weights.T - wanted).max() < 1e-5


@given(correlation_matrices(5))
def test_any_correlation_matrix_is_met(matrix):
    made = bench(5, correlation=matrix)
    assert np.abs(made.weights @ made.weights.T - matrix).max() < 1e-5


@pytest.mark.parametrize("p", [-0.3, 0.0, 0.4, 0.9])
def test_latent_variables_correlate_as_asked(p):
    made = bench(correlation=p)
    x, _ = made.draw(ROWS, seed=1)
    assert np.abs(off_diagonal(np.corrcoef(made.weights @ x.T)) - p).max() < 0.02


def test_no_correlation_gives_orthonormal_weights():
    weights = bench(correlation=0).weights
    np.testing.assert_allclose(weights @ weights.T, np.eye(4), atol=1e-12)


def test_full_correlation_makes_all_latent_variables_equal():
    made = bench(correlation=1, noise=0)
    _, y = made.draw(100, seed=1)
    np.testing.assert_allclose(y, y[:, :1].repeat(4, axis=1), atol=1e-5)


def test_degree_one_without_noise_is_exactly_linear():
    x, y = bench(noise=0).draw(500, seed=1)
    fitted = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert ((y - fitted).var(axis=0) / y.var(axis=0)).max() < 1e-10


def test_targets_are_the_sum_of_powers():
    made = bench(degrees=(1, 2, 3, 4), noise=0)
    x, y = made.draw(50, seed=1)
    for row, targets in zip(x.astype(float), y, strict=True):
        for task, degree in enumerate(made.degrees):
            z = sum(w * v for w, v in zip(made.weights[task], row, strict=True))
            expected = sum(z**k for k in range(1, degree + 1))
            assert targets[task] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_noise_has_the_asked_spread_per_task():
    spread = np.array([0.0, 0.1, 1.0, 3.0])
    made = bench(noise=spread)
    x, y = made.draw(ROWS, seed=1)
    rest = y - x @ made.weights.T
    np.testing.assert_allclose(rest.std(axis=0), spread, rtol=0.03, atol=1e-6)
    assert np.abs(off_diagonal(np.corrcoef(rest[:, 1:].T))).max() < 0.03


def test_inputs_are_standard_normal_and_float32():
    x, y = bench().draw(ROWS, seed=1)
    assert x.dtype == y.dtype == np.float32
    assert x.shape == (ROWS, 8) and y.shape == (ROWS, 4)
    assert np.abs(x.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(x.T) - np.eye(8)).max() < 0.05


def test_splits_share_the_law_and_no_row():
    made = bench(noise=0)
    (train, train_y), (test, test_y) = made.draw(1000, seed=1), made.draw(1000, seed=2)
    assert not {row.tobytes() for row in train} & {row.tobytes() for row in test}
    law = np.linalg.lstsq(train, train_y, rcond=None)[0]
    np.testing.assert_allclose(test @ law, test_y, atol=1e-4)


def test_seeds_decide_everything():
    for a, b in zip(bench().draw(9, seed=1), bench().draw(9, seed=1), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(bench().weights, bench(noise=1).weights)
    assert not np.allclose(bench().weights, bench(seed=1).weights)
    assert not np.allclose(bench().draw(9, seed=1)[0], bench(seed=1).draw(9, seed=1)[0])
    # A seed for rows must not replay the numbers behind the weights.
    numbers = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(0,))).standard_normal(9)
    assert not np.allclose(bench().draw(9, seed=0)[0].ravel()[:9], numbers)


def test_the_defaults_are_the_papers():
    made = MultiTabBench()
    assert (made.tasks, made.inputs, made.correlation, made.noise) == (7, 32, 0.4, 0.01)
    assert made.degrees == (1, 3, 2, 3, 4, 2, 3)


@settings(max_examples=20)
@given(correlation_matrices(4))
def test_equal_settings_are_equal_objects_whatever_held_them(matrix):
    as_array = bench(correlation=matrix, degrees=np.array([1, 2, 3, 4]), noise=np.zeros(4))
    as_lists = bench(correlation=matrix.tolist(), degrees=[1, 2, 3, 4], noise=[0.0] * 4)
    assert as_array == as_lists
    assert hash(as_array) == hash(as_lists)


@pytest.mark.parametrize("p", [-1 / 3, 1])
def test_the_ends_of_the_range_are_admissible(p):
    weights = bench(correlation=p).weights
    np.testing.assert_allclose(off_diagonal(weights @ weights.T), p, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 0, "degrees": ()}, "tasks is 0"),
        ({"inputs": 3}, "inputs is 3; it must be at least the number of tasks, 4"),
        ({"correlation": -0.34}, "correlation is -0.34; with 4 tasks it must lie between -0.3333"),
        ({"correlation": 1.1}, "correlation is 1.1"),
        ({"correlation": float("nan")}, "correlation is nan"),
        ({"correlation": np.eye(3)}, r"correlation has shape \(3, 3\)"),
        ({"correlation": np.eye(4) * np.nan}, "not a finite number"),
        ({"correlation": np.eye(4) + np.eye(4, k=1) / 2}, "not symmetric"),
        ({"correlation": 2 * np.eye(4)}, "diagonal"),
        ({"correlation": 1.5 * np.eye(4) - 0.5}, "not positive semi-definite"),
        ({"degrees": (1, 2, 3)}, "degrees has 3 entries; it needs 4"),
        ({"degrees": (1, 2, 0, 3)}, r"degrees\[2\] is 0"),
        ({"degrees": (1, 2, 2.5, 3)}, r"degrees\[2\] is 2.5"),
        ({"noise": -0.1}, "noise is -0.1"),
        ({"noise": float("inf")}, "noise is inf"),
        ({"noise": (0.1, 0.2)}, r"noise has shape \(2,\)"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        bench(**change)
    assert "\n" not in str(caught.value)
