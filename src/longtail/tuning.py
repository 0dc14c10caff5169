"""Learning rate, weight decay and a method's one main weight, chosen on images held out of the training set.

The same small grid and the same number of trials for every method, in the same order, so that none is favoured. Each trial is
a whole training on what is left of the training images; the test set takes no part in the choice.
"""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from . import api
from .config import merge
from .engine.reporter import Reporter
from .engine.run import Run, write_json
from .errors import DivergedError, UsageError
from .finetune.trials import CHOOSING, HELD_OUT, MEASURE
from .methods import method_class
from .reproduce import check_settings

logger = logging.getLogger("longtail")

# By optimiser: learning rates and weight decays, each with each.
GRIDS = {
    "sgd": ((0.01, 0.03, 0.1, 0.3), (2e-4, 1e-3, 5e-3)),
    "adamw": ((1e-4, 3e-4, 1e-3, 3e-3), (1e-4, 1e-2, 1e-1)),
}
RECORD = "tune.json"


def points(optimizer: str, weight: tuple[str, tuple[float, ...]] | None) -> list[dict[str, Any]]:
    """The whole grid as overrides, in the order in which it is tried: each rate and decay once, in an order that looks
    random, before any comes again with another value of the method's main `weight`, its name and values."""
    rates = list(product(*GRIDS[optimizer]))
    order = np.random.default_rng(0).permutation(len(rates))
    values = weight[1] if weight else (None,)
    grid = []
    for turn in range(len(values)):
        for place, i in enumerate(order):
            lr, decay = rates[i]
            point: dict[str, Any] = {"train": {"lr": lr, "weight_decay": decay}}
            if weight:
                point["options"] = {weight[0]: values[(place + turn) % len(values)]}
            grid.append(point)
    return grid


def tune(
    method: str,
    trials: int,
    *,
    out: Path,
    recipe: str | None = None,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train `method` at the first `trials` points of its grid and return what came out, the best first.

    `overrides` are those of `api.train_as_told`. The trials lie below `out`, with a record of them; those that are finished
    are kept, one that was stopped goes on. Raises `UsageError` for more trials than the grid has points, and where `out`
    holds trials with other settings; `DivergedError` where every trial diverged.
    """
    weight = method_class(method).main_weight
    optimizer = api.make_config(method, recipe, overrides).train.optimizer
    grid = points(optimizer, weight)
    if not 1 <= trials <= len(grid):
        raise UsageError(f"--trials {trials}: the grid of {method} has {len(grid)} points; give 1 to {len(grid)}.")
    tried: list[dict[str, Any]] = []
    for number, point in enumerate(grid[:trials], 1):
        laid = merge(merge(overrides, point), CHOOSING)
        run = Run(out / f"trial-{number}")
        if run.config_file.exists():
            check_settings(run, api.resolved(api.make_config(method, recipe, laid)))
        try:
            if api.go_on(run.path, reporter) is None:
                api.train_as_told(method, recipe=recipe, out=run.path, reporter=reporter, **laid)
            score = run.metrics()[-1]["val"][MEASURE]
        except DivergedError as error:
            logger.warning("trial %d: %s", number, error)
            score = None
        tried.append({"trial": number, **point["train"], **point.get("options", {}), MEASURE: score})
        best = sorted(tried, key=lambda row: -1.0 if row[MEASURE] is None else row[MEASURE], reverse=True)
        record = {
            "method": method,
            "data": overrides.get("data", {}),
            "held_out": HELD_OUT,
            "measure": f"{MEASURE}, last epoch, on the images held out of training",
            "optimizer": optimizer,
            "weight": weight and weight[0],
            "grid": len(grid),
            "trials": best,
        }
        write_json(out / RECORD, record)
    if best[0][MEASURE] is None:
        raise DivergedError(f"Every one of the {trials} trials diverged: see {out}. Try --set clip=1.")
    return record
