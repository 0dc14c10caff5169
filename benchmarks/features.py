"""What a frozen backbone makes of photographs, computed with decoding, against its bare forward pass on images in memory.

    python -m benchmarks.features --data CLOTHING/train.csv        # 640 images, rounds that take turns

The goal is a ratio of at least 0.9. Writes benchmarks/results/features.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import about, ratios
from longtail.cli import run
from longtail.data.images import ImageSet
from longtail.data.loaders import Setup
from longtail.data.sources import open_source
from longtail.engine.run import write_json
from longtail.finetune.features import BATCH, FrozenStages, Variant, compute
from longtail.finetune.pixels import natural_pixels
from longtail.hardware import computes_bf16
from longtail.memory import keep_freed_memory
from longtail.models import build_backbone

RESULT = Path(__file__).parent / "results" / "features.json"
NETWORK = "tf_efficientnet_lite0"


def rounds(images: ImageSet, number: int, workers: int) -> tuple[list[float], list[float]]:
    """Images a second with decoding, and of the bare forward pass, of rounds that take turns."""
    pixels = natural_pixels(NETWORK)
    backbone = build_backbone(f"timm:{NETWORK}", 3, True).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone.precision = torch.bfloat16 if computes_bf16(torch.device("cpu")) else None
    frozen = FrozenStages(backbone, len(backbone.stages) + 1)
    setup = Setup(torch.device("cpu"), pixels["mean"], pixels["std"], workers)
    size = pixels["image_size"]
    batch = torch.rand(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    with_decoding, bare = [], []
    for turn in range(number + 1):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LONGTAIL_CACHE"] = folder  # nothing is stored yet
            begun = time.perf_counter()
            compute(images, frozen, [Variant("")], setup=setup, channels=3, image_size=size)
            taken = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(len(images) // BATCH):
            frozen(batch)
        taken_bare = time.perf_counter() - begun
        if turn:  # the first round warms up
            with_decoding.append(len(images) / taken)
            bare.append(len(images) // BATCH * BATCH / taken_bare)
    return with_decoding, bare


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    source = open_source(args.data).train
    images = source.select(np.linspace(0, len(source) - 1, args.images).astype(int))
    result: dict[str, Any] = {**about(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    with_decoding, bare = rounds(images, args.rounds, workers=2)
    result |= {
        "network": NETWORK, "images": args.images, "load": round(os.getloadavg()[0], 1),
        "images_per_second": {"features": max(with_decoding), "bare": max(bare)},
        "features_over_bare": ratios(with_decoding, bare),
    }  # fmt: skip
    write_json(RESULT, result)
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    run(main)
