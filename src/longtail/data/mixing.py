"""MixUp and CutMix between two batches, and the targets that go with them.

One lambda and one box serve a whole batch, as in GLMC (Du et al., CVPR 2023, section 3.2) and CMO. MixUp: Zhang et al., ICLR
2018. CutMix: Yun et al., ICCV 2019. Remix: Chou et al., ECCV workshops 2020. CMO: Park et al., CVPR 2022.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[int, int, int, int]
Rounding = Literal["ceil", "floor"]


def draw_lambda(alpha: float, generator: torch.Generator) -> float:
    """A number from Beta(`alpha`, `alpha`). `generator` lives on the CPU."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mixup(a: Tensor, b: Tensor, lam: float) -> Tensor:
    """``lam * a + (1 - lam) * b`` for two float tensors of one shape."""
    return torch.lerp(b, a, lam)


def cutmix_box(lam: float, height: int, width: int, centre: tuple[int, int], rounding: Rounding = "ceil") -> Box:
    """The box (lo2, lo3, hi2, hi3) that covers 1 - `lam` of the image before clipping.

    Sides are ``size * sqrt(1 - lam)``, rounded up as in GLMC or down as in CMO; edges lie ``side // 2`` before and after
    `centre` (row, column), clipped to the image. 2 and 3 are the third (rows) and fourth (columns) dimension of an image
    batch.
    """
    cut, whole = math.sqrt(1.0 - lam), {"ceil": math.ceil, "floor": math.floor}[rounding]
    half2, half3 = (whole(size * cut) // 2 for size in (height, width))
    lo2, lo3 = max(centre[0] - half2, 0), max(centre[1] - half3, 0)
    return lo2, lo3, min(centre[0] + half2, height), min(centre[1] + half3, width)


def draw_cutmix_box(
    lam: float, height: int, width: int, generator: torch.Generator, rounding: Rounding = "ceil"
) -> Box:
    """`cutmix_box` around a centre that is uniform on the image's pixels. `generator` lives on the CPU."""
    row, column = (int(torch.randint(size, (), generator=generator)) for size in (height, width))
    return cutmix_box(lam, height, width, (row, column), rounding)


def draw_mix(height: int, width: int, generator: torch.Generator) -> tuple[float, Box]:
    """Lambda from Beta(1, 1), and the CutMix box that goes with it, as GLMC draws them for a step."""
    lam = float(torch.rand((), generator=generator))
    return lam, draw_cutmix_box(lam, height, width, generator)


def area_left(box: Box, height: int, width: int) -> float:
    """The share of the image that lies outside of `box`: lambda again, after clipping and rounding."""
    lo2, lo3, hi2, hi3 = box
    return 1 - (hi2 - lo2) * (hi3 - lo3) / (height * width)


def cutmix(a: Tensor, b: Tensor, box: Box) -> Tensor:
    """A copy of `a` [B, C, H, W] whose `box` shows `b`."""
    lo2, lo3, hi2, hi3 = box
    mixed = a.clone()
    mixed[:, :, lo2:hi2, lo3:hi3] = b[:, :, lo2:hi2, lo3:hi3]
    return mixed


def soft_target(
    labels_a: Tensor, labels_b: Tensor, lam: float, num_classes: int, weights: Tensor | None = None
) -> Tensor:
    """``lam * w[a] * onehot(a) + (1 - lam) * w[b] * onehot(b)`` as float32 [B, C].

    `labels_a`, `labels_b`: int64 [B]. `weights`: [C], see `class_weights`; all ones where not given. The area that
    clipping takes from a CutMix box does not change `lam`.
    """
    target = mixup(F.one_hot(labels_a, num_classes).float(), F.one_hot(labels_b, num_classes).float(), lam)
    return target if weights is None else target * weights.to(target)


def remix_share(own: Tensor, partner: Tensor, lam: float, kappa: float = 3.0, tau: float = 0.5) -> Tensor:
    """How much of each mixed image's label is its own class's, float32 [B]: `lam`, or all for the much rarer class.

    `own`, `partner`: [B], training images of each image's class and of its partner's. Where one class has at least `kappa`
    times the images of the other, the label is wholly the rarer one's, if the commoner one has less than `tau` of the
    image. Source: Remix, eq. 6.
    """
    ratio = own.double() / partner.double()
    share = torch.full_like(ratio, lam)
    if lam < tau:
        share = share.masked_fill(ratio >= kappa, 0)
    if 1 - lam < tau:
        share = share.masked_fill(ratio <= 1 / kappa, 1)
    return share.float()
