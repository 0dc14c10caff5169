"""The run's images as a method sees them before a stage: `methods.base.Passes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..config import TrainConfig
from ..errors import UsageError
from ..methods.base import Batch, Stage, Stream
from ..seeding import derive_seed
from .prepare import Loaders


class RunPasses:
    """Passes over a run's images. Those over a stream draw other images and augmentations each time they are asked for."""

    def __init__(self, loaders: Loaders, train: TrainConfig, stage: Stage, seed: int) -> None:
        self._loaders, self._train, self._stage, self._seed = loaders, train, stage, seed
        self._drawn = 0

    def training(self, stream: Stream | None = None) -> Iterator[Batch]:
        """See `Passes.training`."""
        if stream is None:
            return self._loaders.train.evaluation(self._train.batch_size)
        drawn, self._drawn = self._drawn, self._drawn + 1
        batches = self._loaders.train.batches(
            {"pass": stream},
            batch_size=self._train.batch_size,
            seed=derive_seed(self._seed, "pass", self._stage.name),
            epoch=drawn,
            last_batch=self._train.last_batch,
        )
        return (batch["pass"] for batch in batches)

    def held_out(self) -> Iterator[Batch]:
        """See `Passes.held_out`."""
        check_held_out(self._stage, self._loaders.held_out)
        return self._loaders.held_out["val"].evaluation(self._train.batch_size)


def check_held_out(stage: Stage, splits: Mapping[str, object]) -> None:
    """Raise `UsageError` where `stage` chooses by held-out images and `splits` has none."""
    if "val" not in splits:
        raise UsageError(
            f"Stage {stage.name} chooses by images held out of training, and there are none: "
            "hold some out, for instance with --set validation=0.1."
        )
