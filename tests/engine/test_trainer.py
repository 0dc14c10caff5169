"""The training loop: what it leaves, that it repeats itself, and what its settings do."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import longtail
from longtail.api import make_config
from longtail.config import Config
from longtail.data.longtail import subset_hash
from longtail.engine import trainer as trainer_module
from longtail.engine.deploy import load
from longtail.engine.run import Run, environment
from longtail.engine.trainer import Trainer
from longtail.errors import LongtailError, UsageError
from longtail.methods.plain import PlainMethod
from longtail.models import Backbone
from longtail.plain_yaml import load_yaml

GLMC = {"finetune": "maxnorm", "finetune_epochs": 1}


def train(out, photos, method="ce", epochs=1, options=None, data=None, **changes):
    top = {name: changes.pop(name) for name in ("seed", "start_from", "stages", "backbone") if name in changes}
    settings = {"epochs": epochs, "batch_size": 4, "precision": "fp32", "accelerator": "cpu", **changes}
    source = {"source": str(photos), **(data or {})}
    top = {"backbone": "resnet8", **top}
    return longtail.train(method, out=out, data=source, train=settings, options=options or {}, **top)


def weights(run):
    return load_file(run / "model.safetensors")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"deterministic": True, "channels_last": False}])
def test_a_seed_fixes_everything(photos, tmp_path, settings):
    try:
        for run, seed in (("a", 1), ("b", 1), ("c", 2)):
            train(tmp_path / run, photos, seed=seed, **settings)
    finally:
        torch.use_deterministic_algorithms(False)
    a, b, c = (weights(tmp_path / run) for run in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_run_folder(photos, tmp_path):
    run = tmp_path / "run"
    results = train(run, photos, epochs=3, eval_every=2, seed=5)
    assert {path.name for path in run.iterdir()} == {
        *(
            "config.yaml",
            "environment.json",
            "metrics.jsonl",
            "last.ckpt",
            "previous.ckpt",
            "results.json",
            "predictions.parquet",
        ),
        *("model.safetensors", "model.json", "log.txt", "tensorboard"),
    }
    assert json.loads((run / "results.json").read_text()) == results
    assert Config(**load_yaml(run / "config.yaml")) == Run.open(run).config()
    assert Run.open(run).config().seed == 5
    facts = json.loads((run / "environment.json").read_text())
    assert facts["data"] == results["data"]
    assert facts["data"]["subset_hash"] == subset_hash(np.arange(20))
    assert facts["packages"]["torch"] == version("torch")
    assert facts["packages"]["longtail"] == longtail.__version__
    learned = sum(value.numel() for name, value in weights(run).items() if name.endswith(("weight", "bias")))
    assert results["parameters"] == facts["deployed_parameters"] == learned
    assert facts["backbone_parameters"] == learned - (64 * 2 + 2)
    lines = records(run)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert ["test" in line for line in lines] == [False, True, True]
    for line in lines:
        assert line["stage"] == "train"
        assert line["lr"] == pytest.approx(0.1 * (1 + math.cos(math.pi * line["epoch"] / 3)) / 2)
        assert set(line["loss"]) == {"ce"}
        assert line["images_per_second"] > 0
    assert lines[-1]["test"]["top1"] == results["metrics"]["top1"]
    assert "train images 20" in (run / "log.txt").read_text()


def test_packages_that_say_nothing_of_themselves_do_not_stop_a_run(monkeypatch):
    """As where longtail runs from a folder of PYTHONPATH, and Lightning Fabric is part of another package."""

    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("longtail.engine.run.version", version)
    packages = environment(torch.device("cpu"))["packages"]
    assert packages.pop("longtail") == longtail.__version__
    assert set(packages.values()) == {None}


def test_predictions_are_the_test_set(photos, tmp_path):
    import pyarrow.parquet as pq

    run = tmp_path / "run"
    top1 = train(run, photos, epochs=2)["metrics"]["top1"]
    rows = pq.read_table(run / "predictions.parquet").to_pydict()
    files = sorted(str(path.relative_to(photos)) for path in (photos / "test").rglob("*.png"))
    assert rows["image"] == files
    assert rows["label"] == [Path(file).parent.name for file in files]
    hits = [label == prediction for label, prediction in zip(rows["label"], rows["prediction"], strict=True)]
    assert np.mean(hits) == pytest.approx(top1)
    assert longtail.evaluate(run)["metrics"]["top1"] == top1
    predicted = load(run).predict([photos / file for file in files])
    assert [prediction.label for prediction in predicted] == rows["prediction"]
    assert [prediction.probability for prediction in predicted] == pytest.approx(rows["probability"], abs=1e-5)


def test_validation_is_held_out_where_there_is_no_test_split(photos, tmp_path):
    run = tmp_path / "run"
    results = train(run, photos / "train")
    assert (results["split"], results["data"]["train_images"], results["data"]["val_images"]) == ("val", 16, 4)
    assert "val" in records(run)[-1]
    assert "test" not in records(run)[-1]
    again = longtail.evaluate(run)
    assert (again["split"], again["metrics"]["top1"]) == ("val", results["metrics"]["top1"])


def test_validation_is_watched_and_the_test_set_only_seen_at_the_end(photos, tmp_path, monkeypatch):
    seen = []
    evaluate = trainer_module.evaluate
    monkeypatch.setattr(trainer_module, "evaluate", lambda *given: seen.append(given[1]) or evaluate(*given))
    config = make_config("ce", None, {"backbone": "resnet8", "data": {"source": str(photos), "validation": 0.25}})
    config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 2, "batch_size": 4})})
    run = Run(tmp_path / "run")
    run.create(config)
    trainer = Trainer(config, run)
    assert trainer.fit()["split"] == "test"
    assert len(seen) == 2
    assert all(loader is trainer.loaders.held_out["val"] for loader in seen)


def test_averaged_weights_are_what_is_kept(photos, tmp_path, monkeypatch):
    after_each_step = []
    monkeypatch.setattr(
        PlainMethod, "after_step", lambda self, clock: after_each_step.append(self.classifier.weight.detach().clone())
    )
    train(tmp_path / "run", photos, epochs=2, ema=0.7)
    expected = after_each_step[0]
    for weight in after_each_step[1:]:
        expected = 0.7 * expected + 0.3 * weight
    assert not torch.allclose(expected, after_each_step[-1], atol=1e-4)
    torch.testing.assert_close(weights(tmp_path / "run")["classifier.weight"], expected)


def test_clipping_bounds_the_step(photos, tmp_path):
    """Plain SGD: each step moves all weights together by lr times the gradient's norm, at most."""
    plain = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1}
    train(tmp_path / "start", photos, lr=1e-12)
    moved = {}
    for clip in (None, 1e-2):
        train(tmp_path / str(clip), photos, clip=clip, **plain)
        start, end = weights(tmp_path / "start"), weights(tmp_path / str(clip))
        learned = [name for name in start if name.endswith(("weight", "bias"))]
        moved[clip] = math.sqrt(sum(float(((end[name] - start[name]) ** 2).sum()) for name in learned))
    steps = 5
    assert moved[1e-2] <= steps * 0.1 * 1e-2 * 1.001
    assert moved[None] > moved[1e-2] * 2


@pytest.mark.parametrize("settings", [{"optimizer": "adamw", "lr": 1e-3}, {"schedule": "step", "warmup_epochs": 1}])
def test_other_optimisation_trains(photos, tmp_path, settings):
    train(tmp_path / "run", photos, epochs=6, **settings)
    losses = [line["loss"]["ce"] for line in records(tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_authors_protocol_is_a_second_column(photos, tmp_path):
    results = train(tmp_path / "run", photos, epochs=3, authors_protocol=True, eval_every=3)
    lines = records(tmp_path / "run")
    for name in ("test", "test_flip"):
        scores = [line[name]["top1"] for line in lines]
        assert results["authors_protocol"][name] == {"top1": max(scores), "line": scores.index(max(scores))}
    assert results["metrics"]["top1"] == lines[-1]["test"]["top1"]


# What goes wrong while training


def test_a_loss_that_is_not_finite(photos, tmp_path, monkeypatch):
    losses = PlainMethod.losses

    def spoilt(self, batch, clock):
        terms = losses(self, batch, clock)
        return terms if (clock.epoch, clock.step) < (1, 2) else {**terms, "extra": terms["ce"] * float("nan")}

    monkeypatch.setattr(PlainMethod, "losses", spoilt)
    with pytest.raises(LongtailError, match=r"epoch 2, step 3, loss term 'extra' .*The last good checkpoint") as e:
        train(tmp_path / "run", photos, epochs=3)
    assert e.value.exit_code == 1
    state = Run.open(tmp_path / "run").load_checkpoint()
    assert state["progress"]["epoch"] == 1
    assert all(value.isfinite().all() for value in state["method"].values())


def test_a_weight_that_is_not_finite_is_never_saved(photos, tmp_path, monkeypatch):
    after_step = PlainMethod.after_step

    def spoil(self, clock):
        after_step(self, clock)
        if (clock.epoch, clock.step) == (1, clock.steps - 1):
            self.classifier.weight.data[0, 0] = float("inf")

    monkeypatch.setattr(PlainMethod, "after_step", spoil)
    with pytest.raises(LongtailError, match=r"epoch 2, step 5, weight 'classifier.weight' is not finite"):
        train(tmp_path / "run", photos, epochs=3)
    assert all(value.isfinite().all() for value in Run.open(tmp_path / "run").load_checkpoint()["method"].values())


def test_a_rate_that_is_too_high(photos, tmp_path):
    with pytest.raises(LongtailError, match=r"is not finite\..* Try a lower train.lr"):
        train(tmp_path / "run", photos, epochs=20, lr=1e6)


@pytest.mark.parametrize("failing", ["save_checkpoint", "append_metrics"])
def test_a_full_disk_keeps_the_last_checkpoint(photos, tmp_path, monkeypatch, failing):
    """As if the disk were full from the second epoch on."""
    whole = train(tmp_path / "whole", photos, epochs=3)
    target, calls = getattr(Run, failing), []

    def full(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise LongtailError("Cannot write: No space left on device.")
        return target(self, *given)

    monkeypatch.setattr(Run, failing, full)
    with pytest.raises(LongtailError, match="No space left"):
        train(tmp_path / "run", photos, epochs=3)
    assert Run.open(tmp_path / "run").load_checkpoint()["progress"]["epoch"] == 1
    assert longtail.resume(tmp_path / "run")["metrics"] == whole["metrics"]


# Stages, and starting from another run


def test_from_runs_what_is_left(photos, tmp_path):
    train(tmp_path / "whole", photos, "glmc", options=GLMC)
    train(tmp_path / "first", photos, "glmc", options=GLMC, stages=["train"])
    train(tmp_path / "second", photos, "glmc", options=GLMC, start_from=str(tmp_path / "first"))
    assert [line["stage"] for line in records(tmp_path / "second")] == ["maxnorm"]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "second"))
    with pytest.raises(UsageError, match=r"has finished every stage of glmc: train, maxnorm.*--stages"):
        train(tmp_path / "third", photos, "glmc", options=GLMC, start_from=str(tmp_path / "second"))
    assert not (tmp_path / "third").exists()
    train(tmp_path / "third", photos, "glmc", options=GLMC, start_from=str(tmp_path / "second"), stages=["maxnorm"])


def test_from_another_method_runs_every_stage(photos, tmp_path):
    train(tmp_path / "ce", photos)
    train(tmp_path / "glmc", photos, "glmc", options=GLMC, start_from=str(tmp_path / "ce"))
    assert [line["stage"] for line in records(tmp_path / "glmc")] == ["train", "maxnorm"]
    assert "newly initialised: " in (tmp_path / "glmc" / "log.txt").read_text()


def test_from_another_backbone(photos, tmp_path):
    train(tmp_path / "ce", photos)
    with pytest.raises(UsageError, match=r"has another backbone \(resnet8\)"):
        train(tmp_path / "other", photos, "balanced_softmax", start_from=str(tmp_path / "ce"), backbone="resnet14")


def test_what_cannot_be_compiled_is_told_in_one_message(photos, tmp_path, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(Backbone, "compile", lambda self: nn.Module.compile(self, backend=no_compiler))
    with pytest.raises(LongtailError, match=r"train\.compile=true.*no working C\+\+ compiler.*train\.compile=false"):
        train(tmp_path / "run", photos, compile=True)


@pytest.mark.slow
def test_compile(photos, tmp_path):
    train(tmp_path / "eager", photos)
    train(tmp_path / "compiled", photos, compile=True)
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert eager.keys() == compiled.keys()
    torch.testing.assert_close(compiled["classifier.weight"], eager["classifier.weight"], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_two_processes(photos, tmp_path):
    run = tmp_path / "run"
    settings = ["epochs=1", "batch_size=4", "devices=2", "accelerator=cpu", "precision=fp32"]
    command = [Path(sysconfig.get_path("scripts")) / "longtail", "train", "glmc", "--data", photos, "--out", run]
    command += ["--backbone", "resnet8", *(word for setting in settings for word in ("--set", setting))]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run folder:") == 1
    assert len(records(run)) == 1
    assert load(run).predict(photos / "test" / "cat" / "0.png")[0].label in ("cat", "dog")
