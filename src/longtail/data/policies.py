"""AutoAugment and RandAugment: which operation each image gets, and how strong.

Every image of a batch draws its own operations. Those that drew the same one are taken through it together: one call
per operation and slot, whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import ops
from .draws import Draws

Operation = Callable[[Tensor, Tensor], Tensor]


def apply_each(images: Tensor, choice: Tensor, values: Tensor, operations: Sequence[Operation | None]) -> Tensor:
    """Image i goes through ``operations[choice[i]]`` with parameter ``values[i]``; None leaves it as it is.

    `choice` int64 [B] and `values` float64 [B] live on the CPU, so the size of each group is known without asking the
    device.
    """
    order = choice.argsort()
    sizes = choice.bincount(minlength=len(operations)).tolist()
    groups = images.index_select(0, ops.send(order, images.device)).split(sizes)
    done = [
        group if operation is None or not len(group) else operation(group, parameters)
        for operation, group, parameters in zip(operations, groups, values[order].split(sizes), strict=True)
    ]
    return torch.cat(done).index_select(0, ops.send(order.argsort(), images.device))


# name: (operation, strength in 0..1 and sign and image side -> parameter). The ranges are those of the AutoAugment
# paper (Cubuk et al., CVPR 2019, table 6); shifts there are 150 pixels of a 331-pixel image.
Parameter = Callable[[Tensor, Tensor, int], Tensor]


def _factor(strength: Tensor, sign: Tensor, side: int) -> Tensor:
    return 1 + 0.9 * strength * sign


def _shear(strength: Tensor, sign: Tensor, side: int) -> Tensor:
    return 0.3 * strength * sign


def _shift(strength: Tensor, sign: Tensor, side: int) -> Tensor:
    return (150 / 331 * side * strength).trunc() * sign


Space = dict[str, tuple[Operation | None, Parameter]]
SPACE: Space = {
    "identity": (None, _factor),
    "shear_x": (ops.shear_x, _shear),
    "shear_y": (ops.shear_y, _shear),
    "translate_x": (ops.translate_x, _shift),
    "translate_y": (ops.translate_y, _shift),
    "rotate": (ops.rotate, lambda strength, sign, side: 30 * strength * sign),
    "brightness": (ops.brightness, _factor),
    "contrast": (ops.contrast, _factor),
    "colour": (ops.colour, _factor),
    "sharpness": (ops.sharpness, _factor),
    "posterize": (ops.posterize, lambda strength, sign, side: 8 - (4 * strength).round()),
    "solarize": (ops.solarize, lambda strength, sign, side: 256 * (1 - strength)),
    "autocontrast": (ops.autocontrast, _factor),
    "equalize": (ops.equalize, _factor),
    "invert": (ops.invert, _factor),
}
NAMES = tuple(SPACE)
RAND_AUGMENT = NAMES[:-1]  # all but invert: the 14 of Cubuk et al., NeurIPS 2020

# AutoAugment as in the code of BCE3S: shears by a cubic, shifts by parts of a pixel, turns to one side only.
RELEASED: Space = SPACE | {
    "shear_x": (ops.shear_x_cubic, _shear),
    "shear_y": (ops.shear_y_cubic, _shear),
    "translate_x": (ops.translate_x, lambda strength, sign, side: 150 / 331 * side * strength * sign),
    "translate_y": (ops.translate_y, lambda strength, sign, side: 150 / 331 * side * strength * sign),
    "rotate": (ops.rotate, lambda strength, sign, side: 30 * strength),
}


def _timm_factor(strength: Tensor, sign: Tensor, side: int) -> Tensor:
    return 0.1 + 1.8 * strength


def _timm_shift(strength: Tensor, sign: Tensor, side: int) -> Tensor:
    return 0.45 * side * strength * sign


# RandAugment as in timm, with whose ranges BCL and PaCo train on ImageNet; where timm draws bilinear or bicubic, the
# nearest pixel is taken. "identity" is for what is not applied.
TIMM: Space = {
    "identity": (None, _factor),
    "autocontrast": (ops.autocontrast, _factor),
    "equalize": (ops.equalize, _factor),
    "invert": (ops.invert, _factor),
    "rotate": (ops.rotate, lambda strength, sign, side: 30 * strength * sign),
    "posterize": (ops.posterize, lambda strength, sign, side: (4 * strength).trunc()),
    "solarize": (ops.solarize, lambda strength, sign, side: (256 * strength).trunc()),
    "solarize_add": (ops.solarize_add, lambda strength, sign, side: (110 * strength).trunc()),
    "colour": (ops.colour, _timm_factor),
    "contrast": (ops.contrast, _timm_factor),
    "brightness": (ops.brightness, _timm_factor),
    "sharpness": (ops.sharpness, _timm_factor),
    "shear_x": (ops.shear_x, _shear),
    "shear_y": (ops.shear_y, _shear),
    "translate_x": (ops.translate_x, _timm_shift),
    "translate_y": (ops.translate_y, _timm_shift),
}

# The CIFAR-10 policy (AutoAugment, table 7): 25 pairs of (operation, probability, magnitude 0..9).
CIFAR10 = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("colour", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


def draw_auto_augment(draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """One CIFAR-10 sub-policy per image: operations int64 [B, 2], which are places in `NAMES`, and float64 [B, 2]
    strengths (0..1) and signs."""
    table = torch.tensor([[(NAMES.index(name), p, m) for name, p, m in pair] for pair in CIFAR10], dtype=torch.float64)
    operation, probability, magnitude = table[draws.integers(len(CIFAR10))].unbind(2)
    applied = draws.chance(probability, 2)
    return (operation * applied).long(), magnitude / 9, draws.signs(2)


def draw_rand_augment(draws: Draws, n: int, m: float) -> tuple[Tensor, Tensor, Tensor]:
    """`n` operations per image at magnitude `m` of 10, as in `draw_auto_augment`."""
    operation = draws.integers(len(RAND_AUGMENT), n)
    return operation, torch.full(operation.shape, m / 10, dtype=torch.float64), draws.signs(n)


def draw_timm_rand_augment(draws: Draws, n: int, m: float, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """`n` operations of `TIMM` per image, each applied with chance 1/2, at a magnitude that is drawn around `m` of 10."""
    operation = 1 + draws.integers(len(TIMM) - 1, n)
    strength = ((m + deviation * draws.normal(n)) / 10).clamp_(0, 1)
    return operation * draws.chance(0.5, n), strength, draws.signs(n)


def apply_policy(images: Tensor, operations: Tensor, strengths: Tensor, signs: Tensor, space: Space = SPACE) -> Tensor:
    """Take uint8 `images` through the drawn operations [B, n], places in `space`, one column after the other."""
    functions = [operation for operation, _ in space.values()]
    for choice, strength, sign in zip(operations.T, strengths.T, signs.T, strict=True):
        candidates = torch.stack([parameter(strength, sign, images.shape[-1]) for _, parameter in space.values()])
        images = apply_each(images, choice, candidates.gather(0, choice[None])[0], functions)
    return images
