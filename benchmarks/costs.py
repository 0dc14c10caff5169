"""What each method costs beside cross-entropy: `python -m benchmarks.costs` writes `src/longtail/methods/costs.json`.

Of the first stage, on resnet32 with 100 classes: augmented images for each image of an epoch, floating-point operations of
the forward pass of a step, and parameters in training, the two latter as multiples of cross-entropy's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import longtail
from longtail.classes import Classes
from longtail.errors import UsageError
from longtail.methods import METHODS, method_class
from longtail.methods.base import Batch, Clock
from longtail.models import build_backbone

FILE = Path(longtail.__file__).parent / "methods" / "costs.json"
CLASSES = Classes(tuple(map(str, range(100))), tuple(range(200, 100, -1)))
B = 20


def totals(name: str) -> tuple[int, int, int]:
    """Views, operations and parameters of a method's first stage."""
    torch.manual_seed(0)
    cls = method_class(name)
    options = cls.Options()
    method = cls(build_backbone("resnet32"), CLASSES, options)
    stage = cls.stages(options)[0]
    batch = {
        key: Batch(tuple(torch.randn(B, 3, 32, 32) for _ in stream.views), torch.arange(B), torch.arange(B))
        for key, stream in stage.streams.items()
    }
    # The last step of a run: what a method starts late is on, and what it only does at the start is over.
    clock = Clock(stage.name, 199, 200, 0, 1, torch.Generator().manual_seed(0))
    method.before_epoch(clock)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.losses(batch, clock)
    views = sum(len(stream.views) for stream in stage.streams.values())
    return views, counter.get_total_flops(), sum(parameter.numel() for parameter in method.parameters())


def measure() -> dict[str, dict[str, float]]:
    """The costs of every method that trains on a CIFAR ResNet."""
    _, operations, parameters = totals("ce")
    costs = {}
    for name in METHODS:
        try:
            views, own, weights = totals(name)
        except UsageError:  # it wants another network
            continue
        costs[name] = {
            "views": views,
            "work": round(own / operations, 2),
            "parameters": round(weights / parameters, 2),
        }
    return costs


if __name__ == "__main__":
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(cost)}" for name, cost in measure().items())
    FILE.write_text(f"{{\n{lines}\n}}\n")
