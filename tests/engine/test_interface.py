"""What the engine offers methods: steps of their own, parameter groups, stages without training, starts from other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import longtail
from longtail.engine.run import Run
from longtail.methods.base import Clock, Passes, Stage, Stream
from longtail.methods.plain import PlainMethod
from longtail.models.heads import CosineClassifier

SETTINGS: dict[str, Any] = {
    "backbone": "resnet8",
    "report": False,
    "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "accelerator": "cpu", "lr": 0.05},
}


def state(run: Path) -> dict[str, Tensor]:
    return Run(run).load_checkpoint()["method"]


class Sharp(PlainMethod):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021): the gradient from where the loss is highest nearby."""

    rho = 0.05

    def step(self, batch, clock, update):
        terms = update.gradients(batch, clock)
        learning = [p for group in update.optimizer.param_groups for p in group["params"] if p.grad is not None]
        scale = self.rho / torch.stack([p.grad.norm() for p in learning]).norm()
        with torch.no_grad():
            moves = [scale * p.grad for p in learning]
            torch._foreach_add_(learning, moves)
        update.gradients(batch, clock)
        with torch.no_grad():
            torch._foreach_sub_(learning, moves)
        update.apply()
        return terms


class NotSharp(Sharp):
    rho = 0.0


def without_statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norm's running statistics see each batch twice when gradients are computed twice."""
    return {name: value for name, value in weights.items() if "running" not in name and "num_batches" not in name}


def test_a_step_of_ones_own_is_taken(photos, tmp_path) -> None:
    for name, method in (("plain", "ce"), ("rho 0", NotSharp), ("sharp", Sharp)):
        longtail.train(method, data=str(photos), out=tmp_path / name, **SETTINGS)
    plain, same, sharp = (without_statistics(state(tmp_path / name)) for name in ("plain", "rho 0", "sharp"))
    torch.testing.assert_close(same, plain, rtol=1e-5, atol=1e-6)
    assert (sharp["classifier.weight"] - plain["classifier.weight"]).abs().max() > 1e-4


class HeadOnly(PlainMethod):
    """A classifier that learns at a tenth of the rate, a backbone at none, neither with decay on its biases."""

    def parameter_groups(self, learning):
        backbone = [value for name, value in learning.items() if name.startswith("backbone.")]
        head = [value for name, value in learning.items() if not name.startswith("backbone.")]
        return [{"params": head, "lr_scale": 0.1, "weight_decay": 0.0}, {"params": backbone, "lr_scale": 0.0}]


def test_parameter_groups_have_rates_of_their_own_and_are_resumed(photos, tmp_path) -> None:
    train = SETTINGS["train"] | {"momentum": 0.0, "schedule": "constant"}
    longtail.train(HeadOnly, data=str(photos), out=tmp_path / "groups", **SETTINGS | {"train": train})
    longtail.train("ce", data=str(photos), out=tmp_path / "start", **SETTINGS | {"train": train | {"lr": 1e-12}})
    start, end = (without_statistics(state(tmp_path / name)) for name in ("start", "groups"))
    moved = {name for name in end if not torch.allclose(end[name], start[name], atol=1e-9)}
    assert moved == {"classifier.weight", "classifier.bias"}
    optimizer = Run(tmp_path / "groups").load_checkpoint()["optimizer"]
    assert [group["lr"] for group in optimizer["param_groups"]] == pytest.approx([0.005, 0.0])
    longtail.resume(tmp_path / "groups", epochs=4)
    assert len(Run(tmp_path / "groups").metrics()) == 4


class Counted(PlainMethod):
    """Looks at the data before it starts, has a stage without training, and one in which batch norm alone moves."""

    seen: Tensor

    def __init__(self, backbone, classes, options) -> None:
        super().__init__(backbone, classes, options)
        self.register_buffer("seen", torch.zeros(4, len(classes)))
        self.register_buffer("epochs_begun", torch.zeros(()))

    @classmethod
    def stages(cls, options):
        streams = {"main": Stream(("none",))}
        return [
            Stage("look", {}, trains=(), optim={"epochs": 0}),
            Stage("settle", streams, trains=(), train_mode=("backbone",), optim={"epochs": 1}),
            Stage("bias", streams, trains=("classifier.bias",), optim={"epochs": 1}),
        ]

    def before_stage(self, stage: Stage, images: Passes) -> None:
        assert not self.training
        if stage.name != "look":
            return
        streams = [None, Stream(("weak",)), Stream(("weak", "none"), "balanced")]
        batches = [list(images.training(stream)) for stream in streams] + [list(images.held_out())]
        assert [len(row[0].views) for row in batches] == [1, 1, 2, 1]
        for row, passed in zip(self.seen, batches, strict=True):
            row += torch.cat([batch.labels for batch in passed]).bincount(minlength=len(row))
        whole = torch.cat([batch.index for batch in batches[0]])
        assert torch.equal(whole, whole.sort().values)  # in order, where nothing else is asked for

    def before_epoch(self, clock: Clock) -> None:
        self.epochs_begun += 1


def test_stages_without_training_and_passes_over_the_data(photos, tmp_path) -> None:
    data = {"source": str(photos), "validation": 0.25}
    train = SETTINGS["train"] | {"last_batch": "keep"}
    longtail.train(Counted, data=data, out=tmp_path / "run", **SETTINGS | {"train": train})
    lines = Run(tmp_path / "run").metrics()
    assert [(line["stage"], line["epoch"]) for line in lines] == [("look", 0), ("settle", 0), ("bias", 0)]
    assert "val" in lines[0]
    longtail.train("ce", data=data, out=tmp_path / "start", **SETTINGS | {"train": train | {"lr": 1e-12, "epochs": 1}})
    start, end = state(tmp_path / "start"), state(tmp_path / "run")
    changed = {name for name in start if not torch.allclose(start[name].float(), end[name].float(), atol=1e-9)}
    assert {name for name in changed if "running" not in name and "num_batches" not in name} == {"classifier.bias"}
    assert end["epochs_begun"] == 2
    ordered, weak, balanced, held_out = end["seen"].tolist()
    assert ordered == weak == [12, 3]  # three quarters of 16 and 4
    assert held_out == [4, 1]
    assert sum(balanced) == 15
    assert balanced[1] > 3


# Starting from another run


@pytest.fixture
def three(tmp_path) -> Path:
    """A source of three classes, and a run trained on it."""
    write(tmp_path / "three.npz", ["ash", "birch", "cedar"])
    longtail.train("bce3s", data=str(tmp_path / "three.npz"), out=tmp_path / "three", stages=["train"], **SETTINGS)
    return tmp_path / "three"


def write(file: Path, names: list[str]) -> None:
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(names)), 8)
    images = draw.integers(0, 255, (len(labels), 8, 8, 3), dtype=np.uint8)
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels, class_names=names)


def begun_from(run: Path, method: str, names: list[str], folder: Path, **options: Any) -> tuple[dict[str, Tensor], str]:
    """What a run that starts from `run` starts with (it hardly learns), and its log."""
    write(folder / "other.npz", names)
    settings = SETTINGS | {"train": SETTINGS["train"] | {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}}
    out = folder / "begun"
    longtail.train(
        method,
        data=str(folder / "other.npz"),
        out=out,
        start_from=str(run),
        stages=["train"],
        options=options,
        **settings,
    )
    return state(out), (out / "log.txt").read_text()


def test_rows_are_taken_by_class_name(three, tmp_path) -> None:
    begun, log = begun_from(three, "bce3s", ["birch", "cedar", "z_ash"], tmp_path)
    rows, theirs = begun["classifier.weight"], state(three)["classifier.weight"]
    torch.testing.assert_close(rows[:2], theirs[1:])
    assert not torch.allclose(rows[2], theirs[0], atol=1e-3)
    assert begun["seen"].sum() <= 3
    assert "of classifier the rows of 'birch', 'cedar'" in log
    assert "new here: 'z_ash'; only there: 'ash'" in log


def test_heads_of_another_kind_are_not_taken(three, tmp_path) -> None:
    begun, log = begun_from(three, "ldam", ["ash", "birch", "cedar"], tmp_path)
    assert not torch.allclose(begun["classifier.weight"], state(three)["classifier.weight"], atol=1e-3)
    torch.testing.assert_close(begun["backbone.stages.0.0.weight"], state(three)["backbone.stages.0.0.weight"])
    assert "took backbone; newly initialised: classifier" in log
    assert Run(tmp_path / "begun").load_checkpoint()["kinds"]["classifier"] == CosineClassifier.__name__


def test_a_run_of_the_same_classes_and_kind_is_taken_whole(three, tmp_path) -> None:
    begun, log = begun_from(three, "bce3s", ["ash", "birch", "cedar"], tmp_path)
    torch.testing.assert_close(begun["classifier.weight"], state(three)["classifier.weight"])
    assert "newly initialised" not in log


def test_facts_of_the_stages_are_written(three) -> None:
    assert {line["stage"] for line in map(json.loads, (three / "metrics.jsonl").open())} == {"train"}
