"""MixUp, CutMix, Remix and their targets, for any training loop: what `data.mixing` has.

>>> import torch
>>> images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
>>> lam, box = draw_mix(32, 32, torch.Generator().manual_seed(0))
>>> mixed = cutmix(images, images.flip(0), box)
>>> soft_target(labels, labels.flip(0), lam, num_classes=3).sum(1)
tensor([1., 1., 1., 1.])
"""

from __future__ import annotations

from .data.mixing import (
    area_left,
    cutmix,
    cutmix_box,
    draw_cutmix_box,
    draw_lambda,
    draw_mix,
    mixup,
    remix_share,
    soft_target,
)
from .losses.class_weights import class_weights

__all__ = [
    "area_left",
    "class_weights",
    "cutmix",
    "cutmix_box",
    "draw_cutmix_box",
    "draw_lambda",
    "draw_mix",
    "mixup",
    "remix_share",
    "soft_target",
]
