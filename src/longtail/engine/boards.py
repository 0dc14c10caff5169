"""Where the figures of each epoch go besides the run's folder: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress

from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.loggers.logger import Logger

from ..config import Config, flat
from ..errors import LongtailError, UsageError
from ..models.torchvision_compat import ensure_torchvision
from .run import Run, write_json

logger = logging.getLogger("longtail")

PROJECT = "longtail"


class Boards:
    """The loggers that a run was asked for, under one name and, when it is resumed, the same run of theirs."""

    def __init__(self, config: Config, run: Run, purge_step: int | None) -> None:
        """`purge_step`: the first step to be written anew by a run that is resumed.

        Raises `UsageError` for a logger that is not installed, `LongtailError` for one that cannot record the run.
        """
        self.loggers: dict[str, Logger] = {}
        names = run.path / "boards.json"  # what the others call this run
        known: dict[str, str] = json.loads(names.read_text()) if names.exists() else {}
        for name in config.train.loggers:
            if name == "tensorboard":
                self.loggers[name] = TensorBoardLogger(run.path, name="", version=name, purge_step=purge_step)
                continue
            made = _lightnings(name, run, known.get(name))
            try:
                made.log_hyperparams(dict(flat(config.model_dump(mode="json"), ".")))
                known[name] = str(made.version)
            except Exception as error:  # each has its own
                raise LongtailError(f"{name} cannot record this run: {str(error).strip()}") from error
            self.loggers[name] = made
        if known:
            write_json(names, known)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add an epoch's `numbers`. A service that fails is told once and left out: training goes on."""
        for name, board in list(self.loggers.items()):
            try:
                board.log_metrics(dict(numbers), step)
            except Exception as error:
                if name == "tensorboard":
                    raise
                logger.warning("%s fails, and is left out from now on: %s", name, error)
                del self.loggers[name]

    def close(self) -> None:
        """Write what is still held back."""
        for name, board in self.loggers.items():
            with suppress(OSError):  # a full disk, which something that matters more will tell or has told
                board.finalize("success")
                if name == "wandb":
                    board.experiment.finish()  # type: ignore[attr-defined]


def _lightnings(name: str, run: Run, known: str | None) -> Logger:
    """Lightning's logger for a service; `known`: what it called this run when it was begun."""
    ensure_torchvision()
    try:
        from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

        if name == "wandb":
            return WandbLogger(
                name=run.path.name, project=PROJECT, save_dir=run.path, id=known, resume="allow" if known else None
            )
        return MLFlowLogger(
            experiment_name=PROJECT, run_name=run.path.name, run_id=known, save_dir=str(run.path / name)
        )
    except ImportError as error:
        raise UsageError(f"{name} is not installed: pip install 'longtail[{name}]'.") from error
    except Exception as error:
        raise LongtailError(f"{name} cannot record this run: {str(error).strip()}") from error
