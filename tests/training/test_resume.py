"""A run that was stopped goes on as if it had not been, and never from something damaged."""

from __future__ import annotations

import errno
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from polytask.errors import InputError

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("interrupted", HERE / "interrupted.py")
assert _spec is not None and _spec.loader is not None
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

STATEFUL = (
    *("uw", "famo", "dwa", "imtl_l", "rlw", "gradnorm", "pcgrad", "gradvac", "nash_mtl"),
    *("graddrop", "excess_mtl", "features(pcgrad)", "features(gradvac)"),
)


class StoppedError(Exception):
    pass


def stop_at(when: int) -> Any:
    def watch(updates: int) -> None:
        if updates == when:
            raise StoppedError

    return watch


def interrupt(out: Path, balancer: str = "uw", step: str = "plain", at: int = 8) -> None:
    with pytest.raises(StoppedError):
        runs.fit(out, balancer, step, stop_at(at))


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").iterdir())


def test_kill_9_in_mid_epoch_changes_no_bit(tmp_path: Path) -> None:
    def run(*kill: str) -> subprocess.CompletedProcess[str]:
        what = (tmp_path, "gradvac", "flat(rho=0.1)")
        command = [sys.executable, HERE / "interrupted.py", *what, *kill]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    killed = run("8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [p.name for p in checkpoints(tmp_path)] == ["000000005", "000000006"]
    resumed = run()
    assert resumed.returncode == 0, resumed.stderr
    whole = runs.fit(None, "gradvac", "flat(rho=0.1)")
    assert json.loads(resumed.stdout) == runs.digest(whole)


@pytest.mark.parametrize("step", ["plain", "sam(rho=0.05)", "flat(rho=0.1)"])
@pytest.mark.parametrize("balancer", STATEFUL)
def test_every_balancer_goes_on_to_the_same_bits(tmp_path: Path, balancer: str, step: str) -> None:
    from polytask.training import as_balancer, as_step

    if as_step(step).unlawful(as_balancer(balancer), sharded=False):
        return
    expected = runs.fit(None, balancer, step)
    interrupt(tmp_path, balancer, step, at=8)  # after the checkpoint at 6, in the second epoch
    torch.manual_seed(123)  # a new process starts from any random state
    assert runs.digest(runs.fit(tmp_path, balancer, step)) == runs.digest(expected)


@pytest.mark.parametrize("at", [1, 5, 6, 10, 14, 19])
def test_it_goes_on_wherever_it_stopped(tmp_path: Path, at: int) -> None:
    expected = runs.fit(None, "uw")
    interrupt(tmp_path, at=at)
    assert runs.digest(runs.fit(tmp_path, "uw")) == runs.digest(expected)


def test_it_goes_on_after_several_stops(tmp_path: Path) -> None:
    expected = runs.fit(None, "dwa")
    for at in (4, 3, 5):  # each counted from where the run goes on
        interrupt(tmp_path, "dwa", at=at)
    assert runs.digest(runs.fit(tmp_path, "dwa")) == runs.digest(expected)


def test_another_seed_gives_other_bits() -> None:
    assert runs.digest(runs.fit(None, "uw")) != runs.digest(runs.fit(None, "uw", seed=8))


def test_the_log_is_that_of_one_run(tmp_path: Path) -> None:
    interrupt(tmp_path / "stopped", at=8)
    with (tmp_path / "stopped" / "log.jsonl").open("a") as log:
        log.write('{"step": 8, "epo')  # what a kill may leave
    runs.fit(tmp_path / "stopped", "uw")
    runs.fit(tmp_path / "whole", "uw")

    def read(name: str) -> list[dict[str, Any]]:
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        timed = ("seconds", "rows_per_second")
        return [{k: v for k, v in json.loads(x).items() if k not in timed} for x in lines]

    assert read("stopped") == read("whole")
    assert len(read("whole")) == 4 * runs.UPDATES + 4


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first = runs.fit(tmp_path, "uw")
    again = runs.fit(tmp_path, "uw", watch=stop_at(0))  # not one update is made
    assert runs.digest(again) == runs.digest(first)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no manifest", "cut manifest"])
def test_a_damaged_checkpoint_is_told_and_passed_over(tmp_path: Path, damage: str) -> None:
    expected = runs.fit(None, "uw")
    interrupt(tmp_path, at=8)
    *_, newest = checkpoints(tmp_path)
    weights, manifest = newest / "weights.safetensors", newest / "manifest.json"
    content = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:40])
    found = runs.fit(tmp_path, "uw")
    (sentence,) = found.pop("warnings")
    assert newest.name in sentence and "the checkpoint before it is used" in sentence
    expected.pop("warnings")
    assert runs.digest(found) == runs.digest(expected)


def test_no_whole_checkpoint_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    interrupt(tmp_path, at=8)
    for folder in checkpoints(tmp_path):
        (folder / "weights.safetensors").write_bytes(b"")
    for _ in range(2):  # and it stays one
        with pytest.raises(InputError, match=r"no whole checkpoint is left: .*truncated"):
            runs.fit(tmp_path, "uw")


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, at=8)
    for folder in checkpoints(tmp_path):
        _rewrite(folder, run="another")
    with pytest.raises(InputError, match="other settings or data"):
        runs.fit(tmp_path, "uw")


def test_checkpoints_of_a_newer_polytask_are_refused(tmp_path: Path) -> None:
    interrupt(tmp_path, at=8)
    *_, newest = checkpoints(tmp_path)
    manifest = newest / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(InputError, match=r"newer polytask .*format 99.*upgrade"):
        runs.fit(tmp_path, "uw")
    assert newest.exists()


def test_only_the_newest_two_are_kept_and_no_scraps(tmp_path: Path) -> None:
    interrupt(tmp_path, at=8)
    scrap = tmp_path / "checkpoints" / ".000000009-half"
    scrap.mkdir()
    runs.fit(tmp_path, "uw")
    assert [p.name for p in checkpoints(tmp_path)] == ["000000018", "000000020"]


def test_disk_full_while_saving_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    interrupt(tmp_path, at=8)
    before = [p.name for p in checkpoints(tmp_path)]

    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(InputError, match="No space left on device; what was there is untouch"):
            runs.fit(tmp_path, "uw")
    assert [p.name for p in checkpoints(tmp_path)] == before
    assert runs.digest(runs.fit(tmp_path, "uw")) == runs.digest(runs.fit(None, "uw"))


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file"):
        runs.fit(tmp_path / "file" / "out", "uw", watch=stop_at(0))  # told before training


def _rewrite(folder: Path, **changes: Any) -> None:
    from polytask.data.store import read_folder, write_folder

    data, tensors = read_folder(folder)
    write_folder(folder, data=data | changes, tensors=tensors)


def test_a_model_folder_without_its_processor_is_refused(tmp_path: Path) -> None:
    from polytask.data import Suite
    from polytask.data.store import read_folder, write_folder
    from polytask.systems.flat_mtl import FlatMTL
    from polytask.training import Training

    x = torch.randn(60, 2)
    table = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": (x[:, 0] * 2).tolist()}
    suite = Suite.from_table(table, ["y"])
    learner = FlatMTL(hidden=(4,), training=Training(epochs=1, batch=16, device="cpu"))
    learner.fit(suite).save_pretrained(tmp_path / "model")
    assert FlatMTL.from_pretrained(tmp_path / "model").predict(table)["y"].shape == (60,)
    data, tensors = read_folder(tmp_path / "model")
    write_folder(tmp_path / "model", data={"config": data["config"]}, tensors=tensors)
    with pytest.raises(InputError, match=r"model' has no processor; it cannot be used"):
        FlatMTL.from_pretrained(tmp_path / "model")
