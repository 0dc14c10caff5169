"""Optimisers, and the learning rate as a function of time alone, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..config import TrainConfig


def learning_rate(train: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps` in `epoch` (all from 0).

    Warm-up is linear and ends at `lr`; the cosine then falls to 0 at the end of the run, per epoch or per step.
    """
    now = epoch + step / steps if train.schedule_per == "step" else float(epoch)
    if now < train.warmup_epochs:
        grain = 1 / steps if train.schedule_per == "step" else 1.0
        return train.lr * min(1.0, (now + grain) / train.warmup_epochs)
    if train.schedule == "cosine":
        done = (now - train.warmup_epochs) / (train.epochs - train.warmup_epochs)
        return train.lr * (1 + math.cos(math.pi * done)) / 2
    if train.schedule == "step":
        return train.lr * train.drop ** sum(now >= share * train.epochs for share in train.milestones)
    return train.lr


def build_optimizer(train: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameters`, with weight decay on all of them, as the papers do."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=train.lr, weight_decay=train.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov,
        weight_decay=train.weight_decay,
    )


def use_bf16(train: TrainConfig, device: torch.device) -> bool:
    """Whether the backbone runs under bf16 autocast: as asked, or where the device has instructions for it."""
    if train.precision != "auto":
        return train.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
