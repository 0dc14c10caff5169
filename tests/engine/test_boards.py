"""Weights & Biases and MLflow, offline: what they hold, that a resumed run goes on in theirs, and what a failing one is told."""

from __future__ import annotations

import json
import logging

import pytest

import longtail as package
from longtail.api import make_config
from longtail.engine.boards import Boards
from longtail.engine.run import Run
from longtail.errors import LongtailError, UsageError

SERVICES = ("wandb", "mlflow")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in SERVICES:
        pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def settings(*names):
    return make_config("ce", overrides={"train": {"loggers": names}})


def mlflow_history(folder, metric):
    from mlflow.tracking import MlflowClient

    run_id = json.loads((folder / "boards.json").read_text())["mlflow"]
    found = MlflowClient(f"file:{folder / 'mlflow'}").get_metric_history(run_id, metric)
    return [(point.step, point.value) for point in found]


def test_a_training_is_recorded(photos, tmp_path):
    out = tmp_path / "run"
    train = {"epochs": 2, "batch_size": 4, "accelerator": "cpu", "precision": "fp32", "loggers": ["wandb", "mlflow"]}
    package.train("ce", data=str(photos), out=out, backbone="resnet8", train=train)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    losses = dict(enumerate(line["loss"]["ce"] for line in lines))
    assert dict(mlflow_history(out, "loss/ce")) == pytest.approx(losses)
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert written.count(b"loss/ce") >= 2
    for value in losses.values():
        assert repr(value).encode() in written
    assert not (out / "tensorboard").exists()


def test_a_resumed_run_is_the_same_run_there(tmp_path):
    run = Run(tmp_path)
    for step in (0, 1):
        boards = Boards(settings("mlflow"), run, purge_step=step or None)
        boards.log({"loss": 2.0 - step}, step)
        boards.close()
    assert mlflow_history(tmp_path, "loss") == [(0, 2.0), (1, 1.0)]


def test_a_service_that_fails_is_left_out_and_training_goes_on(tmp_path, caplog, monkeypatch):
    boards = Boards(settings("tensorboard", "mlflow"), Run(tmp_path), None)

    def fails(*_):
        raise ConnectionError("no route")

    boards.loggers["mlflow"].log_metrics = fails
    monkeypatch.setattr(logging.getLogger("longtail"), "propagate", True)
    with caplog.at_level("WARNING", "longtail"):
        boards.log({"loss": 1.0}, 0)
        boards.log({"loss": 0.5}, 1)
    told = [record.getMessage() for record in caplog.records if record.name == "longtail"]
    assert told == ["mlflow fails, and is left out from now on: no route"]
    boards.close()


def test_a_service_that_cannot_record_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(LongtailError, match=r"mlflow cannot record this run: .*maintenance mode"):
        Boards(settings("mlflow"), Run(tmp_path), None)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_not_installed_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_lightning.loggers", None)
    with pytest.raises(UsageError, match=rf"{name} is not installed: pip install 'longtail\[{name}\]'"):
        Boards(settings(name), Run(tmp_path), None)


def test_unknown_logger_is_told():
    with pytest.raises(UsageError, match=r"train\.loggers\.0 should be 'tensorboard', 'wandb' or 'mlflow'"):
        settings("comet")
