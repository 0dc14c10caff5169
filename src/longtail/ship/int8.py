"""Static quantisation of an ONNX graph to 8 bits, and what it costs: accuracy by shots before and after."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.images import ImageSet
from ..engine.description import Description
from ..engine.predictor import Predictor
from ..engine.score import open_images
from ..errors import UsageError
from ..evaluation.accuracy import Evaluator
from .runtime import Exported

CALIBRATION_IMAGES = 256


def quantise_and_measure(
    path: str | Path, predictor: Predictor, folder: Path, description: Description
) -> dict[str, Any]:
    """Replace the float32 graph in `folder` by one of int8, and score both on the run's test split (without one: "val").

    The ranges of activations are those of training images, as many of each class as can be. Returns the split, and the metrics
    and bytes of "float32" and "int8".
    """
    assert description.export is not None
    scored = open_images(path, training=True)
    file = folder / description.export.file
    before = _measure(Exported(folder, description), scored.images), file.stat().st_size
    train = scored.splits["train"]
    feeds = [predictor.prepare(train.read(int(i)))[None] for i in balanced(train.labels, CALIBRATION_IMAGES)]
    if not description.export.preprocess:
        feeds = [predictor.preprocess(feed) for feed in feeds]
    _quantise(file, feeds)
    after = _measure(Exported(folder, description), scored.images), file.stat().st_size
    (float32, float32_bytes), (int8, int8_bytes) = before, after
    return {
        "split": scored.split,
        "float32": float32,
        "int8": int8,
        "float32_bytes": float32_bytes,
        "int8_bytes": int8_bytes,
    }


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """`count` places, or all, as evenly over the classes as they can be: every class's first, then every second, ..."""
    order = labels.argsort(kind="stable")
    ordered = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return order[rank.argsort(kind="stable")[:count]]


def _measure(model: Exported, images: ImageSet, batch_size: int = 64) -> dict[str, Any]:
    from ..classes import Classes

    evaluator = Evaluator(Classes(model.description.classes, model.description.class_counts))
    prepared = ((label, model.prepare(images.read(i))) for i, label in enumerate(images.labels.tolist()))
    for labels, logits in model.scored(prepared, batch_size):
        evaluator.update(logits, torch.tensor(labels))
    return evaluator.compute()


def _quantise(file: Path, feeds: list[torch.Tensor]) -> None:
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UsageError(f"--int8 needs the package {error.name}: pip install 'longtail[export]'.") from error
    model = onnx.load(file)
    name = model.graph.input[0].name
    # Resizing and normalisation come before the first convolution, and stay exact.
    exact = [node.name for node in takewhile(lambda node: node.op_type != "Conv", model.graph.node)]
    if len(exact) == len(model.graph.node):
        exact = []

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[torch.Tensor] = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed = next(self.feeds, None)
            return None if feed is None else {name: feed.numpy()}

    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime advises through the root logger
    prepared = file.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(str(prepared), str(file), Reader(), per_channel=True, nodes_to_exclude=exact)
    prepared.unlink()
