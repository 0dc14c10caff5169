"""Measuring, on held-out images, what turns a trained model's scores into probabilities and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..classes import SHOTS
from ..errors import UsageError
from ..evaluation.accuracy import Evaluator
from ..evaluation.calibration import (
    Threshold,
    Wanted,
    adjust,
    class_threshold,
    fit_scores,
    prior_shift,
)
from ..files import write_text
from .calibration import FILE, Calibration, ClassThreshold, NoneOfThese, Prior, class_shares
from .predictor import Predictor
from .score import open_images


def calibrate(
    path: str | Path,
    *,
    data: str | None = None,
    split: str | None = None,
    prior: Prior | None = None,
    precision: float | None = None,
    recall: float | None = None,
    reject: float | None = None,
    unknown: Sequence[Path] = (),
    batch_size: int = 256,
    **reading: Any,
) -> Calibration:
    """Fit the model of the run in `path` to labelled images that it was not trained on, and save calibration.json beside it.

    The images are the run's split "val", or those of `data` (`reading`: how to read it, see `open_source`); any other split only
    where `split` says so, for what is measured on the test split afterwards would be too good. Always: temperature and prior
    exponent (`fit_scores`). With `precision` or `recall`: for each class the probability from which it reaches that share. With
    `reject`: the highest score below which an image is of none of the classes, such that this share of the held-out images is
    turned away; `unknown` images, which are of none, say how many of those are. `prior`: the class mix in use, by which the
    held-out images are weighted where they have another; `predict` then assumes it.

    Raises `UsageError` for shares outside 0 to 1, and as `evaluate` does.
    """
    for name, share in (("precision", precision), ("recall", recall), ("reject", reject)):
        if share is not None and not 0 < share < 1:
            raise UsageError(f"--{name} is {share:g}; expected a share between 0 and 1, such as 0.95.")
    if precision is not None and recall is not None:
        raise UsageError("Give --precision or --recall: a threshold that reaches one seldom reaches the other.")
    if unknown and reject is None:
        raise UsageError("--unknown says how many unknown images are turned away: give --reject SHARE too.")
    if prior == "estimate":
        raise UsageError("A mix is estimated from the images that are predicted: give it to `longtail predict`.")
    scored = open_images(path, data=data, split=split or (None if data else "val"), reading=reading)
    predictor = scored.predictor
    shares = None
    if prior is not None:
        shares = class_shares(prior, predictor.classes, predictor.description.class_counts)
    logits, labels = _scores(predictor, scored.loader, batch_size)
    counts = torch.tensor(predictor.description.class_counts)
    temperature, exponent = fit_scores(logits, labels, counts)

    mix = labels.bincount(minlength=len(counts)).double() / len(labels)
    training = counts.double() / counts.sum()
    fitted = adjust(logits, temperature, prior_shift(mix, training, exponent))
    before, after = (_measures(predictor, scores, labels) for scores in (logits, fitted))
    calibration: dict[str, Any] = {
        "source": scored.images.name,
        "split": scored.split,
        "images": len(labels),
        "temperature": temperature,
        "exponent": exponent,
        "nll": (before["nll"], after["nll"]),
        "ece": (before["ece"], after["ece"]),
        "prior": None if shares is None else tuple(shares.tolist()),
    }
    share = precision if precision is not None else recall
    if share is not None:
        wanted: Wanted = "precision" if precision is not None else "recall"
        shift = None if shares is None else prior_shift(shares, training, exponent)
        probabilities = adjust(logits, temperature, shift).softmax(1)
        weights = torch.ones_like(mix) if shares is None else shares / mix.clamp(min=1e-12)
        thresholds = _thresholds(probabilities, labels, weights, wanted, share)
        calibration |= {"wanted": wanted, "share": share, "thresholds": thresholds}
    if reject is not None:
        calibration["none_of_these"] = _none_of_these(predictor, logits, labels, reject, unknown, batch_size)
    result = Calibration(**calibration)
    write_text(Path(path) / FILE, result.model_dump_json(indent=2) + "\n")
    return result


@torch.inference_mode()
def _scores(predictor: Predictor, loader: Any, batch_size: int) -> tuple[Tensor, Tensor]:
    """Logits float64 [N, C] and labels [N] of every image, in float32 as `predict` computes them."""
    batches = [(predictor(batch.views[0]).cpu(), batch.labels.cpu()) for batch in loader.evaluation(batch_size)]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return logits.double(), labels


def _measures(predictor: Predictor, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    evaluator = Evaluator(predictor.method.classes)
    evaluator.update(logits, labels)
    return evaluator.compute()


def _thresholds(
    probabilities: Tensor, labels: Tensor, weights: Tensor, wanted: Wanted, share: float
) -> tuple[ClassThreshold | None, ...]:
    found: list[Threshold | None] = []
    for c in range(probabilities.shape[1]):
        belongs = labels == c
        some = bool(belongs.any())
        found.append(class_threshold(probabilities[:, c], belongs, weights[labels], wanted, share) if some else None)
    return tuple(None if threshold is None else ClassThreshold(**asdict(threshold)) for threshold in found)


def _none_of_these(
    predictor: Predictor, logits: Tensor, labels: Tensor, reject: float, unknown: Sequence[Path], batch_size: int
) -> NoneOfThese:
    from ..predictions import find_images

    highest = logits.amax(1)
    score = highest.sort().values[int(reject * len(highest))].item()  # so many are below
    rejected = highest < score
    shots = predictor.method.classes.shots
    by_shot = {}
    for shot in SHOTS:
        of_shot = rejected[torch.tensor([shots[label] == shot for label in labels.tolist()])]
        by_shot[shot] = of_shot.double().mean().item() if len(of_shot) else None
    others = [(path, predictor.prepare(path)) for path in (find_images(unknown) if unknown else ())]
    turned_away = [(logits.amax(1) < score).double() for _, logits in predictor.scored(others, batch_size)]
    return NoneOfThese(
        score=score,
        rejected=rejected.double().mean().item(),
        rejected_by_shot=by_shot,
        unknown_images=len(others),
        unknown_rejected=torch.cat(turned_away).mean().item() if others else None,
    )
