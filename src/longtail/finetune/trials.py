"""A search within a time budget: successive halving on images held out of training, then the winner on all of them.

Jamieson & Talwalkar, AISTATS 2016. Every candidate is trained for an epoch or two; the better half goes on to twice as
many, until one is left or the search has had its share of the time. Nothing looks at the test set before the end. Every
training has a deadline, which its schedule keeps to whatever else the machine does: see `engine.deadline`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import merge
from ..engine.reporter import Reporter
from ..engine.run import Run
from ..errors import UsageError
from .modes import DRAWS
from .pace import Pace
from .plan import epochs_for

logger = logging.getLogger("longtail")

SEARCH = 0.3  # share for trials of the budget that features leave
FEATURES = 0.4  # share of the budget up to which augmented versions of the images are made
MOST_FEATURES = 0.6  # above, what is left is too short to train in
FINISH = 0.03  # share of the budget for model file, report and the like
HELD_OUT = 0.2
# What every training by which something is chosen is told: nothing of the test set is computed, let alone looked at.
CHOOSING = {"data": {"validation": HELD_OUT, "use_test": False}, "report": False}
MEASURE = "class_balanced"
# What promises most comes first, for time may not do for all. They see the same augmentation, so that features serve all.
CANDIDATES: dict[str, dict[str, Any]] = {
    "balanced_softmax": {"method": "balanced_softmax"},
    "ce with class weights": {"method": "ce", "options": {"reweight": "always"}},
    "logit adjustment by 1.5": {"method": "ce", "options": {"loss": "logit_adjusted", "tau": 1.5}},
}
FIRST_EPOCHS = 2
SCRATCH = 200  # epochs at most of a network that is not trained yet
SPARE = (
    1.25  # epochs planned beyond what the measured speed allows: should it grow, the deadline ends them, not the plan
)


class Trials:
    """The search for `train`'s arguments, and their last training."""

    def __init__(
        self,
        out: Path,
        seconds: float,
        overrides: Mapping[str, Any],
        reporter: Reporter | None,
        train: Callable[..., dict[str, Any]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out, self.seconds, self.overrides, self.reporter, self.train = out, seconds, overrides, reporter, train
        self.mode = overrides.get("finetune", {}).get("mode") or "full"
        self._now, self._end = now, now() + seconds
        self.rates: dict[str, float] = {}  # seconds of an epoch, by candidate

    def left(self) -> float:
        return self._end - self._now()

    def run(self, pace: Pace, images: int, test: int) -> dict[str, Any]:
        """Search, then train the winner for the epochs that the time left allows.

        `images`: how many of training; `test`: of the test set. Raises `UsageError` where what a frozen backbone makes of
        the images would not leave the time to train.
        """
        features = self._settle_draws(pace, images, test)
        finish = FINISH * self.seconds + test * pace.training  # scored twice, each time at up to half of a step's cost
        search = SEARCH * (self.left() - features)
        rate = images * pace.training
        if 2 * FIRST_EPOCHS * (1 - HELD_OUT) * rate > search:
            best, unseen = next(iter(CANDIDATES)), images
            logger.info("%.0f s: no time to try others than %s", self.seconds, best)
        else:
            logger.info(
                "%.0f s: about %.0f for features, %.0f for trials of %s on %.0f %% of the training images, held out; the rest "
                "for the best", self.seconds, features, search, ", ".join(CANDIDATES), 100 * HELD_OUT,
            )  # fmt: skip
            best, unseen = self._halve(self.left() - features - search), round(HELD_OUT * images)
            rate = self.rates[best] / (1 - HELD_OUT)
        draws = self.overrides.get("finetune", {}).get("draws") or 0
        steps_time = self.left() - finish - pace.for_features(unseen, test, draws)
        epochs = max(1, min(self._most(images), math.ceil(SPARE * steps_time / max(rate, 1e-9))))
        logger.info(
            "%s on all training images: %.0f s left, about %.0f of them for steps, at %.1f s an epoch",
            best, self.left(), min(steps_time, epochs * rate), rate,
        )  # fmt: skip
        return self._train(self.out, best, epochs, self.left() - finish, {})

    def _settle_draws(self, pace: Pace, images: int, test: int) -> float:
        """Keep as many augmented versions of the images as the budget allows. Returns the seconds that features take."""
        if not pace.features:
            return 0.0
        plain = pace.for_features(images, test, 0)
        if plain > MOST_FEATURES * self.seconds:
            raise UsageError(
                f"--budget {self.seconds:.0f}s is too short here: what the frozen backbone makes of {images + test:,} images "
                f"takes about {plain:.0f} s before anything can learn. Give {2 * plain / MOST_FEATURES:.0f}s or more, or a "
                "smaller --backbone."
            )
        draws = self.overrides["finetune"].get("draws")
        if draws is None:
            draws = DRAWS[self.mode]
            while draws and pace.for_features(images, test, draws) > FEATURES * self.seconds:
                draws -= 1
            self.overrides = merge(self.overrides, {"finetune": {"draws": draws}})
        return pace.for_features(images, test, draws)

    def _most(self, images: int) -> int:
        return 3 * epochs_for(self.mode, images) if self.overrides.get("pretrained") else SCRATCH

    def _halve(self, end: float) -> str:
        """The best of `CANDIDATES` by trials that go on until so many seconds are left."""
        contestants, factor = list(CANDIDATES), 1
        scores: dict[str, float] = {}
        while True:
            for name in contestants:
                cost = (self.rates.get(name) or max(self.rates.values(), default=0.0)) * FIRST_EPOCHS * factor
                if scores and cost > self.left() - end:
                    continue  # too long for what the search has left: it keeps the score it has
                scores[name] = self._trial(name, factor * FIRST_EPOCHS, self.left() - end)
            contestants = sorted(scores, key=lambda name: -scores[name])[: max(1, len(contestants) // 2)]
            if len(contestants) == 1 or self.left() <= end:
                return contestants[0]
            factor *= 2

    def _trial(self, name: str, epochs: int, seconds: float) -> float:
        path = self.out.with_name(f"{self.out.name}-trials") / f"{name.replace(' ', '-')}-{epochs}"
        handlers, logger.handlers = logger.handlers, []  # what it is made of is in the trial's own log
        try:
            self._train(path, name, epochs, seconds, CHOOSING)
        finally:
            logger.handlers = handlers
        lines = Run(path).metrics()
        self.rates[name] = sum(line.get("seconds", 0.0) for line in lines) / len(lines)
        score = lines[-1]["val"][MEASURE]
        logger.info("trial: %s, %d epochs: %.1f %% class-balanced on held-out images", name, epochs, 100 * score)
        return score

    def _train(self, path: Path, name: str, epochs: int, seconds: float, more: Mapping[str, Any]) -> dict[str, Any]:
        length = {"epochs": epochs, "warmup_epochs": min(1, epochs // 3), "eval_every": max(1, epochs // 3)}
        timed = merge({"train": {**length, "seconds": max(seconds, 1.0)}}, more)
        settings = merge(merge(CANDIDATES[name], self.overrides), timed)
        method, data = settings.pop("method"), settings.pop("data")
        return self.train(method, data=data, out=path, reporter=self.reporter, **settings)
