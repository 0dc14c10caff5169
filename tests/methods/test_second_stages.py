"""Second stages, as the engine runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from method_cases import CASES, Case
from safetensors.torch import load_file
from torch import Tensor

import longtail
from longtail.data.sources import open_source
from longtail.engine.run import Run

SMALL = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 64, "eval_every": 2}}
BOTH = [("glmc", "balanced_softmax"), ("glmc", "maxnorm"), ("bce3s", "maxnorm")]


class Weights(NamedTuple):
    """What three runs end with: the first stage alone, the second from that run, both in one go."""

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    together: dict[str, Tensor]
    lines: list[Mapping[str, Any]]  # metrics of the run with both


def few_images(file: Path) -> None:
    """Every sixth image of the embedded long-tailed set, its test images too few to matter."""
    splits = open_source("fashion-mnist-lt")
    arrays = {}
    for name, images, step in (("train", splits.train, 6), ("test", splits.test, 20)):
        arrays[f"{name}_images"] = images.images[::step]
        arrays[f"{name}_labels"] = images.labels[::step]
    np.savez(file, **arrays)


@pytest.fixture(scope="module", params=BOTH, ids="-".join)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    method, finetune = request.param
    folder: Path = tmp_path_factory.mktemp(method)
    few_images(folder / "few.npz")
    options = {"finetune": finetune, "finetune_epochs": 2, "finetune_lr": 0.1}
    settings: dict[str, Any] = SMALL | {"data": str(folder / "few.npz"), "options": options}
    longtail.train(method, out=folder / "first", stages=["train"], **settings)
    longtail.train(method, out=folder / "second", stages=[finetune], start_from=str(folder / "first"), **settings)
    longtail.train(method, out=folder / "both", **settings)
    runs = [Run(folder / name) for name in ("first", "second", "both")]
    return Weights(*(run.load_checkpoint()["method"] for run in runs), runs[2].metrics())


def test_second_stage_from_a_run_equals_both_in_one_go(weights: Weights) -> None:
    torch.testing.assert_close(weights.second, weights.together, rtol=0, atol=0)


def test_only_the_classifier_changes(weights: Weights) -> None:
    """Batch-norm statistics and BCE3S's memory included in what does not."""
    changed = {name for name, value in weights.first.items() if not torch.equal(value, weights.second[name])}
    assert changed - {"radius"} == {"classifier.weight", "classifier.bias"}


def test_rows_end_within_the_radius(weights: Weights) -> None:
    if "radius" not in weights.second:  # of Balanced Softmax, which projects nothing
        return
    radius, start = weights.second["radius"], weights.first["classifier.weight"].norm(dim=1)
    torch.testing.assert_close(radius, start.min() + 0.1 * (start.max() - start.min()))
    norms = weights.second["classifier.weight"].norm(dim=1)
    assert (norms <= radius * (1 + 1e-6)).all()
    assert (norms > radius * (1 - 1e-6)).any()  # some were longer


def test_metrics_tell_the_stages_apart(weights: Weights) -> None:
    stages = [(line["stage"] == "train", line["epoch"]) for line in weights.lines]
    assert stages == [(True, 0), (False, 0), (False, 1)]
    assert [line["lr"] for line in weights.lines[1:]] == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize("case", [case for case in CASES if case.stage == "maxnorm"], ids=lambda case: case.name)
def test_rows_are_projected_after_each_epoch_and_biases_never(case: Case) -> None:
    method: Any = case.build()
    optimiser = torch.optim.SGD(method.classifier.parameters(), lr=1.0)
    radius = method.radius.clone()
    for epoch in range(3):
        optimiser.zero_grad()
        sum(method.losses(case.batch(epoch), case.clock(epoch)).values()).backward()
        optimiser.step()
        weight, bias = method.classifier.weight.detach().clone(), method.classifier.bias.detach().clone()
        method.after_epoch(case.clock(epoch))
        long = weight.norm(dim=1) > radius
        assert long.any()
        expected = torch.stack([w * radius / w.norm() if w.norm() > radius else w for w in weight])
        torch.testing.assert_close(method.classifier.weight.detach(), expected)
        torch.testing.assert_close(method.classifier.bias.detach(), bias, rtol=0, atol=0)
    assert method.radius == radius


def test_balanced_glmc_is_trained_saved_and_deployed_with_its_one_classifier(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = SMALL | {"train": {"epochs": 2, "batch_size": 8, "lr": 0.05}}
    results = longtail.train("glmc", data=str(photos), out=tmp_path / "run", options={"rebalance": False}, **settings)
    state = Run(tmp_path / "run").load_checkpoint()["method"]
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"backbone", "classifier"}
    assert torch.equal(saved["classifier.weight"], state["conventional.weight"])
    trainable = [name for name in saved if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert results["parameters"] == sum(saved[name].numel() for name in trainable)
    images = sorted((photos / "test").glob("*/*.png"))
    assert {p.label for p in longtail.load(tmp_path / "run").predict(images)} <= {"cat", "dog"}
