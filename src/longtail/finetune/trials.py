"""A search within a time budget: successive halving on images held out of training, then the winner on all of them.

Jamieson & Talwalkar, AISTATS 2016. Every candidate is trained for a few epochs; the better half goes on to twice as
many, until one is left or the search has had its share of the time. Nothing looks at the test set before the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import merge
from ..engine.reporter import Reporter
from ..engine.run import Run

logger = logging.getLogger("longtail")

SEARCH = 0.4  # share of the budget for trials; what is left is the winner's
SAFETY = (
    0.8  # share of what is left that the winner's epochs are planned for: scoring and other people's work take time too
)
HELD_OUT = 0.2
MEASURE = "class_balanced"
METHODS = ("balanced_softmax", "ldam", "ce", "bce3s")
FIRST_EPOCHS = {"head": 10, "partial": 1, "full": 1}
MOST_EPOCHS = {"head": 40, "partial": 20, "full": 20}


class Trials:
    """The search for `train`'s arguments, and their last training."""

    def __init__(
        self,
        out: Path,
        seconds: float,
        overrides: Mapping[str, Any],
        reporter: Reporter | None,
        train: Callable[..., dict[str, Any]],
    ) -> None:
        self.out, self.seconds, self.overrides, self.reporter, self.train = out, seconds, overrides, reporter, train
        self.begun = time.monotonic()
        self.rates: dict[str, float] = {}  # seconds of an epoch, by candidate

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.begun)

    def run(self) -> dict[str, Any]:
        """Search, then train the winner for the epochs that the time left allows."""
        candidates = self._candidates()
        logger.info(
            "%.0f s: up to %.0f for trials of %s on %.0f %% of the training images, held out; the rest for the best",
            self.seconds, SEARCH * self.seconds, ", ".join(candidates), 100 * HELD_OUT,
        )  # fmt: skip
        best = self._halve(candidates)
        mode, most = self._mode(candidates[best]), MOST_EPOCHS[self._mode(candidates[best])]
        rate = self.rates[best] / (1 - HELD_OUT)
        epochs = max(1, min(most, int(SAFETY * self.left() / rate)))
        logger.info(
            "%s (%s) for %d epochs on all training images: about %.0f s at %.1f s an epoch, of %.0f left",
            best, mode, epochs, epochs * rate, rate, self.left(),
        )  # fmt: skip
        return self._train(self.out, candidates[best], epochs, {})

    def _mode(self, candidate: Mapping[str, Any]) -> str:
        mode = candidate.get("finetune", {}).get("mode")
        return mode if mode in FIRST_EPOCHS else "full"

    def _candidates(self) -> dict[str, dict[str, Any]]:
        """Each method with the classifier alone, and the first with as much of the backbone as the plan lets learn."""
        from .plan import LAYER_DECAY, OPTIMISATION, SCHEDULE

        told = dict(self.overrides)
        head = {"finetune": {"mode": "head", "layer_decay": 1.0}, "train": {**OPTIMISATION["head"], **SCHEDULE}}
        deep_mode = told.get("finetune", {}).get("mode", "partial")
        deep = {"finetune": {"mode": deep_mode, "layer_decay": LAYER_DECAY}} if deep_mode != "head" else {}
        candidates = {f"{name} on features": merge(told, {"method": name, **head}) for name in METHODS}
        if not deep:
            return candidates
        first, *others = candidates.items()  # what promises most comes first, for time may not do for all
        return dict([first, (f"{METHODS[0]}, {deep_mode}", merge(told, {"method": METHODS[0], **deep})), *others])

    def _halve(self, candidates: Mapping[str, Mapping[str, Any]]) -> str:
        left, factor = list(candidates), 1
        scores: dict[str, float] = {}
        while True:
            for name in left:
                cost = self.rates.get(name, 0.0) * factor * FIRST_EPOCHS[self._mode(candidates[name])]
                if scores and cost > self.left() - (1 - SEARCH) * self.seconds:
                    continue  # too long for what the search has left: it keeps the score it has
                scores[name] = self._trial(name, candidates[name], factor)
            left = sorted(left, key=lambda name: -scores.get(name, 0.0))[: max(1, len(left) // 2)]
            if len(left) == 1 or self.left() < (1 - SEARCH) * self.seconds:
                return left[0]
            factor *= 2

    def _trial(self, name: str, candidate: Mapping[str, Any], factor: int) -> float:
        epochs = factor * FIRST_EPOCHS[self._mode(candidate)]
        path = self.out.with_name(f"{self.out.name}-trials") / f"{name.replace(', ', '-').replace(' ', '-')}-{epochs}"
        handlers, logger.handlers = logger.handlers, []  # what it is made of is in the trial's own log
        try:
            self._train(path, candidate, epochs, {"data": {"validation": HELD_OUT}, "report": False})
        finally:
            logger.handlers = handlers
        lines = Run(path).metrics()
        self.rates[name] = sum(line["seconds"] for line in lines if "seconds" in line) / len(lines)
        score = lines[-1]["val"][MEASURE]
        logger.info("trial: %s, %d epochs: %.1f %% class-balanced on held-out images", name, epochs, 100 * score)
        return score

    def _train(self, path: Path, candidate: Mapping[str, Any], epochs: int, more: Mapping[str, Any]) -> dict[str, Any]:
        settings = merge(candidate, merge({"train": {"epochs": epochs, "warmup_epochs": int(epochs > 2)}}, more))
        method = settings.pop("method")
        data = settings.pop("data")
        return self.train(method, data=data, out=path, reporter=self.reporter, **settings)
