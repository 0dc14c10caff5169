"""The finished run that a method learns from beside the labels: see `Method.teacher_run`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..errors import UsageError
from ..files import read_json
from ..methods import method_class
from .deploy import load
from .prepare import Loaders, Subset, method_options
from .run import Run
from .setup import set_precision

logger = logging.getLogger("longtail")


def check_teacher(config: Config, subset: Subset, channels: int, size: int) -> None:
    """Raise `UsageError` where the run names a teacher that cannot teach the classes of `subset`, or learned from images of
    another size or colour."""
    if (path := _teacher_run(config)) is None:
        return
    teacher = load(path)
    teacher.check_classifies()
    if teacher.classes != subset.classes.names:
        other, own = (f"{len(n)} ({', '.join(n[:3])}, ...)" for n in (teacher.classes, subset.classes.names))
        raise UsageError(
            f"The teacher in {path} has other classes than this run, or has them in another order: {other}, not {own}. "
            "Name a run on the same classes."
        )
    theirs = teacher.description.preprocessing
    if (theirs.image_size, theirs.channels) != (size, channels):
        kinds = [
            f"{'grey' if of == 1 else 'RGB'} images of {pixels} pixels"
            for pixels, of in ((theirs.image_size, theirs.channels), (size, channels))
        ]
        raise UsageError(f"The teacher in {path} learned from {kinds[0]}, and this run from {kinds[1]}: use the same.")
    facts = Run(Path(path)).environment_file
    if facts.exists() and read_json(facts).get("data", {}).get("subset_hash") != subset.description["subset_hash"]:
        logger.warning(
            "the teacher in %s learned from other images: some that are held out here may be among them", path
        )


def load_teacher(config: Config, loaders: Loaders, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """A function from this run's images to the logits of its teacher, in evaluation mode and without gradients.

    None where it names none.
    """
    if (path := _teacher_run(config)) is None:
        return None
    teacher = load(path, device)
    ours, theirs = loaders.preprocessing, teacher.description.preprocessing
    set_precision(teacher.method, config.train, device)

    def per_channel(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=device).view(-1, 1, 1)

    same = (ours.mean, ours.std) == (theirs.mean, theirs.std)
    factor = per_channel(ours.std) / per_channel(theirs.std)
    shift = (per_channel(ours.mean) - per_channel(theirs.mean)) / per_channel(theirs.std)

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        return teacher.method.logits(images if same else images * factor + shift)

    return teach


def _teacher_run(config: Config) -> str | None:
    return method_class(config.method).teacher_run(method_options(config))
