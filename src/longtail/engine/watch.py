"""The loss terms of an epoch: summed without waiting for the device, looked at now and then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import DivergedError
from ..methods.base import Method
from .run import Run

# Steps between looks at the losses' values: each look makes the host wait for the device.
CHECK_EVERY = 50


class LossWatch:
    """Sums of an epoch's loss terms, and an error where one is not finite."""

    def __init__(self, run: Run, epoch: int, totals: Mapping[str, float], device: torch.device) -> None:
        """`totals`: sums of the steps before, where the epoch goes on."""
        self.run, self.epoch = run, epoch
        self.totals = {name: torch.tensor(value, device=device) for name, value in totals.items()}
        self._unchecked: list[dict[str, Tensor]] = []  # the terms of the steps since the last look

    def add(self, terms: Mapping[str, Tensor], step: int) -> None:
        """Take in the terms of `step`. Raises `DivergedError`, at every so many steps, where one is not finite."""
        terms = {name: value.detach() for name, value in terms.items()}
        self._unchecked.append(terms)
        for name, value in terms.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value.clone()
        if (step + 1) % CHECK_EVERY == 0:
            self.check(step)

    def check(self, step: int, weights_of: Method | None = None) -> None:
        """Raise `DivergedError` unless the losses up to `step`, and before a checkpoint the weights too, are finite."""
        bad = [f"loss term '{name}'" for name, value in self.totals.items() if not torch.isfinite(value)]
        # One term that is not finite soon makes the others so: name the first.
        for first, terms in enumerate(self._unchecked, step + 1 - len(self._unchecked)):
            if bad and (culprits := [name for name, value in terms.items() if not torch.isfinite(value)]):
                bad, step = [f"loss term '{name}'" for name in culprits], first
                break
        if weights_of is not None and not bad:
            bad = [f"weight '{name}'" for name, value in weights_of.named_parameters() if not value.isfinite().all()]
        self._unchecked.clear()
        if bad:
            path = self.run.checkpoint_file
            kept = f"The last good checkpoint is {path}. " if path.exists() else ""
            raise DivergedError(
                f"In epoch {self.epoch + 1}, step {step + 1}, {bad[0]} is not finite. "
                f"{kept}Try a lower train.lr, train.clip=1 or train.precision=fp32."
            )
