"""One pass over a held-out set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..data.loaders import Loader
from ..evaluation.accuracy import Evaluator
from ..methods.base import Method


@torch.inference_mode()
def evaluate(
    method: Method,
    loader: Loader,
    batch_size: int,
    flip: bool = False,
    seen: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> dict[str, Any]:
    """Metrics of `method` on every image of `loader`, gathered over processes.

    `flip` averages the logits of each image and its mirror (part of some authors' protocol, never the headline).
    `seen` is handed each batch's index [B], labels [B] and logits [B, C] on this process.
    """
    training = method.training
    method.eval()
    method.before_evaluation()
    evaluator = Evaluator(method.classes).to(next(method.parameters()).device)
    for batch in loader.evaluation(batch_size):
        images = batch.views[0]
        logits = method.logits(images)
        if flip:
            logits = (logits + method.logits(images.flip(-1))) / 2
        evaluator.update(logits, batch.labels)
        if seen is not None:
            seen(batch.index, batch.labels, logits)
    method.train(training)
    evaluator.reduce()
    return evaluator.compute()
