"""Scoring a trained model again: on its own held-out split, or on other images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..data.images import ImageSet
from ..data.loaders import Loader
from ..data.sources import match_classes, open_source
from ..errors import UsageError
from ..evaluation.geometry import geometry as measure_geometry
from ..methods.base import Method
from .deploy import load
from .evaluate import evaluate
from .prepare import build_split, check_native_size, images_of
from .run import Run
from .setup import set_precision


def score(
    path: str | Path,
    *,
    data: str | None = None,
    root: str | None = None,
    split: str | None = None,
    geometry: bool = False,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Metrics of the run in `path` on `split` ("test" where there is one, else "val"), or on the images of `data`.

    With `data` (and `root`, see `open_source`) the run's own images are not needed, unless `geometry` asks for the training
    images' features too. Raises `UsageError` for a split that the run does not have, images of other classes, or where the
    run's own images have changed.
    """
    if data is not None and split is not None:
        raise UsageError("The images of --data are scored as they are: leave --split out.")
    if root is not None and data is None:
        raise UsageError("--root says where the files of --data are: give both, or neither.")
    run = Run.open(path)
    config = run.config()
    fabric = Fabric(accelerator="auto", devices=1)  # not the run's, which this machine may lack
    predictor = load(path, fabric.device)
    predictor.check_classifies()
    pixels = predictor.description.preprocessing
    splits: dict[str, ImageSet] = {}
    if data is None or geometry:
        subset = images_of(run)
        splits = {"train": subset.train, **subset.held_out}
    if data is not None:
        other = open_source(data, root=root)
        split, splits["data"] = "data", other.test or other.train
        match_classes(splits["data"], predictor.classes, f"the model in {path}")
    split = split or ("test" if "test" in splits else "val")
    if split not in splits:
        raise UsageError(f"{path} has no split '{split}'; it has {', '.join(splits)}. Give other images with --data.")

    def loader(name: str) -> Loader:
        splits[name].value_range = pixels.value_range
        return build_split(splits[name], config.data, fabric, pixels.channels, pixels.mean, pixels.std)

    scored = loader(split)
    check_native_size(scored, splits[split], pixels.image_size)
    method = predictor.method
    set_precision(method, config.train, fabric.device)
    result = {
        "run": str(path),
        "source": splits[split].name,
        "split": split,
        "images": len(splits[split]),
        "classes": list(predictor.classes),
        "class_counts": list(predictor.description.class_counts),
        "metrics": evaluate(method, scored, batch_size),
    }
    if geometry:
        measured = {"train": loader("train"), split: scored}
        result["geometry"] = {name: _geometry(method, images, batch_size) for name, images in measured.items()}
    return result


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
