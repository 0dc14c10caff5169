"""Predicting files: found, decoded and written as a stream, so that a million of them need no more memory than one batch."""

from __future__ import annotations

import csv
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from torch import Tensor

from .data.decode import CorruptImage
from .data.sources.folder import SUFFIXES
from .engine.deploy import Prediction, Predictor
from .errors import UsageError
from .files import write_atomically

logger = logging.getLogger("longtail")


def find_images(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file given, and each image file below each folder given, in a fixed order.

    Raises `UsageError` for a path that does not exist, and for folders without any image.
    """
    for path in paths:
        if path.is_dir():
            empty = True
            for image in _below(path):
                empty = False
                yield image
            if empty:
                raise UsageError(f"{path} holds no images (files named {', '.join(SUFFIXES)}).")
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"{path} does not exist.")


def _below(folder: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(SUFFIXES):
            yield folder / name
        elif (folder / name).is_dir():
            yield from _below(folder / name)


def predict_files(
    predictor: Predictor, paths: Iterable[Path], top: int, batch_size: int, skip_corrupt: bool
) -> Iterator[tuple[Path, Prediction]]:
    """Predictions for every image found. Unreadable ones raise `CorruptImage`, or are logged and left out."""
    predictor.check_classifies()

    def prepared() -> Iterator[tuple[Path, Tensor]]:
        for path in find_images(paths):
            try:
                yield path, predictor.prepare(path)
            except CorruptImage as error:
                if not skip_corrupt:
                    raise CorruptImage(f"{error} Use --skip-corrupt to leave such images out.") from error
                logger.warning("Left out: %s", error)

    return predictor.stream(prepared(), top, batch_size)


def write_predictions(predictions: Iterable[tuple[Path, Prediction]], form: str, top: int, out: Path | None) -> int:
    """Write one line per image as "csv" or "jsonl" to `out` (None: standard output). Returns how many.

    A file appears under its name only when it is whole.
    """
    if out is None:
        return _write(predictions, form, top, sys.stdout)

    def write(temporary: Path) -> int:
        with temporary.open("w", newline="") as handle:
            return _write(predictions, form, top, handle)

    return write_atomically(out, write)


def _write(predictions: Iterable[tuple[Path, Prediction]], form: str, top: int, handle: TextIO) -> int:
    ranks = range(1, top + 1)
    rows = csv.writer(handle)
    if form == "csv":
        rows.writerow(["path", *(name for rank in ranks for name in (f"label_{rank}", f"probability_{rank}"))])
    count = 0
    for path, prediction in predictions:
        pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
        if form == "csv":
            rows.writerow([path, *(cell for label, share in pairs for cell in (label, f"{share:.6f}"))])
        else:
            best = [{"label": label, "probability": round(share, 6)} for label, share in pairs]
            handle.write(json.dumps({"path": str(path), "predictions": best}) + "\n")
        count += 1
    return count
