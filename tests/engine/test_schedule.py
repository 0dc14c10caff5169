"""The learning rate and the optimiser against torch's own."""

from __future__ import annotations

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
    pairs = [(ours, build_optimizer(TrainConfig(lr=LR, **train), [ours])), (theirs, reference([theirs]))]
    for _ in range(3):
        for weight, optimizer in pairs:
            weight.grad = weight.detach() ** 2
            optimizer.step()
    assert torch.equal(ours, theirs)
