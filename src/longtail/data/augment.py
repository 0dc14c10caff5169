"""Augmentation of a batch on its device, with parameters drawn per image, written as a string.

A spec is a list of operations and their arguments, ``"crop:4,flip,autoaugment:cifar10,cutout:16"``, or the name of a
policy, ``"simaugment"``. Operations: ``crop:padding:fill``, ``resized_crop:low:high``, ``flip:prob``,
``rotation:degrees``, ``jitter:brightness:contrast:saturation:hue:prob``, ``grey:prob``, ``blur:prob:low:high``,
``autoaugment:cifar10:form``, ``randaugment:n:m``,
``timm_randaugment:n:m:deviation`` and ``cutout:length:fill`` (which comes last). Arguments with a default can be left out.

All parameters are drawn on the CPU from the generator that is passed in: the same spec, generator state and batch size
give the same parameters on every device, and nothing waits for the device. The batches of several steps can be taken
through together, each with its own generator: a GPU is then asked for as many operations as for one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError, unknown_name
from . import ops
from .draws import Draws
from .policies import (
    RELEASED,
    SPACE,
    TIMM,
    apply_each,
    apply_policy,
    draw_auto_augment,
    draw_rand_augment,
    draw_timm_rand_augment,
)

# name: (spec up to 64 pixels, spec above). Padding mirrors the image: black pixels, as the papers' recipes have them, halve the
# accuracy on images with a white border.
POLICIES = {
    "none": ("", ""),
    "weak": ("crop:4:reflect,flip", "resized_crop,flip"),
    "autoaugment_cutout": ("crop:4:reflect,flip,autoaugment:cifar10,cutout:16",) * 2,
    "simaugment": (
        "resized_crop:0.2:1,flip,jitter:0.4:0.4:0.4:0.1:0.8,grey:0.2",
        "resized_crop:0.2:1,flip,jitter:0.4:0.4:0.4:0.1:0.8,grey:0.2,blur:0.5",
    ),
    "randaugment": ("resized_crop,flip,randaugment:2:10",) * 2,
    "ride": ("crop:4:reflect,flip,rotation:15", "resized_crop,flip,jitter:0.4:0.4:0.4:0"),
    "glmc_imagenet": ("resized_crop,flip,jitter:0.4:0.4:0.4:0,grey:0.2,blur:0.5",) * 2,
}


class Op:
    """One step of a spec. Its dataclass fields are its arguments."""

    crops: ClassVar[bool] = False  # turns images of any size into size x size

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        """uint8 [B, C, H, W] -> the same, or uint8 [B, C, size, size] where the operation crops."""
        raise NotImplementedError


@dataclass(frozen=True)
class Crop(Op):
    """A random window of the image after adding `padding` pixels on every side: "black", as the papers do, or "reflect",
    the image mirrored, which is no step in brightness where the background is not black."""

    crops: ClassVar[bool] = True
    padding: int
    fill: str = "black"

    FILLS: ClassVar[tuple[str, ...]] = ("black", "reflect")

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        top, left = (draws.integers(side + 2 * self.padding - size + 1) for side in images.shape[-2:])
        if self.fill == "reflect":
            return ops.crop(images, top - self.padding, left - self.padding, size)
        return ops.crop(torch.nn.functional.pad(images, (self.padding,) * 4), top, left, size)


@dataclass(frozen=True)
class ResizedCrop(Op):
    """A box of `low` to `high` of the image's area and aspect ratio 3/4 to 4/3, resized (Szegedy et al., CVPR 2015)."""

    crops: ClassVar[bool] = True
    low: float = 0.08
    high: float = 1.0

    ATTEMPTS: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 1:
            raise UsageError(f"resized_crop:{self.low}:{self.high}: expected 0 < low <= high <= 1, shares of the area.")

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        boxes = self.boxes(self.draw(draws), *images.shape[-2:])
        return ops.resized_crop(images, boxes, size)

    def draw(self, draws: Draws) -> Tensor:
        """Ten candidates per image, float64 [B, 10, 4]: share of the area, aspect ratio, and place in 0..1 of the free
        rows and columns. They do not depend on the image's size, so a decoder can look at them before it knows it."""
        drawn = draws.uniform(self.ATTEMPTS, 4)
        drawn[..., 0] = self.low + (self.high - self.low) * drawn[..., 0]
        drawn[..., 1] = (4 / 3) ** (2 * drawn[..., 1] - 1)
        return drawn

    def boxes(self, drawn: Tensor, height: int, width: int) -> Tensor:
        """The first candidate that fits into an image, or its middle: int64 [B, 4] of (top, left, height, width)."""
        # NumPy's calls cost a fraction of PyTorch's, and a streaming worker comes here for each image
        area, ratio, row, column = np.moveaxis(drawn.numpy(), 2, 0)
        high = np.sqrt(height * width * area / ratio).round()
        wide = np.sqrt(height * width * area * ratio).round()
        fits = (high > 0) & (wide > 0) & (high <= height) & (wide <= width)
        candidates = np.stack((row * (height - high + 1), column * (width - wide + 1), high, wide), 2).astype(np.int64)
        boxes = candidates[np.arange(len(fits)), fits.argmax(1)]
        whole_high, whole_wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
        whole = ((height - whole_high) // 2, (width - whole_wide) // 2, whole_high, whole_wide)
        return torch.from_numpy(np.where(fits.any(1, keepdims=True), boxes, whole))


@dataclass(frozen=True)
class Flip(Op):
    prob: float = 0.5

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return ops.flip(images, draws.chance(self.prob))


@dataclass(frozen=True)
class Rotation(Op):
    """By up to `degrees` to either side around the centre, to the nearest pixel; black where the image ends."""

    degrees: float

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return ops.rotate(images, draws.uniform(low=-self.degrees, high=self.degrees), fill=0)


@dataclass(frozen=True)
class Jitter(Op):
    """With chance `prob`, brightness, contrast, saturation and hue in an order of each image's own.

    The first three get a factor from 1 - x to 1 + x, the hue a turn from -x to x of the colour circle.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    prob: float = 1.0

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [draws.uniform(low=max(0.0, 1 - x), high=1 + x) for x in strengths]
        factors.append(draws.uniform(low=-self.hue, high=self.hue))
        values = torch.stack(factors)
        order = draws.uniform(4).argsort(1).T
        chosen = draws.chance(self.prob)
        functions = (ops.brightness, ops.contrast, ops.colour, ops.hue if self.hue else None, None)
        for choice in order:
            value = values.gather(0, choice[None])[0]
            images = apply_each(images, choice.where(chosen, 4), value, functions)
        return images


@dataclass(frozen=True)
class Grey(Op):
    prob: float

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        chosen = draws.chance(self.prob)
        return apply_each(images, chosen.long(), torch.zeros(len(images)), (None, ops.colour))


@dataclass(frozen=True)
class Blur(Op):
    """With chance `prob`, a Gaussian blur of standard deviation `low` to `high` pixels (Chen et al., MoCo v2, 2020)."""

    prob: float = 0.5
    low: float = 0.1
    high: float = 2.0

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        chosen = draws.chance(self.prob)
        sigmas = draws.uniform(low=self.low, high=self.high)
        reach = round(3 * self.high)
        return apply_each(images, chosen.long(), sigmas, (None, lambda x, sigma: ops.gaussian_blur(x, sigma, reach)))


@dataclass(frozen=True)
class AutoAugment(Op):
    """One of 25 pairs of operations (Cubuk et al., CVPR 2019), as in the "paper" or as in the code of BCE3S ("released"):
    see `policies.RELEASED`."""

    policy: str = "cifar10"
    form: str = "paper"

    FORMS: ClassVar[tuple[str, ...]] = ("paper", "released")

    def __post_init__(self) -> None:
        if self.policy != "cifar10":
            raise unknown_name("AutoAugment policy", self.policy, ["cifar10"])
        if self.form not in self.FORMS:
            raise unknown_name("form of AutoAugment", self.form, self.FORMS)

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return apply_policy(images, *draw_auto_augment(draws), SPACE if self.form == "paper" else RELEASED)


@dataclass(frozen=True)
class RandAugment(Op):
    """`n` random operations at magnitude `m` of 10 (Cubuk et al., NeurIPS 2020)."""

    n: int
    m: float

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return apply_policy(images, *draw_rand_augment(draws, self.n, self.m))


@dataclass(frozen=True)
class TimmRandAugment(Op):
    """`n` random operations, each applied with chance 1/2, at a magnitude drawn around `m` of 10 with this `deviation`: see
    `policies.TIMM`."""

    n: int
    m: float
    deviation: float = 0.5

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return apply_policy(images, *draw_timm_rand_augment(draws, self.n, self.m, self.deviation), TIMM)


@dataclass(frozen=True)
class Cutout(Op):
    """A square of `length` pixels around a random centre is set to the "mean" (DeVries & Taylor, 2017), or to "black" as
    in the code of BCE3S and PaCo: the one operation that, with the mean, works on normalised images."""

    length: int
    fill: str = "mean"

    FILLS: ClassVar[tuple[str, ...]] = ("mean", "black")

    def __call__(self, images: Tensor, size: int, draws: Draws) -> Tensor:
        return ops.cutout(images, draws.integers(size, 2), self.length)


OPS: dict[str, type[Op]] = {
    "crop": Crop,
    "resized_crop": ResizedCrop,
    "flip": Flip,
    "rotation": Rotation,
    "jitter": Jitter,
    "grey": Grey,
    "blur": Blur,
    "autoaugment": AutoAugment,
    "randaugment": RandAugment,
    "timm_randaugment": TimmRandAugment,
    "cutout": Cutout,
}


def parse(spec: str, size: int) -> list[Op]:
    """The operations that `spec` means for images of `size` pixels.

    Raises `UsageError` for an unknown name, or arguments of the wrong number, type or range.
    """
    if spec in POLICIES:
        spec = POLICIES[spec][size > 64]
    parsed = [_parse_op(item.strip(), spec) for item in spec.split(",")] if spec.strip() else []
    if any(isinstance(op, Cutout) and op.fill == "mean" for op in parsed[:-1]):
        raise UsageError(f"Augmentation '{spec}': cutout works on normalised images, so it must be the last operation.")
    for op in parsed:
        if isinstance(op, (Crop, Cutout)) and op.fill not in op.FILLS:
            raise unknown_name(f"fill in augmentation '{spec}'", op.fill, op.FILLS)
        pixels = op.padding if isinstance(op, Crop) else op.high if isinstance(op, Blur) else 0
        if pixels > size:
            raise UsageError(f"Augmentation '{spec}': {pixels:g} pixels are more than an image of {size} x {size} has.")
    return parsed


def _parse_op(item: str, spec: str) -> Op:
    name, *arguments = item.split(":")
    if name not in OPS:
        if name in POLICIES:
            raise UsageError(
                f"Augmentation '{spec}': '{name}' is a whole policy: give it alone, or list operations instead."
            )
        raise unknown_name("augmentation", name, {*OPS, *POLICIES})
    expected = fields(OPS[name])  # type: ignore[arg-type]
    required = sum(field.default is MISSING for field in expected)
    form = ":".join([name, *(f"{f.name}" if f.default is MISSING else f"[{f.name}]" for f in expected)])
    if not required <= len(arguments) <= len(expected):
        raise UsageError(f"Augmentation '{item}' in '{spec}' has {len(arguments)} arguments; expected {form}.")
    values = []
    for field, text in zip(expected, arguments, strict=False):
        try:
            values.append({"int": int, "float": float, "str": str}[str(field.type)](text))
        except ValueError:
            raise UsageError(
                f"Augmentation '{item}' in '{spec}': {field.name} is '{text}', expected {field.type} ({form})."
            ) from None
        most = 1 if field.name == "prob" else 1_000_000
        if field.type != "str" and not 0 <= values[-1] <= most:  # so that NaN is refused too
            raise UsageError(f"Augmentation '{item}' in '{spec}': {field.name} is {text}; expected 0 to {most:,}.")
    return OPS[name](*values)


class Augment:
    """A spec at work. `mean` and `std` have one entry per channel, in units of 0..1.

    Images larger than `size` are cropped to their middle first where the spec has no crop of its own.
    """

    def __init__(self, spec: str, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        """Raises `UsageError` where the spec cannot be understood."""
        self.spec, self.ops = spec, parse(spec, size)
        last = self.ops[-1] if self.ops else None
        self.cutout = self.ops.pop() if isinstance(last, Cutout) and last.fill == "mean" else None
        self.normalise = Normalise(mean, std)
        self.size = size

    def __call__(self, images: Tensor, *generators: torch.Generator) -> Tensor:
        """uint8 [B, C, H, W] -> normalised float32 [B, C, size, size].

        `generators` live on the CPU; where there are several, the images are as many equal parts, see `Draws`.
        """
        draws = Draws(len(images), *generators)
        if not any(op.crops for op in self.ops):
            images = ops.centre_crop(images, self.size)
        for op in self.ops:
            images = op(images, self.size, draws)
        out = self.normalise(images)
        return out if self.cutout is None else self.cutout(out, self.size, draws)

    def without_first(self) -> Augment:
        """The same without the first operation, for a loader that crops while decoding."""
        rest = copy.copy(self)
        rest.ops = self.ops[1:]
        return rest


class Normalise:
    """uint8 [B, C, H, W] -> float32 ``(images / 255 - mean) / std``, per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 1) for x in (mean, std))

    def __call__(self, images: Tensor) -> Tensor:
        if self.mean.device != images.device:
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
