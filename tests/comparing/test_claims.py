"""Claims: read from records, measured by a benchmark, and honest about those that do not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polytask.cli import main
from polytask.comparing import claims
from polytask.comparing.claims import Claim, as_rows
from polytask.errors import InputError

GOOD = Claim("alpha", "A beats B", "0.9", "0.91 ± 0.01", "A > B", True, (0, 1, 2), "run alpha")
BAD = Claim("beta", "C is fast", "", "2.0", "C < D", False, (0, 1, 2), "run beta", "slow disk")

BENCHMARK = """
from polytask.comparing.claims import Claim

def run():
    open({log!r}, "a").write("measured ")

def claims():
    yield Claim("alpha", "A beats B", "0.9", "0.95", "A > B", {holds}, (0, 1, 2), "run alpha")
"""


@pytest.fixture(autouse=True)
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "benchmarks"
    (folder / "results").mkdir(parents=True)
    (folder / "harness.py").write_text('"""Not a benchmark."""\n')
    (folder / "alpha.py").write_text(BENCHMARK.format(log=str(tmp_path / "log"), holds=True))
    (folder / "beta.py").write_text(BENCHMARK.format(log=str(tmp_path / "log"), holds=False))
    for claim in (GOOD, BAD):
        record = folder / "results" / f"{claim.system}.claims.json"
        record.write_text(json.dumps(as_rows([claim])))
    monkeypatch.setattr(claims, "benchmark_folder", lambda: folder)
    return folder


def test_claimants_are_files_that_claim() -> None:
    assert claims.claimants() == ["alpha", "beta"]


def test_recorded_claims_come_back_as_they_were() -> None:
    assert claims.recorded(["alpha", "beta"]) == [GOOD, BAD]


def test_measuring_runs_the_benchmark(tmp_path: Path) -> None:
    (claim,) = claims.measure("alpha")
    assert claim.measured == "0.95"
    assert (tmp_path / "log").read_text() == "measured "


def test_what_is_not_on_record_is_said(benchmarks: Path) -> None:
    (benchmarks / "results" / "beta.claims.json").unlink()
    with pytest.raises(InputError, match="'beta' has no recorded claims yet"):
        claims.recorded(["alpha", "beta"])
    with pytest.raises(InputError, match=r"'alhpa' has no benchmark \(did you mean 'alpha'"):
        claims.measure("alhpa")


@pytest.mark.parametrize(("system", "status"), [("alpha", 0), ("beta", 1), (None, 1)])
def test_the_exit_status_tells_whether_all_hold(
    system: str | None, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["claims", *([system] if system else []), "--recorded", "--json"]
    assert main(words) == status
    rows = json.loads(capsys.readouterr().out)
    assert [r["system"] for r in rows] == ([system] if system else ["alpha", "beta"])
    keys = ["system", "claim", "paper", "measured", "relation", "holds", "seeds", "command"]
    assert [k for k in rows[0] if k != "reason"] == keys


def test_a_claim_that_does_not_hold_stays_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["claims", "--recorded"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "slow" in shown and "disk" in shown and "no" in shown


def test_measured_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "alpha", "--json"]) == 0
    assert (tmp_path / "log").exists()
    assert main(["claims", "beta", "--json"]) == 1
    assert main(["claims", "alhpa", "--recorded"]) == 2
    assert "did you mean 'alpha'" in capsys.readouterr().err
