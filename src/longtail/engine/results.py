"""The end of a run: final scores, predictions and the deployable model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..classes import Classes
from ..config import Config
from ..data.images import ImageSet
from ..data.preprocessing import Preprocessing
from ..distributed import world
from ..evaluation.predictions import MOST_LOGITS, condense
from ..evaluation.predictions import write as write_predictions
from ..methods.base import Method
from ..models.backbone import given_images
from ..models.build import ADAPTER
from .deploy import FORMAT, Description, save_model
from .evaluate import evaluate
from .prepare import Loaders, Subset
from .run import Run, write_json

PROTOCOL = "last epoch, no test-time augmentation"


def deployed_parameters(method: Method) -> int:
    """Parameters of the parts that predict."""
    named = method.named_parameters(remove_duplicate=False)
    return sum({id(parameter): parameter.numel() for name, parameter in named if method.deploys(name)}.values())


def write_results(
    config: Config, run: Run, method: Method, loaders: Loaders, subset: Subset, progress: Mapping[str, Any]
) -> dict[str, Any]:
    """Score the final weights, write predictions, model and results.json, and return the results."""
    adapter = method.backbone.adapter
    description = Description(
        format=FORMAT,
        method=config.method,
        options=config.options,
        backbone=config.backbone + (f"{ADAPTER}{adapter}" if adapter else ""),
        classes=loaders.classes.names if config.class_names else tuple(map(str, range(len(loaders.classes)))),
        class_counts=loaders.classes.counts,
        preprocessing=loaders.preprocessing,
        parameters=deployed_parameters(method),
    )
    is_main = world()[0] == 0
    if is_main:
        save_model(run.path, method, description)
    split = "test" if "test" in loaders.held_out else "val"
    metrics = None
    if split in loaders.held_out:
        metrics = _score(config, run, method, loaders, subset.held_out[split], split)
    results = {
        "method": config.method,
        "backbone": config.backbone,
        "parameters": description.parameters,
        "multiply_adds": multiply_adds(method, loaders.preprocessing),
        "seed": config.seed,
        "data": dict(subset.description),
        "skipped_images": loaders.skipped,
        "epochs": progress["lines"],
        "split": split,
        "protocol": PROTOCOL,
        "metrics": metrics,
        "authors_protocol": progress["best"] or None,
        "seconds": round(progress["seconds"], 1),
    }
    if is_main:
        write_json(run.results_file, results)
    return results


def multiply_adds(method: Method, pixels: Preprocessing) -> int:
    """Of what is deployed, for one image: those of convolutions and matrix products, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    training = method.training
    method.eval()
    image = next(method.parameters()).new_zeros(1, pixels.channels, pixels.image_size, pixels.image_size)
    predict = method.logits if method.classifies() else method.features
    eager = torch.compiler.set_stance("force_eager")
    with torch.inference_mode(), eager, given_images(method.backbones()), FlopCounterMode(display=False) as counter:
        predict(image)
    method.train(training)
    return counter.get_total_flops() // 2


def _score(config: Config, run: Run, method: Method, loaders: Loaders, images: ImageSet, split: str) -> dict[str, Any]:
    """Metrics on the held-out `images`, and predictions.parquet, gathered over processes."""
    seen: list[dict[str, Tensor]] = []
    keep_logits = len(images) * len(loaders.classes) <= MOST_LOGITS

    def keep(index: Tensor, labels: Tensor, logits: Tensor) -> None:
        seen.append(condense(index, labels, logits, keep_logits))

    metrics = evaluate(method, loaders.held_out[split], config.train.batch_size, seen=keep)
    rank, size = world()
    if size > 1:
        gathered: list[list[dict[str, Tensor]]] = [seen] * size
        torch.distributed.all_gather_object(gathered, seen)
        seen = list(chain.from_iterable(gathered))
    if rank == 0:
        rows = {name: torch.cat([batch[name] for batch in seen]).cpu().numpy() for name in seen[0]}
        order = rows["index"].argsort(kind="stable")
        rows = {name: values[order] for name, values in rows.items()}
        keys = [images.key(int(i)) for i in rows["index"]]
        classes = Classes(images.class_names, loaders.classes.counts)
        write_predictions(run.predictions_file, rows, keys, classes, split)
    return metrics
