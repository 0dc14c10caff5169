"""Every method as the engine runs it, in all its stages: in bf16, and stopped half way and resumed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import longtail
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import LongtailError
from longtail.methods import METHODS, method_class
from longtail.methods.base import Stage

CLASSES = 8  # as many as the contrasts of TSC and the hard classes of NCL can do with
COUNTS = (16, 12, 8, 6, 5, 4, 3, 2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy squares of eight brightnesses, long-tailed, held-out images among them for what chooses by those."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), COUNTS)
    test = np.arange(CLASSES)
    file = tmp_path_factory.mktemp("images") / "squares.npz"

    def pixels(of: np.ndarray) -> np.ndarray:
        noise = draw.integers(0, 20, (len(of), 8, 8, 3))
        return (25 * of[:, None, None, None] + noise).astype(np.uint8)

    np.savez(file, train_images=pixels(labels), train_labels=labels, test_images=pixels(test), test_labels=test)
    return file


class StopAfter(Reporter):
    """Asks the run to stop, as the system would, once so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class CountSteps(Reporter):
    def __init__(self) -> None:
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of their own length last two epochs."""
    from longtail.engine import prepare

    def short(stage: Stage) -> Stage:
        if stage.optim.get("epochs", 0) < 2:
            return stage
        return Stage(stage.name, stage.streams, stage.trains, stage.train_mode, {**stage.optim, "epochs": 2})

    stages_of = prepare.stages_of
    monkeypatch.setattr("longtail.engine.trainer.stages_of", lambda config: [short(s) for s in stages_of(config)])


def settings(name: str, images: Path) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 16, "accelerator": "cpu", "precision": "bf16", "lr": 0.01, "eval_every": 9}
    options = {"augment": "weak"} if "augment" in method_class(name).Options.model_fields else {}
    data = {"source": str(images), "validation": 0.2, "loader": "resident"}
    # LIFT puts modules into the blocks of a vision transformer.
    backbone = "timm:test_vit" if name == "lift" else "resnet8"
    return {"data": data, "backbone": backbone, "report": False, "train": train, "options": options}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_stopped_ends_like_one_that_was_not(name, images, short_stages, tmp_path) -> None:
    chosen, counted = settings(name, images), CountSteps()
    longtail.train(name, out=tmp_path / "whole", reporter=counted, **chosen)
    assert counted.steps
    with pytest.raises(LongtailError, match="Stopped by SIGTERM"):
        longtail.train(name, out=tmp_path / "run", reporter=StopAfter(max(counted.steps // 2, 1)), **chosen)
    longtail.resume(tmp_path / "run")
    states = [Run(tmp_path / run).load_checkpoint()["method"] for run in ("whole", "run")]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert all(value.isfinite().all() for value in states[0].values())
    if method_class(name).classifies():
        assert longtail.load(tmp_path / "run").predict(np.zeros((8, 8, 3), np.uint8))[0].label in set("01234567")
