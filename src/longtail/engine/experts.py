"""What is measured of methods with several experts beside their answer: each expert alone, routing, and SADE's aggregation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ..data.loaders import Loader
from ..data.streams import Stream
from ..evaluation.accuracy import Evaluator
from ..losses.sade import aggregate, learn_shares
from ..methods.base import Method

# The two views of SADE's aggregation, for images of up to 64 pixels as released, and for larger ones.
_COLOURS = "jitter:0.4:0.4:0.4:0.1:0.8,grey:0.2,blur:0.2,flip"
VIEWS = (f"crop:4,{_COLOURS}", f"resized_crop:0.2:1,{_COLOURS}")
BATCH = 128


@torch.inference_mode()
def evaluate_experts(method: Method, loader: Loader, batch_size: int) -> dict[str, Any] | None:
    """Metrics of each expert alone, and which share of the images used one expert, two, ... (None: all used all).

    None where the method has no experts. One pass over `loader`, on this process alone.
    """
    if method.expert_answers is None:
        return None
    method.eval()
    evaluators: list[Evaluator] = []
    images_by_used: Tensor | None = None
    for batch in loader.evaluation(batch_size):
        logits, used = method.expert_answers(batch.views[0])
        if not evaluators:
            evaluators = [Evaluator(method.classes).to(logits.device) for _ in range(logits.shape[1])]
        for evaluator, expert in zip(evaluators, logits.unbind(1), strict=True):
            evaluator.update(expert, batch.labels)
        if used is not None:
            here = torch.zeros(logits.shape[1], device=used.device).index_add_(
                0, used - 1, torch.ones_like(used).float()
            )
            images_by_used = here if images_by_used is None else images_by_used + here
    shares = None if images_by_used is None else (images_by_used / images_by_used.sum()).tolist()
    return {"alone": [evaluator.compute() for evaluator in evaluators], "used": shares}


def aggregate_experts(method: Method, loader: Loader, batch_size: int, seed: int = 0) -> dict[str, Any]:
    """SADE's test-time aggregation (Zhang et al., NeurIPS 2022, section 4.2): the experts' shares that two views of the
    loader's images agree on best, without their labels, and the metrics under these shares.

    Transductive: every image is looked at before the first is classified. `method` has several experts.
    """
    answers = method.expert_answers
    assert answers is not None
    method.eval()
    stream, epochs = Stream((VIEWS[loader.size > 64],) * 2), count()

    def epoch() -> Iterator[Tensor]:
        batch_size = min(BATCH, len(loader.labels))
        batches = loader.batches({"": stream}, batch_size=batch_size, seed=seed, epoch=next(epochs), last_batch="keep")
        for batch in batches:
            with torch.no_grad():
                views = [answers(view)[0] for view in batch[""].views]
            yield torch.stack(views)

    with torch.no_grad():
        first = next(iter(loader.evaluation(1))).views[0]
        shares = learn_shares(epoch, answers(first)[0].shape[1])
        evaluator = Evaluator(method.classes).to(first.device)
        for batch in loader.evaluation(batch_size):
            evaluator.update(aggregate(answers(batch.views[0])[0], shares.to(first.device)), batch.labels)
    return {"shares": shares.tolist(), "metrics": evaluator.compute()}
