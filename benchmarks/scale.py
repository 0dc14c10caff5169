"""How the cost of a step grows with the number of classes, and that of a draw with the number of images.

    python -m benchmarks.scale --out benchmarks/results/scale.json

Steps: each method's forward pass, loss, gradients and SGD step on random 8 x 8 images through a network so small that
classifier and loss are what is measured; each case in a process of its own. Draws: the samplers' preparation, and one
batch, on synthetic long-tailed labels of 1,000 classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import about, in_own_process, resident_bytes
from benchmarks.throughput import OPTIONS
from longtail.classes import Classes
from longtail.cli import run
from longtail.config import validate
from longtail.data.samplers import ClassIndex, epoch_draws, steps_per_epoch
from longtail.data.streams import Batch, Stream
from longtail.engine.run import write_json
from longtail.errors import UsageError
from longtail.memory import keep_freed_memory
from longtail.methods import method_class
from longtail.methods.base import Clock
from longtail.models import build_backbone

METHODS = ("ce", "balanced_softmax", "glmc", "bcl", "bce3s")
CLASSES = (10, 100, 1_000, 8_142, 100_000)
IMAGES = (10_000, 100_000, 1_000_000, 10_000_000)
SAMPLERS = {"instance": {}, "balanced": {}, "power": {"q": 0.2}, "reversed": {}}
BACKBONE, SIZE = "resnet8", 8


def long_tail(classes: int, largest: int = 1000, imbalance: float = 100) -> np.ndarray:
    """Class counts of the exponential profile."""
    return np.maximum(1, largest * imbalance ** -np.linspace(0, 1, classes)).astype(int)


def measure_step(name: str, classes: int, batch: int, steps: int, options: dict[str, Any]) -> dict[str, float]:
    """Median milliseconds of a step, and this process's peak memory beyond that of the imports."""
    keep_freed_memory()  # as the trainer does
    before = resident_bytes("VmRSS")
    torch.manual_seed(0)
    counts = long_tail(classes)
    kind = method_class(name)
    chosen = validate(kind.Options, OPTIONS.get(name, {}) | options, f"options of {name}")
    names = tuple(map(str, range(classes)))
    method = kind(build_backbone(BACKBONE), Classes(names, tuple(counts.tolist())), chosen).train()
    stage = kind.stages(chosen)[0]
    optimiser = torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
    times = []
    for step in range(steps + 1):
        streams = {
            stream: Batch(
                tuple(torch.randn(batch, 3, SIZE, SIZE) for _ in spec.views),
                torch.randint(classes, (batch,)),
                torch.arange(batch),
            )
            for stream, spec in stage.streams.items()
        }
        clock = Clock(stage.name, 1, 2, step, steps + 1, torch.Generator().manual_seed(step))
        start = time.perf_counter()
        torch.stack(list(method(streams, clock).values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - start)
    return {
        "step_ms": 1000 * statistics.median(times[1:]),
        "images_per_second": batch / statistics.median(times[1:]),
        "peak_memory_gb": (resident_bytes("VmHWM") - before) / 1e9,
    }


def measure_draws(images: int, batch: int, steps: int) -> dict[str, Any]:
    """Seconds to sort the labels by class, and for each sampler seconds per epoch and milliseconds per batch."""
    counts = long_tail(1000)
    labels = np.random.default_rng(0).choice(1000, images, p=counts / counts.sum())
    start = time.perf_counter()
    classes = ClassIndex(labels, 1000)
    result: dict[str, Any] = {"images": images, "index_seconds": time.perf_counter() - start}
    for sampler, options in SAMPLERS.items():
        stream = Stream((), sampler, **options)  # type: ignore[arg-type]
        start = time.perf_counter()
        draw = epoch_draws(classes, stream, name="main", batch_size=batch, seed=0, epoch=0)
        epoch_seconds = time.perf_counter() - start
        times = []
        for step in range(steps):
            start = time.perf_counter()
            draw(step % steps_per_epoch(images, batch))
            times.append(time.perf_counter() - start)
        result[sampler] = {"epoch_seconds": epoch_seconds, "batch_ms": 1000 * statistics.median(times)}
    return result


def show(steps: Sequence[dict[str, Any]], draws: Sequence[dict[str, Any]]) -> None:
    console = Console()
    table = Table("method", "classes", "step ms", "images/s", "memory GB", title="one training step, tiny network")
    for row in steps:
        figures = (f"{row['step_ms']:.1f}", f"{row['images_per_second']:.0f}", f"{row['peak_memory_gb']:.2f}")
        table.add_row(row["label"], f"{row['classes']:,}", *figures)
    console.print(table)
    table = Table("images", "index s", *(f"{name} ms" for name in SAMPLERS), title="one batch drawn")
    for row in draws:
        draw_ms = [f"{row[name]['batch_ms']:.3f}" for name in SAMPLERS]
        table.add_row(f"{row['images']:,}", f"{row['index_seconds']:.2f}", *draw_ms)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=CLASSES)
    parser.add_argument("--images", type=int, nargs="*", default=IMAGES)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        print(json.dumps(measure_step(**args.case)))
        return
    if min(args.batch, args.steps, *args.images) < 1 or min(args.classes, default=2) < 2:
        raise UsageError("--images, --batch and --steps must be at least 1, --classes at least 2.")
    variants: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS}
    # the uniform term compares every class with every other, so that its time grows with the square of their number
    variants["bce3s, uniform=off"] = ("bce3s", {"uniform": "off"})
    steps = []
    for label, (name, options) in variants.items():
        for classes in args.classes:
            if label == "bce3s" and classes > 10_000:
                continue
            case = {"name": name, "classes": classes, "batch": args.batch, "steps": args.steps, "options": options}
            steps.append({"label": label, "classes": classes, **in_own_process("benchmarks.scale", case)})
    draws = [measure_draws(images, args.batch, 100) for images in args.images]
    show(steps, draws)
    if args.out:
        record = {
            **about(),
            "threads": torch.get_num_threads(),
            "backbone": f"{BACKBONE} on {SIZE} x {SIZE} pixels",
            "batch": args.batch,
            "steps": steps,
            "draws": draws,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
