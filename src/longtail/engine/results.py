"""The end of a run: final scores, predictions and the deployable model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data.images import ImageSet
from ..files import write_atomically
from ..losses.distributed import world
from ..methods.base import Method
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
    description = Description(
        format=FORMAT,
        method=config.method,
        options=config.options,
        backbone=config.backbone,
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
        seen: list[Tensor] = []
        metrics = evaluate(
            method, loaders.held_out[split], config.train.batch_size, seen=lambda *batch: seen.append(_condense(*batch))
        )
        _write_predictions(run, subset.held_out[split], torch.cat(seen).cpu())
    results = {
        "method": config.method,
        "backbone": config.backbone,
        "parameters": description.parameters,
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


def _condense(index: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    """What is kept of each prediction, float64 [B, 5]: index, label, best class, its probability, the label's."""
    probabilities = logits.double().softmax(1)
    best, prediction = probabilities.max(1)
    return torch.stack([index, labels, prediction, best, probabilities.gather(1, labels[:, None])[:, 0]], dim=1)


def _write_predictions(run: Run, images: ImageSet, rows: Tensor) -> None:
    """Write predictions.parquet, one row an image in the split's order, gathered over processes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rank, size = world()
    if size > 1:
        gathered: list[Tensor] = [rows] * size
        torch.distributed.all_gather_object(gathered, rows)
        rows = torch.cat(gathered)
    if rank != 0:
        return
    index, label, prediction, probability, label_probability = rows[rows[:, 0].argsort(stable=True)].numpy().T
    names = pa.array(images.class_names)
    table = pa.table(
        {
            "image": [images.key(int(i)) for i in index],
            "label": names.take(pa.array(label.astype("int64"))),
            "prediction": names.take(pa.array(prediction.astype("int64"))),
            "probability": probability,
            "label_probability": label_probability,
        }
    )
    write_atomically(run.predictions_file, lambda temporary: pq.write_table(table, temporary))
