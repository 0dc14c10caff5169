"""`calibration.json` beside a model: what `longtail calibrate` measured on held-out images; and class mixes by name."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..config import Section, validate
from ..errors import LongtailError, UsageError
from ..files import check_regular, read_json

FILE = "calibration.json"
Prior = str | Mapping[str, float]


class ClassThreshold(Section):
    """From which probability on an image is taken for a class, and what that gave on the held-out images."""

    at: float
    precision: float
    recall: float
    images: int


class NoneOfThese(Section):
    """Below which highest score (a logit) an image is taken for none of the classes."""

    score: float
    rejected: float = Field(description="share of the held-out images, all of the classes, that this turns away")
    rejected_by_shot: dict[str, float | None]
    unknown_images: int = 0
    unknown_rejected: float | None = Field(None, description="share of the images given as unknown that it turns away")


class Calibration(Section):
    """What was fitted to held-out images; C entries where there is one for each class."""

    source: str
    split: str
    images: int
    temperature: float = Field(gt=0)
    exponent: float = Field(description="scores are log-posteriors for classes in proportion to n_c ** exponent")
    nll: tuple[float, float] = Field(strict=False, description="before and after, in the mix of the held-out images")
    ece: tuple[float, float] = Field(strict=False)
    prior: tuple[float, ...] | None = Field(None, strict=False, description="the class mix in use; null: as scored")
    wanted: Literal["precision", "recall"] | None = None
    share: float | None = None
    thresholds: tuple[ClassThreshold | None, ...] | None = Field(None, strict=False)
    none_of_these: NoneOfThese | None = None


def read_calibration(folder: Path, classes: int) -> Calibration | None:
    """What was saved beside the model in `folder`, if anything. Raises `LongtailError` where it is damaged."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = validate(Calibration, read_json(path), str(path))
    except LongtailError as error:
        raise LongtailError(f"{path} is damaged: {error} Run `longtail calibrate` again.") from error
    for values in (found.prior, found.thresholds):
        if values is not None and len(values) != classes:
            raise LongtailError(f"{path} is of a model with {len(values)} classes, not {classes}: calibrate again.")
    return found


def class_shares(prior: Prior, names: Sequence[str], counts: Sequence[int]) -> Tensor:
    """The class mix `prior` as shares float64 [C]: "uniform", "train" (the training counts), a CSV, or a mapping.

    A mapping or CSV (two columns, class and share) has a share or count for every class. Raises `UsageError` for one that
    lacks a class, has another, or holds what is no share.
    """
    if prior == "uniform":
        return torch.full((len(names),), 1 / len(names), dtype=torch.float64)
    if prior == "train":
        return torch.tensor(counts, dtype=torch.float64) / sum(counts)
    where = "The class mix" if isinstance(prior, Mapping) else str(prior)
    values = prior if isinstance(prior, Mapping) else _read_csv(Path(prior))
    if missing := [name for name in names if name not in values]:
        raise UsageError(
            f"{where} has no share for '{missing[0]}'{_more(missing)}: give one for each class, 0 included."
        )
    if unknown := [name for name in values if name not in set(names)]:
        raise UsageError(f"{where} has a share for '{unknown[0]}'{_more(unknown)}, which the model does not know.")
    shares = torch.tensor([values[name] for name in names], dtype=torch.float64)
    if not shares.isfinite().all() or shares.min() < 0 or shares.sum() <= 0:
        raise UsageError(f"{where} has shares that are not numbers from 0 up with a sum above 0.")
    return shares / shares.sum()


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _read_csv(path: Path) -> dict[str, float]:
    try:
        check_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (
            "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or error
        )
        raise UsageError(
            f"Cannot read the class mix '{path}': {reason}. Give uniform, train, estimate, or a CSV of class,share."
        ) from error
    if rows and len(rows[0]) == 2 and math.isnan(_number(rows[0][1])):
        rows = rows[1:]  # a header
    values: dict[str, float] = {}
    for row in rows:
        share = _number(row[1]) if len(row) == 2 else math.nan
        if math.isnan(share):
            raise UsageError(
                f"{path}: expected lines of a class and its share, such as cat,0.3; found '{','.join(row)}'."
            )
        if row[0] in values:
            raise UsageError(f"{path} names the class '{row[0]}' twice.")
        values[row[0]] = share
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
