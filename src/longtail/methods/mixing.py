"""Images mixed of two, and their labels, as any method on one view may have them: `MixOptions` and `mix`.

MixUp (Zhang et al., ICLR 2018), CutMix (Yun et al., ICCV 2019), Remix (Chou et al., ECCV workshops 2020) mix an image with
another of its batch; CMO (Park et al., CVPR 2022) pastes a part of an image drawn class-balanced.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..data.mixing import area_left, cutmix, draw_cutmix_box, draw_lambda, mixup, remix_share
from ..data.ops import send
from ..distributed import all_gather_with_grad, world
from .base import Batch, Clock, Options, Stream
from .options import refuse_idle

logger = logging.getLogger("longtail")

Mix = Literal["none", "mixup", "cutmix", "remix", "remix_cutmix", "cmo"]
_BOXES = ("cutmix", "remix_cutmix", "cmo")
_REMIX = ("remix", "remix_cutmix")


class MixOptions(Options):
    mix: Mix = Field("none", description="mix pairs of images and their labels")
    mix_alpha: float = Field(1.0, gt=0, description="lambda is drawn from Beta(alpha, alpha), once a batch")
    mix_prob: float | None = Field(
        None, ge=0, le=1, description="share of batches that are mixed (default: 1; 0.5 with cutmix and cmo)"
    )
    mix_pause: int | None = Field(
        None, ge=0, description="mixed in epochs p < e < E - p, from 0 (default: 3 with cmo; with others, in all)"
    )
    remix_kappa: float = Field(3.0, ge=1, description="remix: counts that differ by this factor move the label")
    remix_tau: float = Field(0.5, ge=0, le=1, description="remix: of a class that has less than this of the image")
    foreground_q: float = Field(1.0, description="cmo: pasted images are drawn in proportion to 1 / n_c^q")

    @model_validator(mode="after")
    def _mixing_options_have_something_to_mix(self) -> MixOptions:
        others = {"remix_kappa": _REMIX, "remix_tau": _REMIX, "foreground_q": ("cmo",)}
        mixed = {"mix_alpha": (), "mix_prob": (), "mix_pause": ()} if self.mix == "none" else {}
        refuse_idle(self, "mix", {name: users for name, users in others.items() if self.mix not in users} | mixed)
        return self


@dataclass(frozen=True)
class Mixed:
    """A batch as the network sees it. `images`: float [B, C, H, W]; `labels`: int64 [B], or [B, 2] with `shares` float [B, 2]."""

    images: Tensor
    labels: Tensor
    shares: Tensor | None = None


def mix_streams(options: MixOptions, augment: str) -> dict[str, Stream]:
    """The stream that a mixing needs beside "main": CMO's foreground."""
    if options.mix != "cmo":
        return {}
    return {"foreground": Stream((augment,), sampler="power", q=options.foreground_q)}


def mix(options: MixOptions, batch: Mapping[str, Batch], clock: Clock, counts: Tensor) -> Mixed:
    """The first views of "main", mixed as `options` say. `counts`: [C], training images of each class."""
    main = batch["main"]
    images, labels = main.views[0], main.labels
    if not _is_on(options, clock):
        return Mixed(images, labels)
    lam = draw_lambda(options.mix_alpha, clock.generator)
    if options.mix == "cmo":
        others, other_labels = batch["foreground"].views[0], batch["foreground"].labels
    else:
        others, other_labels = _partners(images, labels, clock)
    if options.mix in _BOXES:
        height, width = images.shape[2:]
        box = draw_cutmix_box(lam, height, width, clock.generator, "floor")
        images, lam = cutmix(images, others, box), area_left(box, height, width)
    else:
        images = mixup(images, others, lam)
    if options.mix in _REMIX:
        own = remix_share(counts[labels], counts[other_labels], lam, options.remix_kappa, options.remix_tau)
    else:
        own = send(torch.tensor(lam), labels.device).expand(len(labels))
    return Mixed(images, torch.stack((labels, other_labels), 1), torch.stack((own, 1 - own), 1))


def _partners(images: Tensor, labels: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """For each image another of the batch, in random order. Of the whole batch: several processes mix as one would."""
    rank, size = world()
    order = torch.randperm(size * len(labels), generator=clock.generator)
    own = send(order[rank * len(labels) : (rank + 1) * len(labels)], labels.device)
    return all_gather_with_grad(images)[own], all_gather_with_grad(labels)[own]


def warn_if_never_on(options: MixOptions, epochs: int) -> None:
    """Say so where no epoch of the stage is one that is mixed."""
    pause = _pause(options)
    if options.mix != "none" and pause is not None and epochs <= 2 * pause + 1:
        logger.warning(
            "mix=%s is off in every one of the %d epochs: only those after epoch %d and before the last %d are mixed. "
            "Give --set mix_pause=0, or train longer.", options.mix, epochs, pause + 1, pause,
        )  # fmt: skip


def _pause(options: MixOptions) -> int | None:
    return 3 if options.mix == "cmo" and options.mix_pause is None else options.mix_pause


def _is_on(options: MixOptions, clock: Clock) -> bool:
    """Whether this batch is mixed."""
    if options.mix == "none":
        return False
    pause = _pause(options)
    if pause is not None and not pause < clock.epoch < clock.epochs - pause:
        return False
    prob = (0.5 if options.mix in ("cutmix", "cmo") else 1.0) if options.mix_prob is None else options.mix_prob
    return float(torch.rand((), generator=clock.generator)) < prob
