"""From a config to the objects of a run: data carved and loaded, model built."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..classes import Classes
from ..config import Config, DataConfig, validate
from ..data.images import ImageSet
from ..data.loaders import Loader, build_loader
from ..data.longtail import carve, check_labels, holdout, labels_hash, subset_hash
from ..data.preprocessing import Preprocessing
from ..data.samplers import LastBatch
from ..data.sources import open_source
from ..data.squares import stored_size
from ..data.streams import Batch, Stream
from ..data.values import settle_values
from ..errors import LongtailError, UsageError
from ..finetune.modes import prepare
from ..hardware import cores
from ..methods import method_class
from ..methods.base import Method, Stage
from ..models import Backbone, build_backbone
from ..seeding import derive_seed
from .run import Run

if TYPE_CHECKING:  # a report needs no Fabric, which takes a second to import
    from lightning_fabric import Fabric

logger = logging.getLogger("longtail")

# Share of training held out where a source has no test split of its own: enough to see every shot group.
DEFAULT_VALIDATION = 0.2


@dataclass(frozen=True)
class Subset:
    """Which images a run trains and is judged on, before any pixel is read."""

    classes: Classes
    train: ImageSet
    held_out: Mapping[str, ImageSet]
    description: Mapping[str, Any]


def choose_images(data: DataConfig, seed: int) -> Subset:
    """Open the source, carve the long tail, hold out validation. Raises `UsageError` for what cannot be done."""
    splits = open_source(data.source, **data.reading())
    source, test, val = splits.train, splits.test, splits.val
    if val is not None and data.validation is not None:  # which says where validation images are to come from
        role = "the test set" if test is None else "left aside"
        logger.info("%s is %s, as data.validation=%g says", val.name, role, data.validation)
        test, val = test or val, None
    if not data.use_test:
        test = None
    check_labels(source)
    indices = np.arange(len(source))
    if data.imbalance is not None:
        names = len(source.class_names)
        indices = carve(source.labels, names, data.imbalance, data.profile, data.subset, data.subset_seed, data.n_max)
    share = data.validation
    if share is None:
        share = 0.0 if test is not None or val is not None else DEFAULT_VALIDATION
    held_out: dict[str, ImageSet] = {} if val is None else {"val": val}
    if share:
        kept, validation = holdout(source.labels[indices], share, derive_seed(seed, "validation") % 2**32)
        held_out["val"] = source.select(indices[validation])
        held_out["val"].name = f"{source.name}, held out"
        indices = indices[kept]
    if test is not None:
        held_out["test"] = test
    train = source.select(indices)
    classes = Classes.from_labels(source.class_names, train.labels)
    description = {
        "source": source.name,
        "train_images": len(train),
        "classes": len(classes),
        "imbalance_factor": round(classes.imbalance_factor, 2),
        "subset": f"{data.profile}, {data.subset}" if data.imbalance is not None else "as it is",
        "subset_hash": subset_hash(indices),
        **{f"{name}_images": len(images) for name, images in held_out.items()},
        "labels_hash": labels_hash(classes.names, [train.labels, *(images.labels for images in held_out.values())]),
    }
    return Subset(classes, train, held_out, description)


def images_of(run: Run) -> Subset:
    """The images that `run` was begun with. Raises `UsageError` where its source holds others by now."""
    config = run.config()
    subset = choose_images(config.data, config.seed)
    if (noted := run.environment()) is not None:
        then = noted["data"]
        for fact, now in subset.description.items():
            if fact != "source" and then.get(fact, now) != now:
                raise UsageError(
                    f"{config.data.source} has changed since {run.path} was begun: {fact.replace('_', ' ')} {then[fact]} "
                    f"then, {now} now. Bring back what it held, or train anew in another folder."
                )
    return subset


@dataclass(frozen=True)
class Loaders:
    """`classes` counts the images that can be drawn: without the unreadable ones that were left out."""

    train: Loader
    held_out: Mapping[str, Loader]
    classes: Classes
    preprocessing: Preprocessing

    def batches(
        self, streams: Mapping[str, Stream], *, batch_size: int, last_batch: LastBatch, **told: Any
    ) -> Generator[dict[str, Batch], None, None]:
        """As `Loader.batches`, those of streams of held-out images beside those of the others."""
        told["batch_size"] = batch_size
        own = {name: stream for name, stream in streams.items() if not stream.held_out}
        others = {name: stream for name, stream in streams.items() if stream.held_out}
        training = self.train.batches(own, last_batch=last_batch, **told)
        if not others:
            return training
        steps = self.train.steps(batch_size, last_batch)
        return _side_by_side(training, self.held_out["val"].batches(others, steps=steps, **told))

    @property
    def skipped(self) -> list[str]:
        """Unreadable images that were left out, by name."""
        return [name for loader in (self.train, *self.held_out.values()) for name in loader.skipped]


def _side_by_side(
    *sources: Generator[dict[str, Batch], None, None],
) -> Generator[dict[str, Batch], None, None]:
    with ExitStack() as stack:
        for source in sources:
            stack.enter_context(closing(source))
        for parts in zip(*sources, strict=True):
            yield {name: batch for part in parts for name, batch in part.items()}


def settle_pixels(config: DataConfig, subset: Subset) -> int:
    """Decide, from all images' headers, how the pixels of every split are read. Returns the channels: 1 (grey) or 3."""
    return settle_values(
        subset.train,
        list(subset.held_out.values()),
        config.channels,
        config.value_range,
        max(1, min(config.workers, cores())),
    )


def build_loaders(config: DataConfig, subset: Subset, fabric: Fabric, channels: int) -> Loaders:
    """Load, or get ready to stream, every split, normalised as the config says or by the training images' statistics.

    Raises `UsageError` for a mean or deviation of other channels than the images', and `LongtailError` where an image is
    corrupt and is not to be skipped, or where skipping leaves a class empty.
    """
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != channels:
            raise UsageError(
                f"data.{name} has {len(values)} values, but the images of {subset.train.name} are "
                f"{'grey' if channels == 1 else 'RGB'}: give {channels}, one for each channel, "
                "or have them measured: --set mean=null --set std=null."
            )
    train = build_split(subset.train, config, fabric, channels, config.mean, config.std)
    classes = Classes.from_labels(subset.classes.names, train.labels)
    if 0 in classes.counts:
        raise LongtailError(f"Every training image of class '{classes.names[classes.counts.index(0)]}' is corrupt.")
    held_out = {
        name: build_split(images, config, fabric, channels, train.mean, train.std)
        for name, images in subset.held_out.items()
    }
    for loader, images in zip(held_out.values(), subset.held_out.values(), strict=True):
        check_native_size(loader, images, train.size)
    return Loaders(train, held_out, classes, preprocessing_of(train, config, subset, channels))


def preprocessing_of(train: Loader, config: DataConfig, subset: Subset, channels: int) -> Preprocessing:
    """How the pixels of the training loader's images become a network's input."""
    return Preprocessing(
        resize=train.size if config.image_size is None else stored_size(train.size),
        image_size=train.size,
        channels=channels,
        mean=train.mean,
        std=train.std,
        value_range=subset.train.value_range,
    )


def check_native_size(loader: Loader, images: ImageSet, trained: int) -> None:
    """Raise `UsageError` where images that are not resized differ from those of training in size."""
    if loader.size != trained:
        raise UsageError(
            f"The images of {images.name} have {loader.size} x {loader.size} pixels, those of training {trained} x "
            f"{trained}. Say what to resize all to when training, for example --image-size {trained}."
        )


def build_split(
    images: ImageSet,
    config: DataConfig,
    fabric: Fabric,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Loader:
    """The loader of one split, on this process's device."""
    return build_loader(
        images,
        device=fabric.device,
        channels=channels,
        image_size=config.image_size,
        budget_bytes=int(config.budget_gb * 2**30),
        mean=mean,
        std=std,
        mode=config.loader,
        workers=min(config.workers, cores()),  # more would only get in each other's way, and PyTorch says so each epoch
        skip_corrupt=config.skip_corrupt,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        log=logger.info,
    )


def method_options(config: Config) -> Any:
    """The method's hyper-parameters, checked once however often they are asked for. Raises `UsageError`."""
    cls: Any = method_class(config.method)
    return _checked_options(cls, config.method, json.dumps(config.options, sort_keys=True))


@lru_cache(maxsize=8)
def _checked_options(cls: Any, name: str, options: str) -> Any:
    return validate(cls.Options, json.loads(options), f"options of {name}")


def stages_of(config: Config) -> list[Stage]:
    """The stages of the run's method, in order."""
    return method_class(config.method).stages(method_options(config))


def check_method(config: Config, classes: Classes) -> None:
    """Raise `UsageError` for what the method cannot do with these classes and batches, or in so many seconds."""
    if config.train.seconds is not None and (stages := len(stages_of(config))) > 1:
        raise UsageError(f"train.seconds is for methods of one stage; {config.method} has {stages}: give train.epochs.")
    method_class(config.method).check(method_options(config), classes, config.train.batch_size)


def build_method(
    config: Config,
    classes: Classes,
    channels: int,
    image_size: int | None = None,
    entry: Callable[[Backbone], int] = lambda backbone: 0,
) -> Method:
    """The method with its backbone, initialised from the run's seed. `entry` says where the backbone is entered."""
    torch.manual_seed(derive_seed(config.seed, "initialisation"))
    backbone = build_backbone(config.backbone, channels, config.pretrained, image_size, config.weights)
    prepare(backbone, config.finetune, len(classes))
    backbone.entry = entry(backbone)  # before the method copies or divides it
    return method_class(config.method)(backbone, classes, method_options(config))
