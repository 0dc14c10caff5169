"""Loaders of what a backbone's frozen stages make of a run's images, in the place of the images: see `finetune.features`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from ..classes import Classes
from ..config import Config
from ..data.images import ImageSet
from ..data.loaders.setup import Setup, corrupt_images
from ..data.squares import SquareReader
from ..errors import LongtailError, UsageError
from ..finetune.features import FeatureLoader, FrozenStages, Variant, compute
from ..finetune.modes import DRAWS, frozen_stages
from ..hardware import cores
from ..methods import method_class
from ..methods.base import Method
from ..models import Backbone
from .prepare import Loaders, Subset, method_options, preprocessing_of, stages_of
from .reporter import Reporter
from .setup import place
from .signals import Interrupted, StopRequest

logger = logging.getLogger("longtail")


def entry_of(config: Config, backbone: Backbone, subset: Subset, channels: int, size: int) -> int:
    """The stage at which training may start from what the frozen stages before it made: 0 where it has to see images.

    Raises `UsageError` for a protocol that needs images.
    """
    if config.finetune.mode not in DRAWS or not config.finetune.cache or config.data.mean is None:
        return 0
    if method_class(config.method).teacher_run(method_options(config)) is not None:
        logger.info("the teacher has to see images: features of the frozen stages are computed anew in each epoch")
        return 0
    entry = frozen_stages(backbone)
    if config.train.authors_protocol:
        raise UsageError("train.authors_protocol mirrors images, which features are not: set finetune.cache=false.")
    if _draws(config, backbone, entry, subset, channels, size) is None:
        logger.info(
            "what the frozen stages make of the images would take more than the budget of %.1f GB: it is computed anew in each "
            "epoch. To keep it: a larger budget_gb, or fewer finetune.draws.", config.data.budget_gb,
        )  # fmt: skip
        return 0
    return entry


def _draws(config: Config, backbone: Backbone, entry: int, subset: Subset, channels: int, size: int) -> int | None:
    """How many augmented versions of each image are kept: as asked, or else up to the mode's number as many as fit into
    memory. None where they do not."""
    blank = next(backbone.parameters()).new_zeros(1, channels, size, size)
    with torch.inference_mode():
        values = backbone.eval().run(blank, 0, None if entry > len(backbone.stages) else entry).numel()
    asked, most = config.finetune.draws, DRAWS[config.finetune.mode or "head"]
    for draws in range(most, -1, -1) if asked is None else (asked,):
        versions = 1 + draws * len(_specs(config))
        needed = 2 * values * (versions * len(subset.train) + sum(map(len, subset.held_out.values())))
        if needed <= config.data.budget_gb * 2**30:
            return draws
    return None


def _specs(config: Config) -> list[str]:
    """The augmentations of all stages' views."""
    views = (view for stage in stages_of(config) for stream in stage.streams.values() for view in stream.views)
    return list(dict.fromkeys(views))


def build_feature_loaders(
    config: Config, subset: Subset, fabric: Fabric, channels: int, method: Method, reporter: Reporter
) -> Loaders:
    """The loaders of `prepare.build_loaders`, of what the stages before the backbone's `entry` make of the images.

    The main process computes what is not stored yet, and the others read it. Raises as `build_loaders` does.
    """
    place(method, config.train, fabric.device)
    method.eval()
    frozen = FrozenStages(method.backbone, method.backbone.entry)
    data, size = config.data, SquareReader(subset.train, channels, config.data.image_size).size
    draws = _draws(config, method.backbone, method.backbone.entry, subset, channels, size) or 0
    assert data.mean is not None
    assert data.std is not None
    specs = _specs(config) if draws else []
    seen = (
        f"each image plain and in {draws} draw{'s' * (draws > 1)} of its augmentation"
        if draws
        else "each image plain, not augmented"
    )
    logger.info("computed once and kept: %s. Overrule with finetune.draws, or finetune.cache=false.", seen)
    setup = Setup(
        fabric.device, data.mean, data.std, min(data.workers, cores()), data.skip_corrupt,
        fabric.global_rank, fabric.world_size,
    )  # fmt: skip

    def loader(images: ImageSet, variants: list[Variant]) -> FeatureLoader:
        watched = _progress(reporter, f"features of {images.name}", stop := StopRequest())
        with fabric.rank_zero_first(), stop, watched as advance:
            values, positions, corrupt = compute(
                images, frozen, variants, setup=setup, channels=channels, image_size=data.image_size, advance=advance
            )
        if stop.number is not None:
            raise Interrupted(stop.number, "The features computed so far are kept: give the same command again.")
        if corrupt and not data.skip_corrupt:
            raise corrupt_images(list(corrupt.values()))
        plain = values[Variant("")]
        versions = {"": [plain]}
        for spec in specs if len(variants) > 1 else ():
            versions[spec] = [plain, *(values[Variant(spec, draw)] for draw in range(draws))]
        built = FeatureLoader(images, setup, positions, versions, size)
        built.skipped = [images.key(i) for i in sorted(corrupt)]
        return built

    train = loader(subset.train, [Variant(""), *(Variant(spec, draw) for spec in specs for draw in range(draws))])
    classes = Classes.from_labels(subset.classes.names, train.labels)
    if 0 in classes.counts:
        raise LongtailError(f"Every training image of class '{classes.names[classes.counts.index(0)]}' is corrupt.")
    held_out = {name: loader(images, [Variant("")]) for name, images in subset.held_out.items()}
    return Loaders(train, held_out, classes, preprocessing_of(train, data, subset, channels))


@contextmanager
def _progress(reporter: Reporter, label: str, stop: StopRequest) -> Iterator[Callable[[int, int], bool]]:
    """What is told how many images of how many are done, and says whether to stop there. Says how long they will take once
    that can be told."""
    begun, last = time.monotonic(), 0

    def advance(done: int, total: int) -> bool:
        nonlocal last
        if not last:
            reporter.begin(label, total)
        elif last <= total // 10 < done:
            rate = done / (time.monotonic() - begun)
            logger.info("%s: %s, %.0f a second: %.0f s left", label, f"{total:,}", rate, (total - done) / rate)
        reporter.advance(done - last)
        last = done
        return stop.number is not None

    yield advance
    if last:
        reporter.end()
        logger.info("%s: %s in %.0f s", label, f"{last:,}", time.monotonic() - begun)
