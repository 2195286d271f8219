import numpy as np
import pytest

from polytask.data.sleep_nights import CHANNELS, DISORDERS, STAGES, SleepNights
from polytask.errors import InputError

QUIET = {"noise": 0.0, "subjects": 12, "epochs": 30}


@pytest.fixture(scope="module")
def quiet():
    return SleepNights(**QUIET).draw()


def inside(windows, events, row, margin=1.0):
    time = np.arange(windows.signal.shape[1]) * windows.seconds / windows.signal.shape[1]
    return (time > events[row, 0] + margin) & (time < events[row, 1] - margin)


def test_shapes_are_those_of_the_sheet():
    windows, events = SleepNights(subjects=3, epochs=4).draw()
    assert windows.signal.shape == (12, 480, 4)
    assert windows.channels == CHANNELS
    assert events.shape == (12, 2)
    assert len(set(windows.subject)) == 3


def test_equal_seeds_give_equal_nights_and_a_sleeper_is_the_same_in_any_company():
    few, many = (SleepNights(subjects=n, epochs=5).draw()[0] for n in (2, 4))
    np.testing.assert_array_equal(few.signal, many.signal[:10])
    other = SleepNights(subjects=2, epochs=5, seed=1).draw()[0]
    assert not np.array_equal(few.signal, other.signal)


def test_events_are_where_there_is_a_disorder_and_last_ten_seconds(quiet):
    windows, events = quiet
    ill = np.array(windows.labels["disorder"]) != "none"
    assert (np.isfinite(events).all(1) == ill).all()
    np.testing.assert_allclose(np.diff(events[ill], axis=1), 10)
    assert (events[ill] >= 0).all()
    assert (events[ill] < 22.001).all()


@pytest.mark.parametrize(
    ("disorder", "flow", "effort", "phase"),
    [
        ("obstructive", (0.0, 0.1), (0.6, 1.6), -1),
        ("central", (0.0, 0.1), (0.0, 0.1), 0),
        ("hypopnea", (0.25, 0.6), (0.6, 1.6), 1),
    ],
)
def test_a_disorder_does_what_its_definition_says(quiet, disorder, flow, effort, phase):
    windows, events = quiet
    kinds = np.array(windows.labels["disorder"])
    calm = np.isin(windows.labels["stage"], ["N2", "N3"])  # no movement, even breaths
    rows = np.flatnonzero((kinds == disorder) & calm)
    assert len(rows) > 8
    ratios, correlations = [], []
    for row in rows:
        within = inside(windows, events, row)
        around = ~inside(windows, events, row, margin=-1.0)
        x = windows.signal[row]
        ratios.append(x[within].std(0) / x[around].std(0))
        correlations.append(np.corrcoef(x[within, 2], x[within, 3])[0, 1])
    ratio = np.median(ratios, axis=0)
    assert flow[0] <= ratio[1] <= flow[1]
    assert effort[0] <= ratio[2] <= effort[1]
    assert effort[0] <= ratio[3] <= effort[1]
    if phase:
        assert np.sign(np.median(correlations)) == phase


def test_the_pulse_wave_dips_after_an_event(quiet):
    windows, events = quiet
    stages = np.array(windows.labels["stage"])
    rows = np.flatnonzero(np.isfinite(events[:, 0]) & np.isin(stages, ["N2", "N3"]))
    time = np.arange(480) / 16
    ratios = []
    for row in rows:
        after = (time > events[row, 1] + 1.5) & (time < events[row, 1] + 5.5)
        before = time < events[row, 1]
        ratios.append(windows.signal[row, after, 0].std() / windows.signal[row, before, 0].std())
    assert np.median(ratios) == pytest.approx(0.6, abs=0.08)


def test_breathing_goes_with_the_stage():
    windows, _ = SleepNights(subjects=30, epochs=40).draw()
    stages = np.array(windows.labels["stage"])
    well = np.array(windows.labels["disorder"]) == "none"
    power = np.abs(np.fft.rfft(windows.signal[:, :, 2], axis=1)) ** 2
    frequency = np.fft.rfftfreq(480, 1 / 16)
    band = (frequency > 0.1) & (frequency < 0.6)
    share = power[:, band] / power[:, band].sum(1, keepdims=True)
    rate = share @ frequency[band]
    spread = np.sqrt(((frequency[band] - rate[:, None]) ** 2 * share).sum(1))
    mean = {
        s: (rate[well & (stages == s)].mean(), spread[well & (stages == s)].mean()) for s in STAGES
    }
    assert mean["N3"][0] == min(m[0] for m in mean.values())
    assert mean["N3"][1] == min(m[1] for m in mean.values())
    assert mean["REM"][1] > mean["N2"][1]


def test_disorders_are_likelier_in_rem_and_n1():
    windows, _ = SleepNights(subjects=20, epochs=40).draw()
    stages, kinds = (np.array(windows.labels[t]) for t in ("stage", "disorder"))
    ill = {s: (kinds[stages == s] != "none").mean() for s in STAGES}
    assert min(ill["REM"], ill["N1"]) > max(ill["Wake"], ill["N2"], ill["N3"]) + 0.1
    assert set(kinds) == set(DISORDERS)


def test_sleepers_differ_in_gain():
    windows, _ = SleepNights(subjects=10, epochs=5).draw()
    gains = windows.signal[..., 2].reshape(10, -1).std(1)
    assert gains.max() / gains.min() > 1.3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"subjects": 0}, "subjects must be positive"),
        ({"event": 25}, "do not fit into a window of 30 s"),
        ({"stages": (0.5, 0.5)}, "5 chances that sum to 1"),
    ],
)
def test_wrong_nights_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        SleepNights(**settings)
