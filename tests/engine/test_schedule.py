"""The learning rate and the optimiser against torch's own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from longtail.config import TrainConfig
from longtail.engine.schedule import build_optimizer, learning_rate

EPOCHS, STEPS, LR = 12, 5, 0.4


def torch_rates(per, build):
    """What a scheduler of torch sets at each step of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    scheduler = build(optimizer, 1 if per == "epoch" else STEPS)
    rates = []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per == "step":
                scheduler.step()
        if per == "epoch":
            scheduler.step()
    return rates


def our_rates(**train):
    config = TrainConfig(epochs=EPOCHS, lr=LR, **train)
    return [learning_rate(config, epoch, step, STEPS) for epoch in range(EPOCHS) for step in range(STEPS)]


def cosine(optimizer, grain):
    return lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * grain)


def step(optimizer, grain):
    return lr_scheduler.MultiStepLR(optimizer, [6 * grain, 9 * grain], gamma=0.1)


def warm(after):
    def build(optimizer, grain):
        first = 3 * grain
        rising = lr_scheduler.LambdaLR(optimizer, lambda now: (now + 1) / first)
        return lr_scheduler.SequentialLR(optimizer, [rising, after(optimizer, grain)], [first])

    return build


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize(
    ("train", "reference"),
    [
        ({"schedule": "cosine"}, cosine),
        ({"schedule": "step", "milestones": (0.5, 0.75)}, step),
        ({"schedule": "constant"}, lambda optimizer, grain: lr_scheduler.ConstantLR(optimizer, 1.0)),
        (
            {"schedule": "cosine", "warmup_epochs": 3},
            warm(lambda optimizer, grain: lr_scheduler.CosineAnnealingLR(optimizer, (EPOCHS - 3) * grain)),
        ),
        (
            {"schedule": "step", "milestones": (0.5, 0.75), "warmup_epochs": 3},
            warm(lambda optimizer, grain: lr_scheduler.MultiStepLR(optimizer, [3 * grain, 6 * grain], gamma=0.1)),
        ),
    ],
)
def test_learning_rate(per, train, reference):
    assert our_rates(schedule_per=per, **train) == pytest.approx(torch_rates(per, reference))


def test_warm_up_as_long_as_the_run_ends_at_the_full_rate():
    assert our_rates(warmup_epochs=EPOCHS)[-1] == LR


@pytest.mark.parametrize(
    ("train", "reference"),
    [
        (
            {"optimizer": "adamw", "weight_decay": 0.1},
            lambda parameters: torch.optim.AdamW(parameters, lr=LR, weight_decay=0.1),
        ),
        (
            {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
            lambda parameters: torch.optim.SGD(parameters, lr=LR, momentum=0.8, nesterov=True, weight_decay=0.01),
        ),
    ],
)
def test_optimizer(train, reference):
    ours, theirs = (torch.ones(3, requires_grad=True) for _ in range(2))
    pairs = [
        (ours, build_optimizer(TrainConfig(lr=LR, **train), [{"params": [ours]}])),
        (theirs, reference([theirs])),
    ]
    for _ in range(3):
        for weight, optimizer in pairs:
            weight.grad = weight.detach() ** 2
            optimizer.step()
    assert torch.equal(ours, theirs)


WARM_TO_ONE = {"warmup_epochs": 5}
WARM_FROM_A_THIRD = {"warmup_epochs": 5, "warmup_from": 1 / 3 + 2 / 15}
DROPS = {"schedule": "step", "drop": 0.01}
# Schedules as their authors' code sets them, epoch by epoch, and how a recipe says them.
PUBLISHED = {
    "bbn_cifar_200_epochs": DROPS | WARM_FROM_A_THIRD | {"milestones": (119 / 200, 159 / 200)},
    "ldam_drw_200_epochs": DROPS | WARM_TO_ONE | {"milestones": (0.8, 0.9)},
    "cmo_cifar_200_epochs": DROPS | WARM_TO_ONE | {"milestones": (0.8, 0.9)},
    "cmo_cifar_400_epochs": {
        **{"schedule": "step", "milestones": (321 / 400, 361 / 400)},
        **{"warmup_epochs": 11, "warmup_from": 0.1, "warmup_to": 1.1},
    },
    "cmo_imagenet_100_epochs": {"schedule": "step", "milestones": (0.6, 0.8), "warmup_epochs": 5},
    "risda_cifar_200_epochs": DROPS | {"milestones": (159 / 200, 179 / 200)},
    "mixup_cifar_200_epochs": {"schedule": "step", "milestones": (0.8, 0.9), "warmup_epochs": 5},
    "mixup_cifar_400_epochs": DROPS | WARM_FROM_A_THIRD | {"milestones": (319 / 400, 359 / 400)},
    "balanced_softmax_cifar100_if200_685_epochs": {"warmup_epochs": 43, "warmup_from": 0.5, "schedule_ahead": 1},
    "crt_imagenet_10_epochs": {"lr": 0.2, "schedule_ahead": 1},
    "lws_imagenet_5_epochs": {"lr": 0.2, "schedule_ahead": 1},
    "weight_balancing_stage1_320_epochs": {"lr": 0.01, "schedule_ahead": 1},
    "weight_balancing_stage2_10_epochs": {"lr": 0.01, "schedule_ahead": 1},
}


@pytest.fixture(scope="module")
def published():
    with np.load(Path(__file__).parents[1] / "golden" / "learning_rates.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules(published, name):
    expected = published[name]
    train = TrainConfig(**{"epochs": len(expected), "lr": 0.1, **PUBLISHED[name]})
    rates = [learning_rate(train, epoch, 0, 7) for epoch in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_the_published_schedule_that_moves_each_step(published):
    train = TrainConfig(
        epochs=200, lr=0.1, schedule_per="step", warmup_epochs=5, warmup_from=0.0, milestones=(0.8, 0.9), **DROPS
    )
    rates = [
        learning_rate(train, int(now), int(4 * (now % 1)), 4) for now in published["class_balanced_fractional_epoch"]
    ]
    np.testing.assert_allclose(rates, published["class_balanced_learning_rate"], rtol=1e-6)


def test_a_cosine_that_never_arrives_and_one_that_starts_late():
    """BCL's has one more epoch to go at its end; GLMC's on ImageNet-LT begins an epoch after the training, at the full rate."""
    bcl = TrainConfig(epochs=5, lr=0.15, warmup_epochs=2, schedule_ahead=1, cosine_longer=1)
    expected = [0.075, 0.15] + [0.15 * (1 + math.cos(math.pi * (e - 1) / 4)) / 2 for e in (2, 3, 4)]
    assert [learning_rate(bcl, e, 0, 1) for e in range(5)] == pytest.approx(expected)
    late = TrainConfig(epochs=6, lr=0.1, warmup_epochs=2, schedule_late=1, schedule_ahead=1, cosine_longer=1)
    expected = [0.1, 0.05, 0.1] + [0.1 * (1 + math.cos(math.pi * (e - 2) / 5)) / 2 for e in (3, 4, 5)]
    assert [learning_rate(late, e, 0, 1) for e in range(6)] == pytest.approx(expected)
