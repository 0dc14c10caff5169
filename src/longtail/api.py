"""The project from Python: `train`, `evaluate` and `load`. The command line calls these."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .config import Config, merge, validate
from .engine.deploy import Predictor, load
from .engine.reporter import Reporter
from .engine.run import Run
from .engine.score import score as evaluate
from .engine.trainer import Trainer
from .errors import UsageError
from .methods import method_class
from .recipes import find_recipe

__all__ = ["Predictor", "evaluate", "load", "make_config", "resume", "train"]

logger = logging.getLogger("longtail")


def make_config(method: str, recipe: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Lay a run's settings over each other: project defaults, the method's, the recipe's, then `overrides`.

    `overrides` has the sections of `Config`, for instance ``{"train": {"epochs": 10}, "data": {"source": "my/folder"}}``.
    Raises `UsageError` naming every wrong option.
    """
    cls = method_class(method)
    values: dict[str, Any] = {"method": method, "train": dict(cls.train_defaults)}
    if recipe is not None:
        values = merge(values, find_recipe(method, recipe).overrides()) | {"recipe": recipe}
    values = merge(values, overrides or {})
    # Checked here, before any work, though the method itself is built much later.
    values["options"] = validate(cls.Options, values.get("options", {}), f"options of {method}").model_dump(mode="json")
    return validate(Config, values, "configuration")


def train(
    method: str,
    *,
    data: str | Mapping[str, Any] = "fashion-mnist-lt",
    out: str | Path,
    recipe: str | None = None,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train `method` on `data`, write the run to the folder `out`, and return its results.

    ``longtail.train("glmc", data="photos/", out="runs/photos", train={"epochs": 30}, options={"contrast_weight": 4.0})``.
    `data` is a source, or the fields of `DataConfig`; other keyword arguments are sections and fields of `Config`. Raises `UsageError` or `LongtailError`.
    """
    overrides["data"] = {"source": data} if isinstance(data, str) else data
    config = make_config(method, recipe, overrides)
    run = Run(Path(out))
    run.create(config)
    with _log_to(run):
        return Trainer(config, run, reporter).fit()


def resume(path: str | Path, reporter: Reporter | None = None, method: str | None = None) -> dict[str, Any]:
    """Go on with the run in folder `path` where it was stopped, and return its results.

    Raises `UsageError` where it is not a run folder, or where `method` is given and is not the run's.
    """
    run = Run.open(path)
    config = run.config()
    if method not in (None, config.method):
        raise UsageError(f"{path} is a run of '{config.method}', not of '{method}'.")
    with _log_to(run):
        return Trainer(config, run, reporter).fit(resume=run.checkpoint_file.exists())


@contextmanager
def _log_to(run: Run) -> Iterator[None]:
    """Write the log to the run's folder too."""
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        logger.error("%s", error)
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
