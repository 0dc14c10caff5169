"""What is refused of a run's settings before any image is decoded."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..config import Config
from ..errors import UsageError
from ..files import read_json
from ..methods.base import Method, Stage
from .passes import check_held_out
from .prepare import Subset, check_method
from .run import Run
from .setup import within
from .teacher import check_teacher


def check_plan(config: Config, stages: Iterable[Stage], subset: Subset, channels: int, size: int) -> None:
    """Raise `UsageError` for what cannot be done with the images of `subset`: by the method, by the teacher that it names, or
    by a stage that chooses by held-out images."""
    check_method(config, subset.classes)
    check_teacher(config, subset, channels, size)
    for stage in stages:
        if stage.held_out:
            check_held_out(stage, subset.held_out)
            if config.start_from is not None:
                check_held_out_from(stage, Run.open(config.start_from), subset.description["subset_hash"])


def check_held_out_from(stage: Stage, source: Run, subset_hash: str) -> None:
    """Raise `UsageError` where `source`, from which the run starts, trained on other images than the run has for it."""
    trained = read_json(source.environment_file).get("data", {}).get("subset_hash")
    if trained != subset_hash:
        raise UsageError(
            f"Stage {stage.name} chooses by images held out of training, but {source.path} was trained on other images, "
            "and maybe on these: train it with the same data options (validation, seed, ...) first."
        )


def check_shares(method: Method, stage: Stage, batch_size: int, processes: int) -> None:
    """Raise `UsageError` where a batch norm over vectors, as in a projector, would see one image in a step of `stage`."""
    norms = [name for name, module in method.named_modules() if isinstance(module, torch.nn.BatchNorm1d)]
    runs = [name for name in norms if any(within(name, part) for part in stage.in_train_mode)]
    if runs and batch_size < 2 * processes:
        each = "" if processes == 1 else f" on each of {processes} devices"
        raise UsageError(
            f"Stage {stage.name} has a batch of {batch_size}: the batch norm in '{runs[0].split('.')[0]}' needs more than one "
            f"image a step{each}: use --set batch_size={2 * processes} or more."
        )
