"""Photographs larger than the network's input: the streaming loader against torchvision's ImageFolder and DataLoader.

    python -m benchmarks.streaming --out benchmarks/results/streaming.json

Both read the same JPEG files of 500 x 375 pixels, made for this, with as many worker processes, and give normalised
batches of random resized crops, flipped or not. Epochs take turns. Afterwards the loader's crops are compared with those
that torchvision makes of the whole decoded image at the same boxes, and the memory of a training that streams them, its
workers included, is watched over two epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich import print_json
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.measuring import about, allocating_as_others_do, memory_gb, ratios
from longtail.api import make_config
from longtail.cli import run
from longtail.data.augment import ResizedCrop
from longtail.data.draws import Draws
from longtail.data.loaders import Loader, build_loader
from longtail.data.sources import open_source
from longtail.data.squares import SquareReader
from longtail.data.streams import Stream
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run, write_json
from longtail.engine.trainer import Trainer
from longtail.memory import keep_freed_memory
from longtail.models.torchvision_compat import ensure_torchvision
from longtail.seeding import generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_photographs(folder: Path, count: int) -> None:
    """`count` JPEG files in two classes: smooth shapes and fine grain, about as large as photographs of that size."""
    for i in range(count):
        random = np.random.default_rng(i)
        shapes = Image.fromarray(random.integers(256, size=(24, 32, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.clip(np.asarray(shapes) + random.normal(0, 8, (375, 500, 3)), 0, 255).astype(np.uint8)
        path = folder / f"class{i % 2}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def plain_loader(folder: Path, size: int, batch: int, workers: int) -> DataLoader:
    ensure_torchvision()
    from torchvision import transforms as t
    from torchvision.datasets import ImageFolder

    steps = [t.RandomResizedCrop(size), t.RandomHorizontalFlip(), t.ToTensor(), t.Normalize(MEAN, STD)]
    data = ImageFolder(str(folder), t.Compose(steps))
    return DataLoader(data, batch, shuffle=True, num_workers=workers)


def streaming_loader(folder: Path, size: int, workers: int) -> Loader:
    images = open_source(str(folder)).train
    return build_loader(
        images,
        device="cpu",
        channels=3,
        image_size=size,
        mean=MEAN,
        std=STD,
        budget_bytes=0,
        mode="streaming",
        workers=workers,
    )


def batches(loader: Loader, batch: int, epoch: int) -> Iterator[Tensor]:
    streams = {"main": Stream(("resized_crop,flip",))}
    return (step["main"].views[0] for step in loader.batches(streams, batch_size=batch, seed=0, epoch=epoch))


def rate(images: Iterator[Tensor]) -> float:
    """Images/s from the second batch on: starting the workers is not what is compared."""
    next(images)
    start = time.perf_counter()
    count = sum(len(step) for step in images)
    return count / (time.perf_counter() - start)


def differences(folder: Path, size: int, count: int) -> dict[str, float]:
    """Between our crops and torchvision's of the image decoded whole, in grey levels of 0 to 255."""
    ensure_torchvision()
    from torchvision.transforms.functional import resized_crop

    reader, crop = SquareReader(open_source(str(folder)).train, 3, size), ResizedCrop()
    levels = []
    for i in range(min(count, len(reader.images))):
        draw = crop.draw(Draws(1, generator(i)))
        (ours,) = reader.views(i, [crop], [draw[0]])
        whole = Image.fromarray(reader.images.image(i, 3))
        box = crop.boxes(draw, whole.height, whole.width)[0].tolist()
        theirs = np.asarray(resized_crop(whole, *box, [size, size])).transpose(2, 0, 1)
        levels.append(np.abs(ours.astype(int) - theirs))
    every = np.stack(levels)
    return {"mean": float(every.mean()), "share_over_1": float((every > 1).mean()), "max": float(every.max())}


class MemoryAtQuarters(Reporter):
    """Notes the memory in GB at each quarter of each epoch."""

    def __init__(self, epochs: int) -> None:
        self.parts, self.steps = 4 * epochs, 0
        self.noted: list[float] = []

    def begin(self, label: str, total: int, done: int = 0) -> None:
        self.watched = {total * part // self.parts for part in range(1, self.parts + 1)}

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps in self.watched:
            self.noted.append(memory_gb())


def memory_of_a_training(folder: Path, size: int, batch: int, workers: int, epochs: int = 2) -> list[float]:
    """At each quarter of each epoch, of a network so small that what is not the loader's counts little."""
    data = {"source": str(folder), "image_size": size, "loader": "streaming", "workers": workers}
    train = {"batch_size": batch, "epochs": epochs, "accelerator": "cpu"}
    config = make_config("ce", overrides={"backbone": "resnet8", "data": data, "train": train})
    watcher = MemoryAtQuarters(epochs)
    with tempfile.TemporaryDirectory() as run_folder:
        Trainer(config, Run(Path(run_folder)), watcher).fit()
    return watcher.noted


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_photographs(folder, args.images)
    files = [path.stat().st_size for path in folder.rglob("*.jpg")]
    plain = plain_loader(folder, args.size, args.batch, args.workers)
    ours = streaming_loader(folder, args.size, args.workers)
    rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
    keep_freed_memory()  # as the trainer does
    for epoch in range(args.rounds):
        rates["ours"].append(rate(batches(ours, args.batch, epoch)))
        with allocating_as_others_do():
            rates["torchvision"].append(rate(images for images, _ in plain))
    return {
        "images": len(files),
        "bytes_per_image": round(statistics.mean(files)),
        "size": args.size,
        "batch": args.batch,
        "workers": args.workers,
        "threads": args.threads,
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ours_over_torchvision": ratios(rates["ours"], rates["torchvision"]),
        "difference_in_levels": differences(folder, args.size, 100),
        "memory_gb_at_quarters": memory_of_a_training(folder, args.size, args.batch, args.workers),
        "rounds": rates,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of the main process; the workers have one each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args, Path(folder))
    record = {**about(), **result}
    print_json(data=record)
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
