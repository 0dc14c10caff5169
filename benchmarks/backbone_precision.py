"""Training steps per second in float32 NCHW, in bf16 channels-last, and in that compiled, in turns in one run.

    python -m benchmarks.backbone_precision resnet32 resnet32_w64 --out benchmarks/results/backbone_precision.json

The settings take turns, so that whatever else the machine does slows all of them; the figures to read are the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.measuring import about, ratios
from longtail.cli import run
from longtail.engine.run import write_json
from longtail.memory import keep_freed_memory
from longtail.models import build_backbone, count_parameters
from longtail.models.heads import LinearClassifier

PLAIN = "fp32 NCHW"
SETTINGS = {  # name: (bf16 and channels-last, compiled)
    PLAIN: (False, False),
    "bf16 channels-last": (True, False),
    "bf16 channels-last, compiled": (True, True),
}


class Setting:
    """A network, its optimiser and a batch of random images on `device`."""

    def __init__(self, name: str, device: torch.device, batch: int, size: int, fast: bool, compiled: bool) -> None:
        torch.manual_seed(0)
        backbone = build_backbone(name)
        layout = torch.channels_last if fast else torch.contiguous_format
        backbone.precision = torch.bfloat16 if fast else None
        self.device = device
        self.model = nn.Sequential(backbone, LinearClassifier(backbone.dim, 10)).to(device)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs miss this form
        if compiled:
            backbone.compile()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.images: Tensor = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
        self.labels = torch.randint(10, (batch,), device=device)

    def images_per_second(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            self.optimiser.zero_grad()
            nn.functional.cross_entropy(self.model(self.images), self.labels).backward()
            self.optimiser.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return steps * len(self.images) / (time.perf_counter() - start)


def measure(name: str, device: torch.device, batch: int, size: int, steps: int, rounds: int) -> dict[str, Any]:
    settings = {label: Setting(name, device, batch, size, *flags) for label, flags in SETTINGS.items()}
    for setting in settings.values():
        setting.images_per_second(2)  # warm up
    rates: dict[str, list[float]] = {label: [] for label in settings}
    for _ in range(rounds):
        for label, setting in settings.items():
            rates[label].append(setting.images_per_second(steps))
    return {
        "backbone": name,
        "parameters": count_parameters(settings[PLAIN].model),
        "images_per_second": {label: statistics.median(turns) for label, turns in rates.items()},
        f"over {PLAIN}": {label: ratios(turns, rates[PLAIN]) for label, turns in rates.items()},
        "rounds": rates,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["resnet32", "resnet32_w64"])
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=3, help="training steps a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each setting")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)

    if args.device.type == "cpu":
        keep_freed_memory()  # as the trainer does
    results = [measure(n, args.device, args.batch, args.size, args.steps, args.rounds) for n in args.backbones]
    table = Table("backbone", "parameters", *SETTINGS, title="training, images/s (times fp32 NCHW)")
    for r in results:
        over = r[f"over {PLAIN}"]
        cells = [f"{rate:.0f} ({over[label]['median']:.2f})" for label, rate in r["images_per_second"].items()]
        table.add_row(r["backbone"], f"{r['parameters']:,}", *cells)
    Console().print(table)
    if args.out:
        record = {
            **about(args.device.type),
            "threads": torch.get_num_threads(),
            **{name: getattr(args, name) for name in ("batch", "size")},
            "results": results,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
