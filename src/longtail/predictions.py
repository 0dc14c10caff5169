"""Predicting files: found, decoded and written as a stream, so that a million of them need no more memory than one batch."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TextIO

from torch import Tensor

from .data.decode import CorruptImage
from .data.sources.folder import SUFFIXES, images_under
from .engine.calibration import Prior
from .engine.predictor import Prediction, Predictor
from .errors import LongtailError, UsageError
from .files import write_atomically

logger = logging.getLogger("longtail")


def find_images(paths: Sequence[Path]) -> Iterator[Path]:
    """Each file given, and each image file below each folder given (see `images_under`), in a fixed order.

    Raises `UsageError` at once for a path that does not exist, and for a folder without any image.
    """
    for path in paths:
        if path.is_dir():
            if next(images_under(path), None) is None:
                raise UsageError(f"{path} holds no images (files named {', '.join(SUFFIXES)}).")
        elif not path.is_file():
            raise UsageError(f"{path} does not exist.")
    return chain.from_iterable(images_under(path) if path.is_dir() else [path] for path in paths)


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    top: int,
    batch_size: int,
    skip_corrupt: bool,
    prior: Prior | None = None,
) -> Iterator[tuple[Path, Prediction]]:
    """Predictions for every image found. Unreadable ones raise `CorruptImage`, or are logged and left out.

    `prior` is the class mix of `Predictor.predict`. Raises `UsageError` at once for a model that gives embeddings only, and for
    what `find_images` refuses.
    """
    predictor.check_classifies()
    found = find_images(paths)

    def prepared() -> Iterator[tuple[Path, Tensor]]:
        for path in found:
            try:
                yield path, predictor.prepare(path)
            except LongtailError as error:  # a broken link or a file that may not be read is told as a `UsageError`
                if not skip_corrupt:
                    raise CorruptImage(f"{error} Use --skip-corrupt to leave such images out.") from error
                logger.warning("Left out: %s", error)

    return predictor.stream(prepared(), top, batch_size, prior)


def write_predictions(
    predictions: Iterable[tuple[Path, Prediction]],
    form: str,
    top: int,
    out: Path | None,
    verdicts: Sequence[str] = (),
) -> int:
    """Write one line per image as "csv" or "jsonl" to `out` (None: standard output). Returns how many.

    `verdicts` are further fields of each prediction: "accepted" (in CSV, names joined by ";"), "known". A file appears under
    its name only when it is whole; a device or a FIFO is written as predictions come.
    """
    if out is None:
        return _write(predictions, form, top, sys.stdout, verdicts)
    if out.exists() and not out.is_file() and not out.is_dir():
        with out.open("w", newline="") as handle:
            return _write(predictions, form, top, handle, verdicts)

    def write(temporary: Path) -> int:
        with temporary.open("w", newline="") as handle:
            return _write(predictions, form, top, handle, verdicts)

    return write_atomically(out, write)


def _write(
    predictions: Iterable[tuple[Path, Prediction]], form: str, top: int, handle: TextIO, verdicts: Sequence[str]
) -> int:
    ranks = range(1, top + 1)
    rows = csv.writer(handle)
    if form == "csv":
        ranked = (name for rank in ranks for name in (f"label_{rank}", f"probability_{rank}"))
        rows.writerow(["path", *ranked, *verdicts])
    count = 0
    for path, prediction in predictions:
        verdict = {name: getattr(prediction, name) for name in verdicts}
        pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
        if form == "csv":
            printable = str(path).encode(errors="backslashreplace").decode()  # a name need not be UTF-8
            cells = (cell for label, share in pairs for cell in (label, f"{share:.6f}"))
            rows.writerow([printable, *cells, *map(_cell, verdict.values())])
        else:
            best = [{"label": label, "probability": round(share, 6)} for label, share in pairs]
            handle.write(json.dumps({"path": str(path), "predictions": best, **verdict}) + "\n")
        count += 1
    return count


def _cell(verdict: tuple[str, ...] | bool) -> str:
    return ";".join(verdict) if isinstance(verdict, tuple) else "yes" if verdict else "no"
