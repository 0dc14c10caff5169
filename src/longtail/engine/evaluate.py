"""One pass over a held-out set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.loaders import Loader
from ..data.workers import telling_of_dead_workers
from ..evaluation.accuracy import Evaluator
from ..methods.base import Method

Seen = Callable[[Tensor, Tensor, Tensor], None]


def evaluate(method: Method, loader: Loader, batch_size: int, seen: Seen | None = None) -> dict[str, Any]:
    """Metrics of `method` on every image of `loader`, gathered over processes.

    `seen` is handed each batch's index [B], labels [B] and logits [B, C] on this process.
    """
    return _evaluate(method, loader, batch_size, seen=seen)[0]


def evaluate_flipped(method: Method, loader: Loader, batch_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same, and with the logits of each image and its mirror averaged (part of some authors' protocol, never the
    headline)."""
    plain, flipped = _evaluate(method, loader, batch_size, flip=True)
    return plain, flipped


@telling_of_dead_workers()
@torch.inference_mode()
def _evaluate(
    method: Method, loader: Loader, batch_size: int, flip: bool = False, seen: Seen | None = None
) -> list[dict[str, Any]]:
    training = method.training
    method.eval()
    method.before_evaluation()
    device = next(method.parameters()).device
    evaluators = [Evaluator(method.classes).to(device) for _ in range(1 + flip)]
    for batch in loader.evaluation(batch_size):
        images = batch.views[0]
        logits = method.logits(images)
        evaluators[0].update(logits, batch.labels)
        if flip:
            evaluators[1].update((logits + method.logits(images.flip(-1))) / 2, batch.labels)
        if seen is not None:
            seen(batch.index, batch.labels, logits)
    method.train(training)
    for evaluator in evaluators:
        evaluator.reduce()
    return [evaluator.compute() for evaluator in evaluators]


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of an evaluation: what a line of metrics.jsonl holds."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
