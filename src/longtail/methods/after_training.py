"""What second stages without training share: what is predicted is made of the classifier, the counts or the class means."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributed import all_gather_with_grad
from .base import Passes, Stage, Stream
from .second_stage import SecondStage

logger = logging.getLogger("longtail")


class AfterTraining(SecondStage):
    """A stage of no epochs: all is done as it begins."""

    def stage(self, augment: str) -> Stage:
        held_out = getattr(self, "tau", 0.0) is None  # to be chosen
        return Stage(self.name, {"main": Stream((augment,))}, trains=(), held_out=held_out, optim={"epochs": 0})


def each_image(method: Any, batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [B, D] and labels [B] of batches of images."""
    for batch in batches:
        yield method.features(batch.views[0]), batch.labels


def over_processes(total: Tensor) -> Tensor:
    """The sum of each process's `total`."""
    return all_gather_with_grad(total[None]).sum(0)


def best_on_held_out(
    method: Any, name: str, images: Passes, values: Sequence[float], scores: Callable[[Tensor, float], Tensor]
) -> float:
    """The one of `values` whose `scores(features, value)` [B, C] predict held-out images best: by the mean over classes of
    each class's accuracy."""
    hits = torch.zeros(len(values), len(method.classes), device=method.counts.device)
    seen = torch.zeros_like(hits[0])
    for features, labels in each_image(method, images.held_out()):
        for hit, value in zip(hits, values, strict=True):
            hit.index_add_(0, labels, (scores(features, value).argmax(1) == labels).to(hit.dtype))
        seen.index_add_(0, labels, torch.ones_like(labels, dtype=seen.dtype))
    hits, seen = over_processes(hits), over_processes(seen)
    means = (hits / seen.clamp(min=1)).sum(1) / (seen > 0).sum()
    best = values[int(means.argmax())]
    logger.info(
        "%s: tau = %g is best on the %d images held out of training: %.2f %% over classes",
        name, best, int(seen.sum()), 100 * means.max(),
    )  # fmt: skip
    return best
