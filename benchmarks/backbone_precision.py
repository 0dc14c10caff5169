"""Training steps per second in float32 NCHW against bf16 channels-last, alternating in one run.

    python benchmarks/backbone_precision.py resnet32 resnet32_w64 --out benchmarks/results/backbone_precision.json

The two settings take turns, so that whatever else the machine does slows both; the figure to read is the ratio of
medians.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from longtail.cli import run
from longtail.models import build_backbone, count_parameters
from longtail.models.heads import LinearClassifier


class Setting:
    """A network, its optimiser and a batch of random images on `device`, in one precision and memory layout."""

    def __init__(self, name: str, device: torch.device, batch: int, size: int, fast: bool) -> None:
        torch.manual_seed(0)
        backbone = build_backbone(name)
        layout = torch.channels_last if fast else torch.contiguous_format
        backbone.precision = torch.bfloat16 if fast else None
        self.device = device
        self.model = nn.Sequential(backbone, LinearClassifier(backbone.dim, 10)).to(device)
        self.model.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs miss this form
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
    exact, fast = (Setting(name, device, batch, size, fast) for fast in (False, True))
    for setting in (exact, fast):
        setting.images_per_second(2)  # warm up
    rates = [(exact.images_per_second(steps), fast.images_per_second(steps)) for _ in range(rounds)]
    medians = [statistics.median(side) for side in zip(*rates, strict=True)]
    return {
        "backbone": name,
        "parameters": count_parameters(exact.model),
        "fp32_nchw": medians[0],
        "bf16_channels_last": medians[1],
        "ratio_of_medians": medians[1] / medians[0],
        "rounds": rates,
    }


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    return f"{model[0] if model else platform.processor()}, {torch.get_num_threads()} threads"


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=["resnet32", "resnet32_w64"])
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=3, help="training steps a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each setting")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()

    results = [measure(n, args.device, args.batch, args.size, args.steps, args.rounds) for n in args.backbones]
    table = Table("backbone", "parameters", "fp32 NCHW", "bf16 channels-last", "ratio", title="training, images/s")
    for r in results:
        rates = (f"{r['fp32_nchw']:.0f}", f"{r['bf16_channels_last']:.0f}", f"{r['ratio_of_medians']:.2f}")
        table.add_row(r["backbone"], f"{r['parameters']:,}", *rates)
    Console().print(table)
    if args.out:
        record = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(args.device),
            "torch": torch.__version__,
            "batch": args.batch,
            "size": args.size,
            "results": results,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
