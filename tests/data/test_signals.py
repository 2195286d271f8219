import builtins

import numpy as np
import pytest

from polytask.data.files import read_table
from polytask.data.signals import (
    Annotation,
    Channel,
    Recording,
    Scored,
    read_annotations,
    read_recording,
    windows,
)
from polytask.errors import InputError

SECONDS = 95  # three windows of 30 s and a rest


def waves(rate, seconds=SECONDS):
    t = np.arange(int(seconds * rate)) / rate
    return {"flow": np.sin(2 * np.pi * 0.3 * t), "pulse": np.cos(2 * np.pi * 1.0 * t)}


def recording(rate=32, **other):
    return Recording.of_arrays(waves(rate), rate, **other)


@pytest.fixture
def edf(tmp_path):
    """Two channels of different rates with annotations, as pyedflib writes them."""
    import pyedflib

    path = tmp_path / "ann.edf"
    writer = pyedflib.EdfWriter(str(path), 2, file_type=pyedflib.FILETYPE_EDFPLUS)
    rates = {"flow": 32, "pulse": 64}
    for i, (name, rate) in enumerate(rates.items()):
        head = {"label": name, "dimension": "uV", "sample_frequency": rate}
        head |= {"physical_max": 2.0, "physical_min": -2.0}
        head |= {"digital_max": 32767, "digital_min": -32768, "transducer": "", "prefilter": ""}
        writer.setSignalHeader(i, head)
    writer.writeSamples([waves(rate)[name] for name, rate in rates.items()])
    for start, length, text in NIGHT:
        writer.writeAnnotation(start, length, text)
    writer.close()
    return path


NIGHT = [
    Annotation(0.0, 40.0, "Sleep stage W"),
    Annotation(40.0, 55.0, "Sleep stage 2"),
    Annotation(35.0, 12.0, "Apnea"),
    Annotation(50.0, 0.0, "Apnea"),
    Annotation(70.0, 1.0, "Cough"),
]
STAGES = Scored({"Sleep stage W": "wake", "Sleep stage 2": "light"})


def test_an_edf_says_its_rates_and_brings_its_annotations(edf):
    found = read_recording(edf, ["pulse", "flow"])
    assert list(found.channels) == ["pulse", "flow"]
    assert [c.rate for c in found.channels.values()] == [64, 32]
    assert found.subject == "ann"
    np.testing.assert_allclose(found.channels["flow"].values, waves(32)["flow"], atol=1e-4)
    assert list(found.annotations) == NIGHT
    assert list(read_annotations(edf)) == NIGHT


def test_channels_of_unlike_rates_come_out_alike(edf):
    cut = windows([read_recording(edf)], samples=960, standardise=False)
    assert cut.signal.shape == (3, 960, 2)
    expected = np.stack(list(waves(32).values()), 1)[: 3 * 960].reshape(3, 960, 2)
    np.testing.assert_allclose(cut.signal, expected, atol=1e-3)


def test_channels_can_be_renamed(edf):
    found = read_recording(edf, {"breath": "flow"})
    assert list(found.channels) == ["breath"]


def test_every_file_gives_the_same_recording(tmp_path):
    arrays = waves(32)
    np.savez(tmp_path / "a.npz", rate=32.0, **arrays)
    table = read_table(arrays)
    import pyarrow.feather
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.feather.write_feather(table, tmp_path / "a.arrow")
    for name in ("a.npz", "a.parquet", "a.arrow"):
        found = read_recording(tmp_path / name, rate=32.0)
        assert list(found.channels) == ["flow", "pulse"]
        np.testing.assert_array_equal(found.channels["pulse"].values, arrays["pulse"])


@pytest.mark.parametrize(("rate", "samples"), [(512, 1920), (64, 1920), (100, 2000)])
@pytest.mark.parametrize("method", ["linear", "fourier"])
def test_resampling_gives_the_wave_at_the_new_times(rate, samples, method):
    cut = windows([recording(rate)], samples=samples, method=method, standardise=False)
    t = np.arange(3 * samples) * 30 / samples
    expected = np.cos(2 * np.pi * t).reshape(3, samples)
    # Whole periods of 1 Hz fit into 30 s, so the Fourier route is exact for the pulse.
    tolerance = {"linear": (np.pi / rate) ** 2 / 2 + 1e-6, "fourier": 1e-5}[method]
    np.testing.assert_allclose(cut.signal[:, :, 1], expected, atol=tolerance)


def test_the_rest_is_left_out_and_said():
    cut = windows([recording()], samples=100)
    assert len(cut) == 3
    assert cut.start.tolist() == [0, 30, 60]
    left_out = "what is no whole window at the end of a recording is left out: "
    assert cut.notes == (f"{left_out}'1' 5 s",)
    many = windows([recording(subject=f"s{i}") for i in range(7)], samples=100)
    first = ", ".join(f"'s{i}' 5 s" for i in range(5))
    assert many.notes == (f"{left_out}{first}, and 2 more",)


def test_standardised_channels_have_no_unit():
    arrays = {"spo2": 97 + np.random.default_rng(0).normal(size=960), "still": np.full(960, 3.0)}
    cut = windows([Recording.of_arrays(arrays, 32)], samples=960)
    assert abs(cut.signal[..., 0].mean()) < 1e-6
    assert cut.signal[..., 0].std() == pytest.approx(1, abs=1e-4)
    assert (cut.signal[..., 1] == 0).all()


def test_a_window_has_the_class_that_covers_most_of_it():
    assert STAGES.labels(NIGHT, 3, 30.0) == ["wake", "light", "light"]
    events = Scored({"Apnea": "apnea"}, least=10, otherwise="none")
    assert events.labels(NIGHT, 3, 30.0) == ["none", "apnea", "none"]
    strict = Scored({"Apnea": "apnea"}, least=13)
    assert strict.labels(NIGHT, 3, 30.0) == [None, None, None]


def test_labels_come_from_annotations_and_from_lists():
    whose = recording(
        subject="ann", annotations=NIGHT, labels={"snoring": [True, False, None, True]}
    )
    cut = windows([whose, recording(subject="bob")], samples=60, labels={"stage": STAGES})
    assert cut.labels["stage"] == ["wake", "light", "light", None, None, None]
    assert cut.labels["snoring"] == [True, False, None, None, None, None]
    assert cut.subject.tolist() == ["ann"] * 3 + ["bob"] * 3
    assert "annotations that make no label: 'Apnea' (2), 'Cough' (1)" in cut.notes


def test_annotations_without_a_duration_are_counted():
    cut = windows(
        [recording(annotations=NIGHT)],
        samples=60,
        labels={"event": Scored({"Apnea": "apnea"}, otherwise="none")},
    )
    assert "1 annotations have no duration and so cover no window" in cut.notes


def test_the_suite_keeps_subjects_whole_and_sees_the_signal_alone():
    rng = np.random.default_rng(0)
    nights = [
        Recording.of_arrays(
            {"a": rng.normal(size=640), "b": rng.normal(size=640)},
            16,
            subject=f"s{i}",
            labels={"stage": ["wake", "light"] * 2, "event": ["none", "apnea", "apnea", "none"]},
        )
        for i in range(10)
    ]
    cut = windows(nights, seconds=10, samples=80)
    suite = cut.suite()
    assert suite.inputs == ("signal",)
    assert suite.task_names == ("stage", "event")
    assert "whole groups of subject" in suite.about["split"]
    assert {s: len(d) for s, d in suite.splits.items()} == {"train": 24, "validation": 8, "test": 8}
    assert cut.suite(["event"]).task_names == ("event",)
    assert cut.suite("event", split="random").inputs == ("signal",)


@pytest.mark.parametrize("hole", [slice(320, 352), slice(0, 32), slice(SECONDS * 32 - 32, None)])
def test_a_short_gap_is_bridged_and_counted_and_a_long_one_refused(hole):
    arrays = waves(32)
    arrays["flow"][hole] = np.nan
    night = Recording.of_arrays(arrays, 32)
    cut = windows([night], samples=960, fill=1.0)
    assert np.isfinite(cut.signal).all()
    assert "gaps of up to 1 s are bridged: 'flow' of '1' 1" in cut.notes
    start = np.flatnonzero(np.isnan(arrays["flow"]))[0] / 32
    with pytest.raises(
        InputError, match=rf"'flow' of '1' has no number from {start:g} s to {start + 1:g} s"
    ):
        windows([night], samples=960, fill=0.9)


def test_a_bridge_is_a_straight_line():
    values = np.arange(64.0)
    values[10:14] = np.nan
    cut = windows(
        [Recording({"x": Channel(values, 1.0)})], seconds=64, samples=64, fill=4, standardise=False
    )
    np.testing.assert_allclose(cut.signal[0, :, 0], np.arange(64.0))


def test_wrong_files_are_refused(tmp_path, edf):
    np.savez(tmp_path / "a.npz", rate=32.0, **waves(32))
    np.savez(tmp_path / "silent.npz", **waves(32))
    (tmp_path / "no.npz").write_bytes(b"nothing")
    (tmp_path / "no.edf").write_bytes(b"0" * 300)
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    cases = [
        (tmp_path / "b.edf", {}, "does not exist"),
        (tmp_path / "a.npz", {"rate": 64}, "a.npz was measured at 32 Hz, not at 64"),
        (edf, {"rate": 32}, "'pulse' of ann.edf was measured at 64 Hz, not at 32"),
        (tmp_path / "silent.npz", {}, "does not say at which rate"),
        (edf, {"channels": ["flov"]}, "'flov' is not in ann.edf .did you mean 'flow'"),
        (tmp_path / "a.npz", {"channels": {"x": "flows"}}, "'flows' is not in a.npz"),
        (tmp_path / "no.npz", {}, "cannot be read as npz"),
        (tmp_path / "objects.npz", {}, "cannot be read as npz"),
        (tmp_path / "no.edf", {}, "no.edf cannot be read as EDF"),
    ]
    for path, options, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            read_recording(path, **options)


def test_without_pyedflib_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.edf").write_bytes(b"0")
    found = builtins.__import__

    def missing(name, *rest):
        if name == "pyedflib":
            raise ImportError
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"polytask\[signals\]"):
        read_recording(tmp_path / "a.edf")


@pytest.mark.parametrize(
    ("nights", "options", "sentence"),
    [
        ([], {}, "no recordings"),
        ([recording()], {"seconds": 120}, "lasts 95 s, which is less than a window of 120 s"),
        ([recording()], {"method": "cubic"}, "method is 'cubic'"),
        ([recording()], {"samples": 0}, "0 samples"),
        ([recording(labels={"stage": ["w"]})], {}, "1 labels of 'stage' for 3 windows"),
        (
            [recording(), Recording.of_arrays({"flow": np.zeros(4000)}, 32, "bob")],
            {},
            "'bob' has the channels flow, not flow, pulse",
        ),
    ],
)
def test_wrong_recordings_are_refused(nights, options, sentence):
    with pytest.raises(InputError, match=sentence):
        windows(nights, **options)


@pytest.mark.parametrize(
    ("arrays", "rate", "sentence"),
    [
        ({}, 32, "has no channel"),
        ({"flow": np.zeros(9)}, 0, "rate of 'ann' is 0 Hz"),
        ({"flow": np.zeros((9, 2))}, 32, r"'flow' of 'ann' is not one line of numbers"),
        ({"flow": np.array(["a"])}, 32, "'flow' of 'ann' is not one line of numbers"),
    ],
)
def test_wrong_arrays_are_refused(arrays, rate, sentence):
    with pytest.raises(InputError, match=sentence):
        Recording.of_arrays(arrays, rate, "ann")
