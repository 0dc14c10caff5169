"""The figures and tables of a report: by class, by shots, by threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..classes import SHOT_MEANINGS, SHOTS
from ..evaluation.bias import groups, taken_for
from ..evaluation.confidence import reliability, thresholds
from ..evaluation.intervals import mean_interval, wilson
from ..evaluation.predictions import Predictions
from .verdict import percent


def taken_by_class(predictions: Predictions) -> list[tuple[str, float] | None]:
    """For each class the name of the class that it is most often taken for, and the share of its images; None where it
    never is."""
    found: list[tuple[str, float] | None] = [None] * len(predictions.classes)
    pairs, times = predictions.confusions
    for (true, predicted), n in zip(pairs[::-1].tolist(), times[::-1].tolist(), strict=True):  # the commonest last
        found[true] = (predictions.classes.names[predicted], n / predictions.tested[true])
    return found


def taken_text(taken: tuple[str, float] | None) -> str:
    return "never taken for another" if taken is None else f"most often taken for {taken[0]} ({percent(taken[1])})"


def class_rows(predictions: Predictions) -> dict[str, Any]:
    """The table of classes, rarest first."""
    columns = [
        ("class", "text"), ("accuracy %", "percent"), ("from", "percent"), ("to", "percent"), ("shots", "text"),
        ("training images", "number"), (f"{predictions.split} images", "number"), ("predicted / true", "number"),
        ("most often taken for", "text"), ("share %", "percent"),
    ]  # fmt: skip
    low, high = wilson(predictions.hits, predictions.tested)
    taken = taken_by_class(predictions)
    rows = []
    for c in predictions.order[::-1].tolist():
        tested = int(predictions.tested[c])
        shares: list[float | None] = [None] * 3
        if tested:
            shares = [round(100 * float(share), 1) for share in (predictions.accuracy[c], low[c], high[c])]
        name, share = taken[c] or (None, None)
        rows.append(
            [
                predictions.classes.names[c],
                *shares,
                str(predictions.shots[c]),
                predictions.classes.counts[c],
                tested,
                round(float(predictions.named[c]) / tested, 2) if tested else None,
                name,
                None if share is None else round(100 * share, 1),
            ]
        )
    return {"columns": [{"name": name, "kind": kind} for name, kind in columns], "rows": rows}


def tiles(predictions: Predictions) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, and what is said below it."""

    def interval(members: np.ndarray) -> str:
        ends = mean_interval(predictions.hits[members], predictions.tested[members])
        return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""

    tiles = [("class-balanced", percent(np.nanmean(predictions.accuracy)), interval(predictions.tested > 0))]
    for shot in SHOTS:
        members = (predictions.shots == shot) & (predictions.tested > 0)
        if members.any():
            tiles.append((shot, percent(predictions.accuracy[members].mean()), interval(members)))
    of = groups(predictions)
    wrong, images = taken_for(predictions, of.rare, of.frequent)
    if images:
        tiles.append(("false head rate", percent(wrong / images), f"{of.rare_name} taken for {of.frequent_name}"))
    ece = reliability(predictions.probability, predictions.correct).ece
    tiles.append(("calibration error", percent(ece), f"{percent(predictions.probability.mean())} sure on average"))
    return tiles


def shots_table(predictions: Predictions) -> dict[str, Any]:
    counts, tested = np.array(predictions.classes.counts), predictions.tested > 0
    groups_of = {f"{shot} ({SHOT_MEANINGS[shot]} training images)": predictions.shots == shot for shot in SHOTS}
    order = np.argsort(np.where(tested, predictions.accuracy, np.inf), kind="stable")
    worst = np.zeros(len(counts), bool)
    worst[order[: -(-int(tested.sum()) // 10)]] = True
    rows = []
    for name, members in {"all": np.ones(len(counts), bool), **groups_of, "worst tenth of the classes": worst}.items():
        judged = members & tested
        interval = mean_interval(predictions.hits[judged], predictions.tested[judged])
        rows.append(
            (
                name,
                f"{members.sum():,}",
                f"{counts[members].sum():,}",
                f"{predictions.tested[members].sum():,}",
                f"{100 * predictions.accuracy[judged].mean():.1f}" if interval else "-",
                # Which classes are the worst is chosen by their accuracy: an interval would mislead.
                f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval and members is not worst else "-",
            )
        )
    accuracy = predictions.accuracy[tested]
    harmonic = 0.0 if (accuracy == 0).any() else len(accuracy) / (1 / accuracy).sum()
    zero = int((accuracy == 0).sum())
    caption = (
        f"Mean accuracy of the classes of each group, in %. Harmonic mean over all classes: {100 * harmonic:.1f}"
        + (f" (zero, as {zero:,} {'class is' if zero == 1 else 'classes are'} never right)." if zero else ".")
        + f" Over images (top-1): {100 * predictions.correct.mean():.1f}."
    )
    columns = ("", "classes", "training images", f"{predictions.split} images", "accuracy %", "95 % interval")
    return {"columns": columns, "rows": rows, "caption": caption}


def thresholds_table(predictions: Predictions) -> dict[str, Any]:
    shots = predictions.shots[predictions.labels]
    rows = []
    for found in thresholds(predictions.probability, predictions.correct):
        cells = [percent(found.accuracy)]
        if found.probability is None or found.covered is None:
            cells += ["not reached", *["-"] * 4]
        else:
            answered = predictions.probability >= found.probability
            cells += [f"{found.probability:.3f}", percent(found.covered)]
            cells += [percent(answered[shots == s].mean()) if (shots == s).any() else "-" for s in SHOTS]
        rows.append(cells)
    return {
        "columns": ("to be right in", "answer from probability", "images answered", *SHOTS),
        "rows": rows,
        "caption": f"Thresholds, and the share of images that is then answered. Chosen on these {predictions.split} "
        "images, so a little optimistic.",
    }
