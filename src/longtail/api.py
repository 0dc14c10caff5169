"""The project from Python: `train`, `evaluate` and `load`. The command line calls these."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from . import rates
from .config import Config, DataConfig, merge, validate
from .data.images import ImageSet
from .data.sources import absolute, open_source
from .data.sources.given import give
from .data.squares import SquareReader
from .engine.calibrate import calibrate
from .engine.predictor import Predictor
from .engine.prepare import choose_images
from .engine.reporter import Reporter
from .engine.run import Run
from .engine.score import score as evaluate
from .engine.trainer import Trainer
from .errors import LongtailError, UsageError
from .finetune import plan
from .finetune.modes import DRAWS
from .finetune.pace import Pace, measure
from .finetune.pixels import complete
from .finetune.trials import Trials
from .methods import method_class, method_name
from .methods.base import Method
from .printable import PrintableFormatter, untold
from .recipes import find_recipe
from .report.run_report import write_report
from .ship.export import export
from .ship.hub import push_to_hub
from .ship.runtime import load

__all__ = ["Predictor", "calibrate", "evaluate", "export", "load", "make_config", "push_to_hub", "resume", "train"]

logger = logging.getLogger("longtail")


def make_config(
    method: str | type[Method], recipe: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Lay a run's settings over each other: project defaults, the method's, the recipe's, then `overrides`.

    `overrides` has the sections of `Config`, for instance ``{"train": {"epochs": 10}, "data": {"source": "my/folder"}}``.
    Raises `UsageError` naming every wrong option.
    """
    method = method_name(method)
    cls = method_class(method)
    values: dict[str, Any] = {
        "method": method,
        "train": dict(cls.train_defaults),
        "finetune": dict(cls.finetune_defaults),
    }
    if recipe is not None:
        values = merge(values, find_recipe(method, recipe).overrides()) | {"recipe": recipe}
    values = merge(values, overrides or {})
    # Checked here, before any work, though the method itself is built much later.
    values["options"] = validate(cls.Options, values.get("options", {}), f"options of {method}").model_dump(mode="json")
    return validate(Config, values, "configuration")


def for_photographs(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` laid over a trained backbone and how to fine-tune it, where the data are photographs larger than 64
    pixels and nothing in `overrides` speaks against it. Each choice is logged, with how to overrule it."""
    images = _training_images(overrides)
    return dict(overrides) if images is None else merge(plan.for_photographs(images, overrides), overrides)


def for_own_data(method: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` laid over what suits a set of the user's own: a trained backbone (`for_photographs`), or from scratch rates
    and epochs of `method` where it allows few steps (`rates`). A set that is carved is somebody's benchmark, and keeps the
    method's, and so does a run that goes on from another."""
    images = _training_images(overrides)
    if images is None:
        return dict(overrides)
    told = merge(plan.for_photographs(images, overrides), overrides)
    if told.get("pretrained") or told.get("start_from") or told["data"].get("imbalance") is not None:
        return told
    return merge(rates.for_few_steps(method, len(images), told), told)


def _training_images(overrides: Mapping[str, Any]) -> ImageSet | None:
    """Those that `overrides` name. None where they name none or cannot be opened, which training tells."""
    given = overrides.get("data", {})
    if "source" not in given:
        return None
    try:
        with untold():
            config: DataConfig = validate(DataConfig, given, "data")
            return open_source(config.source, **config.reading()).train
    except LongtailError:
        return None


def train_within(
    seconds: float, *, out: str | Path, overrides: Mapping[str, Any], reporter: Reporter | None = None
) -> dict[str, Any]:
    """Try methods on images held out of training, and train the best on all of them, in so many `seconds`.

    `overrides`: as `train` takes them. Returns the results of the run in `out`; the trials are in `out`-trials. Raises
    `UsageError` where so many seconds are too few.
    """
    trials = Trials(Path(out), seconds, overrides, reporter, train_as_told)
    pace, images, test = _pace("ce", overrides)
    return trials.run(pace, images, test)


def tell_time(method: str, overrides: Mapping[str, Any]) -> None:
    """Log how long fine-tuning with these settings of `train` will take, by a few steps of the backbone on this machine."""
    pace, images, held_out = _pace(method, overrides)
    config = make_config(method, None, overrides)
    draws = config.finetune.draws if config.finetune.draws is not None else DRAWS.get(config.finetune.mode or "", 0)
    logger.info("at the speed just measured here: %s", pace.tell(images, held_out, draws, config.train.epochs))


def _pace(method: str, overrides: Mapping[str, Any]) -> tuple[Pace, int, int]:
    """How fast the backbone is here, and how many images are trained on and held out."""
    with untold():
        config = resolved(make_config(method, None, overrides))
        subset = choose_images(config.data, config.seed)
        size = SquareReader(subset.train, 3, config.data.image_size).size
        pace = measure(config, size, plan.device_kind())
    return pace, len(subset.train), sum(map(len, subset.held_out.values()))


def go_on_from(run: str | Path, then: Sequence[str], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `train` takes to go on with a finished run, as it was begun, by the second stages named in `then`.

    Raises `UsageError` where `run` is no run folder.
    """
    config = Run.open(run).config()
    told = config.model_dump(mode="json", exclude={"method", "stages", "recipe"}, exclude_none=True)
    return merge(told, overrides or {}) | {"method": "+".join((config.method, *then)), "start_from": str(run)}


def train(
    method: str | type[Method],
    *,
    data: Any = "fashion-mnist-lt",
    out: str | Path,
    recipe: str | None = None,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train `method` on `data`, write the run to the folder `out`, and return its results.

    ``longtail.train("glmc", data="photos/", out="runs/photos", train={"epochs": 30}, options={"contrast_weight": 4.0})``.
    `method` is a name, `module:Class`, or a class of your own that derives from `longtail.methods.base.Method`. `data` is a
    source, the fields of `DataConfig`, a torch data set of (image, label), a pair of such for training and test, or a Hugging
    Face data set; see `data.sources.given.give`. Other keyword arguments are sections and fields of `Config`. Photographs
    larger than 64 pixels start from a trained backbone, as on the command line, unless `recipe`, `backbone` or
    ``pretrained=False`` says otherwise. Raises `UsageError` or `LongtailError`.
    """
    told: dict[str, Any] = overrides | {"data": _data_fields(data)}
    if recipe is None:
        told = for_photographs(told)
    return train_as_told(method, out=out, recipe=recipe, reporter=reporter, **told)


def train_as_told(
    method: str | type[Method],
    *,
    out: str | Path,
    recipe: str | None = None,
    reporter: Reporter | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """As `train`, which chose what was left open, or whose caller did: `overrides` over the defaults alone."""
    config = resolved(make_config(method, recipe, overrides))
    run = Run(Path(out))
    trainer = Trainer(config, run, reporter)
    with _claimed(run, trainer.is_main), _folder(run, config, trainer.is_main):
        return _fit(trainer)


def resolved(config: Config) -> Config:
    """`config` as a run keeps it: completed by what its images and backbone ask for, its paths absolute."""
    config = complete(config)
    return config.model_copy(update={"data": config.data.model_copy(update=_absolute_paths(config.data))})


def _absolute_paths(data: DataConfig) -> dict[str, str | None]:
    """Where a run's images are, however its folder is come to later: from another working folder, above all."""
    root = data.root and os.path.abspath(os.path.expanduser(data.root))
    return {"source": absolute(data.source), "test": data.test and absolute(data.test), "root": root}


def _data_fields(data: Any) -> Mapping[str, Any]:
    """The fields of `DataConfig` that `data` means."""
    if isinstance(data, (str, Path)):
        return {"source": str(data)}
    if isinstance(data, dict) and not any(hasattr(part, "features") for part in data.values()):
        given = data.get("source", "")  # fields, of which the source may be a data set
        return data if isinstance(given, (str, Path)) else data | {"source": give(given)}
    return {"source": give(data)}


def resume(
    path: str | Path,
    reporter: Reporter | None = None,
    method: str | None = None,
    epochs: int | None = None,
    data: Any = None,
) -> dict[str, Any]:
    """Go on with the run in folder `path` where it was stopped, and return its results.

    A run that has finished trains on where `epochs`, or its config by now, asks for more epochs than it had.
    `data`: the data set that the run was given as an object, where this is another process.

    Raises `UsageError` where it is not a run folder, or where `method` is given and is not the run's.
    """
    run = Run.open(path)
    config = run.config()
    if method not in (None, config.method):
        raise UsageError(f"{path} is a run of '{config.method}', not of '{method}'.")
    if epochs is not None:
        config = validate(Config, merge(config.model_dump(), {"train": {"epochs": epochs}}), "configuration")
    if data is not None:
        give(data, config.data.source)
    trainer = Trainer(config, run, reporter)
    with _claimed(run, trainer.is_main), _log_to(run, trainer.is_main):
        return _fit(trainer, resume=run.checkpoint_file.exists())


def _fit(trainer: Trainer, resume: bool = False) -> dict[str, Any]:
    """Train to the end, write the report where one is wanted, and return the results."""
    results = trainer.fit(resume)
    if trainer.is_main and trainer.config.report:
        try:
            write_report(trainer.run.path)
        except Exception as error:  # the training is done, and no page is worth losing it
            logger.warning("The report could not be made: %s. Try again: longtail report %s", error, trainer.run.path)
    return results


def go_on(path: str | Path, reporter: Reporter | None = None) -> dict[str, Any] | None:
    """The results of the run in folder `path`, resumed where it has not finished; None where none was begun."""
    run = Run(Path(path))
    if not run.config_file.exists():
        return None
    return run.results() if run.results_file.exists() else resume(path, reporter)


def _claimed(run: Run, is_main: bool) -> AbstractContextManager[None]:
    """The run's folder for this training alone. Of its processes, the main one holds it."""
    return run.claimed() if is_main else nullcontext()


@contextmanager
def _folder(run: Run, config: Config, is_main: bool) -> Iterator[None]:
    """A new run folder, which goes again if nothing comes of it: the mended command can then be given as it was."""
    if is_main:
        run.create(config)
    try:
        with _log_to(run, is_main):
            yield
    except BaseException:
        if is_main and not run.checkpoint_file.exists():
            shutil.rmtree(run.path, ignore_errors=True)
        raise


class _LogFile(logging.FileHandler):
    """Stays silent where the disk is full: what the run writes next will say so, once and clearly."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextmanager
def _log_to(run: Run, is_main: bool) -> Iterator[None]:
    """Write the log to the run's folder too, and what ended the run there alone: the caller shows it."""
    if not is_main:
        yield
        return
    handler = _LogFile(run.log_file)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, str(error), (), None))
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
