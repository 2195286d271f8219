"""What a run writes down, in its own file and in other people's trackers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from polytask.errors import InputError
from polytask.training import Engine, Training, as_balancer, as_step, train

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("small", HERE / "small.py")
assert _spec is not None and _spec.loader is not None
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)

BATCHES, EPOCHS = 3, 2
TERMS = {"price", "kind", "sold"}


def fit(out: Path | None, balancer: str = "uw", step: str = "plain", **settings: Any) -> Any:
    training = Training(lr=0.01, batch=10, epochs=EPOCHS, **settings)
    return train(
        small.net(),
        small.rows(10 * BATCHES, missing=0.2),
        small.rows(30, seed=1),
        training,
        step=as_step(step),
        balancer=as_balancer(balancer),
        mixture=small.InOrder(),
        engine=Engine(device="cpu"),
        out=out,
    )


def read(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of updates and those of epochs."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [r for r in records if "score" not in r], [r for r in records if "score" in r]


def test_json_lines_tell_every_update(tmp_path: Path) -> None:
    fit(tmp_path)
    updates, epochs = read(tmp_path)
    assert [r["step"] for r in updates] == list(range(1, BATCHES * EPOCHS + 1))
    for record in updates:
        assert set(record["loss"]) == set(record["weight"]) == TERMS
        assert record["gradient_norm"] > 0 and record["rows_per_second"] > 0
        assert "cosine" not in record  # nobody looked at task gradients
    assert [r["epoch"] for r in epochs] == [0, 1]
    mean = sum(r["loss"]["price"] for r in updates[:BATCHES]) / BATCHES
    assert epochs[0]["loss"]["price"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("balancer", "step", "settings", "every"),
    [
        ("upgrad", "plain", {}, 1),
        ("graddrop", "plain", {}, 1),
        ("features(upgrad)", "plain", {}, 1),
        ("upgrad", "flat(rho=0.1)", {}, 1),
        ("sum", "plain", {"probe": 2}, 2),
    ],
)
def test_task_gradients_are_told_where_they_are_known(
    tmp_path: Path, balancer: str, step: str, settings: dict[str, Any], every: int
) -> None:
    fit(tmp_path, balancer, step, **settings)
    updates, epochs = read(tmp_path)
    for i, record in enumerate(updates):
        assert ("cosine" in record) == (i % every == 0)
        if "cosine" in record:
            assert set(record["task_gradient_norm"]) == TERMS
            assert set(record["cosine"]) == {"price|kind", "price|sold", "kind|sold"}
            assert all(-1.0001 <= c <= 1.0001 for c in record["cosine"].values())
    assert len(epochs[0]["cosine"]) == 3 and epochs[0]["cosine"][0][0] == pytest.approx(1, abs=1e-4)


def test_a_probe_tells_the_true_cosine_and_changes_nothing(tmp_path: Path) -> None:
    import torch

    fit(tmp_path / "probed", "sum", probe=1)
    fit(tmp_path / "plain", "sum")
    probed, plain = read(tmp_path / "probed")[0], read(tmp_path / "plain")[0]
    assert [r["loss"] for r in probed] == [r["loss"] for r in plain]

    module, batch = small.net(), small.rows(10 * BATCHES, missing=0.2)[:10]
    losses = module.losses(batch)
    gradients = {
        name: torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    loss, list(module.trunk.parameters()), retain_graph=True
                )
            ]
        )
        for name, loss in losses.items()
    }
    expected = torch.cosine_similarity(gradients["price"], gradients["sold"], dim=0)
    assert probed[0]["cosine"]["price|sold"] == pytest.approx(float(expected), abs=1e-5)


def test_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path, "upgrad", trackers=("tensorboard",))
    found = events.EventAccumulator(str(tmp_path / "polytask")).Reload()
    values = [e.value for e in found.Scalars("loss/price")]
    assert values == pytest.approx([r["loss"]["price"] for r in read(tmp_path)[0]])
    assert {"cosine/price_kind", "epoch/validation/price/rmse"} <= set(found.Tags()["scalars"])


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    fit(tmp_path, "upgrad", trackers=("mlflow",))
    client = mlflow.MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "polytask"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    values = [m.value for m in client.get_metric_history(run.info.run_id, "loss/price")]
    assert values == pytest.approx([r["loss"]["price"] for r in read(tmp_path)[0]])
    assert client.get_metric_history(run.info.run_id, "cosine/price_kind")


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    import trackio.utils

    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path / "trackio")
    fit(tmp_path, "upgrad", trackers=("trackio",))
    (base,) = (tmp_path / "trackio").glob("polytask*.db")
    with sqlite3.connect(base) as connection:
        rows = [json.loads(r) for (r,) in connection.execute("SELECT metrics FROM metrics")]
    values = [r["loss/price"] for r in rows if "loss/price" in r]
    assert values == pytest.approx([r["loss"]["price"] for r in read(tmp_path)[0]])


def test_a_missing_tracker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="tracker 'mlflow' is not installed"):
        fit(tmp_path, trackers=("mlflow",))


def test_a_misspelt_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        fit(tmp_path, trackers=("tensorbord",))


def test_trackers_need_a_folder() -> None:
    with pytest.raises(InputError, match="'mlflow' needs an output folder"):
        fit(None, trackers=("mlflow",))
