"""One optimisation step, in the two parts that `methods.base.Update` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..config import TrainConfig
from ..methods.base import Batch, Clock
from .schedule import build_optimizer


class StepUpdate:
    """Gradients of a method's terms, over all processes, and what the optimiser does with them."""

    def __init__(self, fabric: Fabric, method: nn.Module, train: TrainConfig, groups: list[dict[str, Any]]) -> None:
        self._fabric, self._clip = fabric, train.clip
        self._module: Any = fabric.setup_module(method)
        self._wrapped: Any = fabric.setup_optimizers(build_optimizer(train, groups))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._wrapped.optimizer

    def set_rate(self, rate: float) -> None:
        """Let each group learn at the step's rate, or its share of it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def gradients(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """See `Update.gradients`."""
        terms: dict[str, Tensor] = self._module(batch, clock)
        self._wrapped.zero_grad(set_to_none=True)
        self._fabric.backward(torch.stack(list(terms.values())).sum())
        return terms

    def apply(self) -> None:
        """See `Update.apply`."""
        if self._clip is not None:
            self._fabric.clip_gradients(self._module, self._wrapped, max_norm=self._clip, error_if_nonfinite=False)
        self._wrapped.step()


class NoUpdate:
    """For stages in which nothing learns: the terms are computed, and that is all."""

    def __init__(self, method: nn.Module) -> None:
        self._method = method
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD([torch.zeros(0)], lr=1.0)  # of nothing

    def set_rate(self, rate: float) -> None:
        """Nothing learns at any rate."""

    @torch.no_grad()
    def gradients(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        """See `Update.gradients`."""
        terms: dict[str, Tensor] = self._method(batch, clock)
        return terms

    def apply(self) -> None:
        """See `Update.apply`."""
