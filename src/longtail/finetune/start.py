"""The classifier's start, from a pass over the training images: see `models.starts`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..methods.base import Method, Passes
from ..models.starts import ClassStatistics, read_text_rows, start_classifier

logger = logging.getLogger("longtail")
TEXT = "text:"


@torch.inference_mode()
def start(method: Method, kind: str, images: Passes) -> None:
    """Let the method's classifier start as `finetune.start` says. Raises `UsageError` where it has no such classifier."""
    if kind == "random":
        return
    classifier: Any = getattr(method, "classifier", None)
    if getattr(classifier, "weight", None) is None:
        raise UsageError(
            f"finetune.start={kind} sets the rows of a method's one classifier, and {type(method).__name__} has none: leave "
            "it at random."
        )
    rows, statistics = None, None
    if kind.startswith(TEXT):
        rows = read_text_rows(Path(kind.removeprefix(TEXT)), method.classes.names, method.backbone.dim)
    elif kind != "zero":
        statistics = ClassStatistics(len(method.classes), method.backbone.dim, classifier.weight.device)
        for batch in images.training():
            statistics.update(method.features(batch.views[0]), batch.labels)
        statistics.reduce()
    start_classifier(classifier, kind, statistics, rows)
    logger.info("the classifier starts from %s", kind.replace("_", " "))
