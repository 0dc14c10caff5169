"""Ten steps of the authors' own training, replayed through our methods, stages, schedule and optimiser.

Weights, batches and random draws are given (`README-trajectories.md` beside the vectors says how they were made); every
loss term, the learning rates, and the weights after the first step and at the end must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from longtail.classes import Classes
from longtail.config import TrainConfig, merge, validate
from longtail.engine.schedule import learning_rate
from longtail.engine.setup import built_to_learn, freeze_all_but, set_train_mode
from longtail.engine.step import StepUpdate
from longtail.methods import bce3s, glmc
from longtail.methods.base import Batch, Clock, Method
from longtail.methods.bce3s import BCE3S, BCE3SOptions
from longtail.methods.bcl import BCL, BCLOptions
from longtail.methods.epl import CosFaceEPL, EPLOptions
from longtail.methods.glmc import GLMC, GLMCOptions
from longtail.models.backbone import Backbone
from longtail.models.heads import mlp

EPOCH_OF_STEPS = 2
Vectors = dict[str, Tensor]


def tiny_backbone() -> Backbone:
    """The network of the vectors, their `network.N` being `backbone.stages.0.N`."""
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    ]
    return Backbone([nn.Sequential(*layers)], 16)


def classes(v: Vectors) -> Classes:
    return Classes(tuple(map(str, range(len(v["counts"])))), tuple(v["counts"].tolist()))


def ours(name: str) -> str:
    """Where our method keeps what the vectors call `name`."""
    return name.replace("network.", "backbone.stages.0.")


def load(method: Method, v: Vectors, rename: Callable[[str], str]) -> None:
    state = {rename(key.removeprefix("initial.")): value for key, value in v.items() if key.startswith("initial.")}
    _, unexpected = method.load_state_dict(state, strict=False)
    assert not unexpected


def compare_state(method: Method, v: Vectors, when: str, rename: Callable[[str], str], tolerance: float) -> None:
    state = method.state_dict()
    for key, expected in v.items():
        if key.startswith(f"{when}."):
            actual = state[rename(key.removeprefix(f"{when}."))].to(expected.dtype)
            bound = tolerance * max(float(expected.abs().max()), 1e-3)
            assert (actual - expected).abs().max() <= bound, key


def replay(
    method: Method,
    v: Vectors,
    stage_name: str,
    train: TrainConfig,
    batches: Callable[[int], dict[str, Batch]],
    check: Callable[[int, dict[str, Tensor]], None],
    rename: Callable[[str], str] = ours,
    tolerance: float = 2e-5,
) -> None:
    """Run the stage as the trainer does, on given batches."""
    method.double()  # in float32, how a processor rounds may tip a ReLU
    load(method, v, rename)
    stage = next(stage for stage in method.stages(method.hp) if stage.name == stage_name)
    optim = {
        key: value for key, value in stage.optim.items() if key not in ("lr", "epochs")
    }  # the vectors have their own
    train = validate(TrainConfig, merge(train.model_dump(), optim), stage_name)
    fabric = Fabric(accelerator="cpu", devices=1)
    method.eval()
    method.before_stage(stage, None)  # type: ignore[arg-type]
    learning = freeze_all_but(method, stage, built_to_learn(method))
    update = StepUpdate(fabric, method, train, method.parameter_groups(learning))
    for step in range(len(v["lr"])):
        epoch, within = divmod(step, EPOCH_OF_STEPS)
        rate = learning_rate(train, epoch, within, EPOCH_OF_STEPS)
        assert rate == pytest.approx(float(v["lr"][step]), rel=1e-5)
        clock = Clock(
            stage_name, epoch, train.epochs, within, EPOCH_OF_STEPS, torch.Generator().manual_seed(step), rate
        )
        if within == 0:
            set_train_mode(method, stage)
            method.before_epoch(clock)
        update.set_rate(rate)
        terms = method.step(batches(step), clock, update)
        method.after_step(clock)
        check(step, {name: value.detach() for name, value in terms.items()})
        close(torch.stack(list(terms.values())).sum().detach(), v["loss.total"][step])
        if step == 0:
            compare_state(method, v, "after_first_step", rename, tolerance / 2)
        if within == EPOCH_OF_STEPS - 1:
            method.after_epoch(clock)
    compare_state(method, v, "final", rename, tolerance)


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value.double(), expected.double(), rtol=2e-5, atol=1e-6)


def batch(v: Vectors, stream: str, views: list[str], step: int) -> Batch:
    labels = v[f"{stream}.labels"][step]
    return Batch(tuple(v[f"{stream}.{view}"][step].double() for view in views), labels, torch.arange(len(labels)))


def draws_of(v: Vectors, step: list[int]) -> Callable[..., Any]:
    """In the place of `draw_mix`: the recorded lambda and box. `step` holds the one that is replayed."""
    return lambda *_: (float(v["share"][step[0]]), tuple(v["box"][step[0]].tolist()))


def test_glmc(golden, monkeypatch) -> None:
    v = golden("trajectory_glmc")
    step = [0]
    monkeypatch.setattr(glmc, "draw_mix", draws_of(v, step))
    options = GLMCOptions(contrast_weight=v["hyper.consistency_weight"].item(), label_weighting=1.2)
    method = GLMC(tiny_backbone(), classes(v), options)
    close(method.weights, v["class_weights"])

    def batches(now: int) -> dict[str, Batch]:
        step[0] = now
        views = ["view1", "view2"]
        return {"instance": batch(v, "plain", views, now), "inverse": batch(v, "second", views, now)}

    def check(now: int, terms: dict[str, Tensor]) -> None:
        share = v["blend"][now]
        close(terms["conventional"], share * (v["loss.conventional_mixed"] + v["loss.conventional_pasted"])[now])
        close(terms["rebalanced"], (1 - share) * (v["loss.rebalanced_mixed"] + v["loss.rebalanced_pasted"])[now])
        close(terms["consistency"], 4 * v["loss.consistency"][now])

    train = TrainConfig(epochs=5, lr=0.05, weight_decay=5e-3, momentum=0.9)
    replay(method, v, "train", train, batches, check)


def test_bce3s_first_stage(golden, monkeypatch) -> None:
    v = golden("trajectory_bce3s_stage1")
    step = [0]
    monkeypatch.setattr(bce3s, "draw_mix", draws_of(v, step))
    monkeypatch.setattr(bce3s, "draw_class_mask", lambda *_: v["drawn_classes"][step[0]].bool())
    method = BCE3S(tiny_backbone(), classes(v), BCE3SOptions())
    method.projector = mlp(16, 16, 12, norm=False)
    method.memory = torch.zeros(10, 12)

    def batches(now: int) -> dict[str, Batch]:
        step[0] = now
        # The release compares with what an unseen class's memory happens to hold, here zeros.
        method.seen.fill_(True)
        return {"main": batch(v, "plain", ["view"], now), "second": batch(v, "second", ["view"], now)}

    def check(now: int, terms: dict[str, Tensor]) -> None:
        close(terms["joint"], (v["loss.plain"] + v["loss.mixed"] + v["loss.pasted"])[now] / 3)
        close(terms["uniform"], v["loss.uniform"][now])
        if now >= EPOCH_OF_STEPS:
            close(terms["contrastive"], 0.1 * (v["loss.contrast_mixed"] + v["loss.contrast_pasted"])[now])

    train = TrainConfig(epochs=6, lr=0.05, weight_decay=5e-3, momentum=0.9, schedule_ahead=1)
    replay(method, v, "train", train, batches, check)


def test_bce3s_second_stage(golden, monkeypatch) -> None:
    v = golden("trajectory_bce3s_stage2")
    step = [0]
    monkeypatch.setattr(bce3s, "draw_class_mask", lambda *_: v["drawn_classes"][step[0]].bool())
    options = BCE3SOptions(finetune="maxnorm", frozen_batchnorm="train", beta=0.99999)
    method = BCE3S(tiny_backbone(), classes(v), options)
    close(method.maxnorm_weights, v["class_weights"])

    def batches(now: int) -> dict[str, Batch]:
        step[0] = now
        return {"main": batch(v, "plain", ["view"], now)}

    train = TrainConfig(epochs=6, lr=0.05, weight_decay=0.0, momentum=0.9, schedule_ahead=1)
    replay(method, v, "maxnorm", train, batches, lambda *_: None)
    close(method.radius, v["norm_cap"])


def test_bcl(golden) -> None:
    v = golden("trajectory_bcl")
    method = BCL(tiny_backbone(), classes(v), BCLOptions(hidden=16, dim=12))

    def batches(now: int) -> dict[str, Batch]:
        return {"main": batch(v, "plain", ["view1", "view2", "view3"], now)}

    def check(now: int, terms: dict[str, Tensor]) -> None:
        close(terms["ce"], 2 * v["loss.adjusted"][now])
        close(terms["contrastive"], 0.6 * v["loss.contrast"][now])

    train = TrainConfig(
        epochs=5, lr=0.15, weight_decay=5e-4, momentum=0.9, warmup_epochs=2, schedule_ahead=1, cosine_longer=1
    )
    replay(method, v, "train", train, batches, check, tolerance=5e-5)


def test_epl_cosface(golden) -> None:
    v = golden("trajectory_epl_cosface")
    backbone = Backbone([nn.Sequential(nn.Flatten(), nn.Linear(192, 16))], 16, nn.Identity())
    options = EPLOptions(scale=32.0, prototypes_start="normal", repeats="last")
    method = CosFaceEPL(backbone, classes(v), options)
    names = {
        "network.weight": "backbone.stages.0.1.weight",
        "network.bias": "backbone.stages.0.1.bias",
        "prototypes": "head.weight",
        "virtual_prototypes": "head.prototypes",
    }
    train = TrainConfig(epochs=5, lr=0.1, weight_decay=5e-4, momentum=0.9, schedule="step", milestones=(0.4, 0.8))
    replay(
        method, v, "train", train, lambda now: {"main": batch(v, "plain", ["view"], now)}, lambda *_: None,
        rename=names.__getitem__,
    )  # fmt: skip
