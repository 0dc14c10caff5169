"""Optimisers, and the learning rate as a function of time alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from ..config import TrainConfig


def learning_rate(train: TrainConfig, epoch: int, step: float, steps: int) -> float:
    """The learning rate at `step` of `steps` in `epoch` (all from 0).

    Warm-up is linear, from `warmup_from` in the first epoch (or step) to `warmup_to` in the last, by default ending at
    `lr`; the cosine then falls to 0 at the end of the run, per epoch or per step. All of it begins after `schedule_late`
    epochs at the full rate; the fall runs `schedule_ahead` epochs ahead; `cosine_longer` adds epochs that the cosine would
    still need to arrive at 0.
    """
    now = epoch + step / steps if train.schedule_per == "step" else float(epoch)
    now -= train.schedule_late
    if now < 0:
        return train.lr
    if now < train.warmup_epochs:
        return train.lr * _warmup(train, now, 1 / steps if train.schedule_per == "step" else 1.0)
    now += train.schedule_ahead
    if train.schedule == "cosine":
        length = train.epochs - train.warmup_epochs + train.cosine_longer
        return train.lr * (1 + math.cos(math.pi * min((now - train.warmup_epochs) / length, 1.0))) / 2
    if train.schedule == "step":
        # the small term: a share of 0.595 of 200 epochs means 119, whichever way the product rounds
        return train.lr * train.drop ** sum(now + 1e-6 >= share * train.epochs for share in train.milestones)
    return train.lr


def _warmup(train: TrainConfig, now: float, grain: float) -> float:
    if train.warmup_from is None:
        return min(train.warmup_to, train.warmup_to * (now + grain) / train.warmup_epochs)
    # Per step, the last is as good as the end; per epoch, the last must be at `warmup_to` itself.
    length = train.warmup_epochs if train.schedule_per == "step" else max(train.warmup_epochs - 1, 1)
    return train.warmup_from + (train.warmup_to - train.warmup_from) * now / length


def build_optimizer(train: TrainConfig, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """SGD or AdamW over parameter groups, with weight decay on all of them unless they say otherwise, as the papers do."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(
        groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov, weight_decay=train.weight_decay
    )
