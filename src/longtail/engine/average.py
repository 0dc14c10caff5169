"""Averaged weights."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """The exponential moving average of a model's weights and buffers, in `module`.

    PyTorch's class sends its count of updates to the model's device each time, for which the host waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take `model` into the average: all of it the first time. Of whole numbers the newest are kept."""
        averages, news = _split(self.module), _split(model)
        torch._foreach_lerp_(averages[True], news[True], 1 - self.decay if self.n_averaged else 1.0)
        if averages[False]:
            torch._foreach_copy_(averages[False], news[False])
        self.n_averaged += 1


def _split(model: nn.Module) -> dict[bool, list[Tensor]]:
    """Parameters and buffers of a model by whether they are floating-point numbers."""
    tensors = list(chain(model.parameters(), model.buffers()))
    return {kind: [value for value in tensors if value.is_floating_point() == kind] for kind in (True, False)}
