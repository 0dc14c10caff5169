"""Scoring a trained model again: on its own held-out split, or on other images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..config import DataConfig
from ..data.images import ImageSet
from ..data.loaders import Loader
from ..data.sources import match_classes, open_source
from ..data.sources.splits import Reading
from ..errors import UsageError
from ..evaluation.geometry import geometry as measure_geometry
from ..evaluation.predictions import Predictions
from ..methods.base import Method
from .crops import evaluate_crops
from .deploy import Predictor, load
from .evaluate import evaluate
from .experts import aggregate_experts, evaluate_experts
from .prepare import build_split, check_native_size, images_of
from .run import Run
from .setup import set_precision


@dataclass(frozen=True)
class Scored:
    """A model, and the images it is judged on: those of `split`, one of `splits`."""

    predictor: Predictor
    splits: Mapping[str, ImageSet]
    split: str
    config: DataConfig
    fabric: Fabric

    @property
    def images(self) -> ImageSet:
        return self.splits[self.split]

    @cached_property
    def loader(self) -> Loader:
        return self.load(self.split)

    def load(self, split: str) -> Loader:
        """The images of a split, prepared as in training. Raises `UsageError` where their size is not the network's."""
        pixels = self.predictor.description.preprocessing
        self.splits[split].value_range = pixels.value_range
        loader = build_split(self.splits[split], self.config, self.fabric, pixels.channels, pixels.mean, pixels.std)
        check_native_size(loader, self.splits[split], pixels.image_size)
        return loader


def open_images(
    path: str | Path,
    *,
    data: str | None = None,
    split: str | None = None,
    training: bool = False,
    reading: Mapping[str, Any] | None = None,
) -> Scored:
    """The model of the run in `path` with the images of `data`, or else its own of `split` ("test" where there is one, else
    "val"); `training`: its training images besides. `reading`: how to read `data`, as `open_source` takes it. Raises as `score`
    does."""
    if data is not None and split is not None:
        raise UsageError("The images of --data are scored as they are: leave --split out.")
    given = Reading(**reading or {}).given()
    if given and data is None:
        options = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"How to read --data is said ({options}), but not --data: give both, or neither.")
    run = Run.open(path)
    fabric = Fabric(accelerator="auto", devices=1)  # not the run's, which this machine may lack
    predictor = load(path, fabric.device)
    predictor.check_classifies()
    splits: dict[str, ImageSet] = {}
    if data is None or training:
        subset = images_of(run)
        splits = {"train": subset.train, **subset.held_out}
    if data is not None:
        other = open_source(data, **reading or {})
        split, splits["data"] = "data", match_classes(other.to_score, predictor.classes, f"the model in {path}")
    split = split or ("test" if "test" in splits else "val")
    if split not in splits:
        raise UsageError(f"{path} has no split '{split}'; it has {', '.join(splits)}. Give other images with --data.")
    return Scored(predictor, splits, split, run.config().data, fabric)


def score(
    path: str | Path,
    *,
    data: str | None = None,
    split: str | None = None,
    geometry: bool = False,
    aggregate: bool = False,
    crops: bool = False,
    batch_size: int = 256,
    **reading: Any,
) -> dict[str, Any]:
    """Metrics of the run in `path` on `split` ("test" where there is one, else "val"), or on the images of `data`.

    Of a method with several experts, also each expert's, as `experts`; with `aggregate`, also those under SADE's
    transductive protocol, as `aggregated`: see `experts`. With `crops`, also those of the mean over five crops, as
    `five_crops`: see `crops`.

    Besides come "intervals" of the mean accuracies, the "worst" classes and the commonest "confusions": see
    `Predictions.mistakes`.

    With `data` the run's own images are not needed, unless `geometry` asks for the training images' features too. `reading`:
    how to read `data`, as `open_source` takes it. Raises `UsageError` for a split that the run does not have, images of other
    classes, or where the run's own images have changed.
    """
    scored = open_images(path, data=data, split=split, training=geometry, reading=reading)
    method = scored.predictor.method
    if aggregate and method.expert_answers is None:
        raise UsageError("--aggregate weighs the experts of methods that have several, such as sade; this run has one.")
    set_precision(method, Run.open(path).config().train, scored.predictor.device)
    metrics, mistakes = _judge(scored, batch_size)
    result = {
        "run": str(path),
        "source": scored.images.name,
        "split": scored.split,
        "images": len(scored.images),
        "classes": list(scored.predictor.classes),
        "class_counts": list(scored.predictor.description.class_counts),
        "metrics": metrics,
        **mistakes,
    }
    if (experts := evaluate_experts(method, scored.loader, batch_size)) is not None:
        result["experts"] = experts
    if aggregate:
        result["aggregated"] = aggregate_experts(method, scored.loader, batch_size)
    if crops:
        result["five_crops"] = evaluate_crops(method, scored.images, scored.loader, batch_size)
    if geometry:
        measured = {"train": scored.load("train"), scored.split: scored.loader}
        result["geometry"] = {name: _geometry(method, images, batch_size) for name, images in measured.items()}
    return result


def _judge(scored: Scored, batch_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics, and which classes fare worst and are taken for which."""
    method = scored.predictor.method
    seen: list[Tensor] = []
    metrics = evaluate(
        method,
        scored.loader,
        batch_size,
        lambda _, labels, logits: seen.append(torch.stack([labels, logits.argmax(1)])),
    )
    labels, predicted = torch.cat(seen, 1).cpu().numpy()
    nothing = np.empty(0)
    judged = Predictions(method.classes, scored.split, [], labels, predicted, nothing, nothing, None)
    return metrics, judged.mistakes()


def _geometry(method: Method, loader: Loader, batch_size: int) -> dict[str, Any]:
    features = _Features(method, loader, batch_size)
    return measure_geometry(features, *method.classifier_rows(), method.classes.shots)


class _Features:
    """Features and labels of a loader's images, computed anew each time they are gone through."""

    def __init__(self, method: Method, loader: Loader, batch_size: int) -> None:
        self.method, self.loader, self.batch_size = method, loader, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with torch.inference_mode():
            for batch in self.loader.evaluation(self.batch_size):
                yield self.method.features(batch.views[0]), batch.labels
