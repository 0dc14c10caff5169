"""A run's report in words. Each sentence is computed from figures that the page shows, and says where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.bias import groups, naming_rate, taken_for
from ..evaluation.confidence import reliability
from ..evaluation.intervals import mean_interval, wilson
from ..evaluation.predictions import Predictions

NAMED = 3  # classes that a sentence names


@dataclass(frozen=True)
class Sentence:
    """What is said, and the part of the page (its id) that shows the figures."""

    text: str
    shown: str


def percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def listing(words: Sequence[str], more: int = 0) -> str:
    """a, b and c; with `more` left out: a, b, c and 4 more."""
    parts = [*words, *([f"{more:,} more"] if more else [])]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]


def findings(predictions: Predictions) -> list[Sentence]:
    """Where the model stands."""
    return [*_accuracy(predictions), *_worst(predictions), *_lean(predictions)]


def advice(
    predictions: Predictions, method: str, metrics: Sequence[Mapping[str, Any]], suspects: int
) -> list[Sentence]:
    """What to do about it. `metrics`: the run's lines; `suspects`: images whose label is doubted."""
    found = [
        *_another_method(predictions, method),
        *_collect(predictions),
        *_relabel(predictions, suspects),
        *_train_longer(metrics),
        *_temperature(predictions),
        *_test_images(predictions),
    ]
    return found or [
        Sentence("Nothing stands out that more data, other labels or another method would mend.", "classes")
    ]


def _accuracy(predictions: Predictions) -> Iterator[Sentence]:
    interval = mean_interval(predictions.hits, predictions.tested)
    assert interval is not None  # a run without held-out images has no predictions
    tested = predictions.tested > 0
    classes = f"{tested.sum():,} classes" + (f" ({(~tested).sum():,} more have no image)" if not tested.all() else "")
    yield Sentence(
        f"The class-balanced accuracy is {percent(np.nanmean(predictions.accuracy))} (95 % interval "
        f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}), on {len(predictions):,} {predictions.split} images of "
        f"{classes}.",
        "shots",
    )
    of = groups(predictions)
    frequent, rare = (predictions.accuracy[members & tested] for members in (of.frequent, of.rare))
    if len(frequent) and len(rare):
        gap = 100 * (frequent.mean() - rare.mean())
        yield Sentence(
            f"The {of.frequent_name} classes reach {percent(frequent.mean())} and the {of.rare_name} ones "
            f"{percent(rare.mean())}: rare classes are {abs(gap):.1f} points {'behind' if gap > 0 else 'ahead'}.",
            "shots",
        )


def _worst(predictions: Predictions) -> Iterator[Sentence]:
    worst = predictions.worst
    never = int((predictions.accuracy == 0).sum())
    described = []
    for c in worst[:NAMED]:
        taken = confused_with(predictions, c)
        described.append(
            f"{predictions.classes.names[c]} ({percent(predictions.accuracy[c])}"
            + (f", most often taken for {predictions.classes.names[taken[0]]})" if taken else ")")
        )
    many = f" {never:,} classes are never right." if never > NAMED else ""
    yield Sentence(f"Worst, even at the upper end of their intervals: {listing(described)}.{many}", "classes")


def confused_with(predictions: Predictions, c: int) -> tuple[int, int] | None:
    """The class that class `c` is most often taken for, and how often; None where it never is."""
    pairs, times = predictions.confusions
    of_class = np.flatnonzero(pairs[:, 0] == c)
    return (int(pairs[of_class[0], 1]), int(times[of_class[0]])) if len(of_class) else None


def _lean(predictions: Predictions) -> Iterator[Sentence]:
    of = groups(predictions)
    wrong, images = taken_for(predictions, of.rare, of.frequent)
    back, others = taken_for(predictions, of.frequent, of.rare)
    if not images or not others:
        return
    yield Sentence(
        f"{percent(wrong / images)} of the images of {of.rare_name} classes are taken for a {of.frequent_name} class "
        f"(false head rate); the other way round it is {percent(back / others)}.",
        "confusion",
    )


def _another_method(predictions: Predictions, method: str) -> Iterator[Sentence]:
    of = groups(predictions)
    rate = naming_rate(predictions, of.rare)
    if rate is None:
        return
    if rate < 0.8:
        other = (
            "Train with a method that corrects for class frequency, such as balanced_softmax."
            if method == "ce"
            else f"Compare {method} with other methods, or adjust its scores for class frequency."
        )
        yield Sentence(
            f"Another method: {of.rare_name} classes are predicted {rate:.2f} times as often as they occur, so they lose "
            f"to frequent ones. {other}",
            "frequency",
        )
    elif rate > 1.25:
        yield Sentence(
            f"Another method: {of.rare_name} classes are predicted {rate:.2f} times as often as they occur, at the cost of "
            "the frequent ones. A weaker correction for class frequency would give some of that back.",
            "frequency",
        )


def _collect(predictions: Predictions) -> Iterator[Sentence]:
    mean, counts = np.nanmean(predictions.accuracy), np.array(predictions.classes.counts)
    high = wilson(predictions.hits, predictions.tested)[1]
    behind = [c for c in predictions.worst if high[c] < mean and counts[c] < np.median(counts)]
    if behind:
        named = [f"{predictions.classes.names[c]} ({counts[c]:,} so far)" for c in behind[:NAMED]]
        yield Sentence(
            f"Collect: training images of {listing(named, len(behind) - len(named))}. These are rare classes that lie below "
            "the average even at the upper end of their intervals.",
            "classes",
        )


def _relabel(predictions: Predictions, suspects: int) -> Iterator[Sentence]:
    pairs, times = predictions.confusions
    share = {(int(a), int(b)): n / predictions.tested[a] for (a, b), n in zip(pairs, times, strict=True)}
    mutual = [(a, b) for (a, b), s in share.items() if s >= 0.1 and share.get((b, a), 0) >= 0.1 and a < b]
    mutual = [pair for pair in mutual if min(predictions.tested[list(pair)]) >= 10]
    mutual.sort(key=lambda pair: -(share[pair] + share[pair[::-1]]))
    if mutual:
        names = predictions.classes.names
        told = [
            f"{names[a]} and {names[b]} ({percent(share[a, b])} and {percent(share[b, a])})" for a, b in mutual[:NAMED]
        ]
        yield Sentence(
            f"Relabel or merge: {listing(told, len(mutual) - len(told))} are taken for each other. Check how they were "
            "labelled, and merge them if the difference does not matter to you.",
            "confusion",
        )
    if suspects:
        yield Sentence(
            f"Relabel: the labels of {suspects:,} images look doubtful. See the images before believing it.", "images"
        )


def _train_longer(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Sentence]:
    for split in ("val", "test"):
        scores = [line[split]["class_balanced"] for line in metrics if "class_balanced" in line.get(split, {})]
        fifth = len(scores) // 5
        if fifth:
            rise = 100 * (np.mean(scores[-fifth:]) - np.mean(scores[-2 * fifth : -fifth]))
            if rise > 2:
                yield Sentence(
                    f"Train longer: the class-balanced accuracy still rose by {rise:.1f} points from the last but one "
                    "fifth of the training to the last.",
                    "training",
                )
            return


def _temperature(predictions: Predictions) -> Iterator[Sentence]:
    measured = reliability(predictions.probability, predictions.correct)
    excess = 100 * (predictions.probability.mean() - predictions.correct.mean())
    if measured.ece > 0.05 and abs(excess) > 2:
        yield Sentence(
            f"Probabilities are {abs(excess):.1f} points too {'high' if excess > 0 else 'low'} on average (calibration "
            f"error {100 * measured.ece:.1f}): do not read them as chances before longtail calibrate has scaled them, on "
            "images held out.",
            "confidence",
        )


def _test_images(predictions: Predictions) -> Iterator[Sentence]:
    few = int(((predictions.tested > 0) & (predictions.tested < 10)).sum())
    if few:
        yield Sentence(
            f"Test images: {few:,} of {len(predictions.classes):,} classes have fewer than 10, so that little is known of "
            "each of them. Look at groups of classes, or collect more.",
            "classes",
        )
