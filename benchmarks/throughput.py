"""How near the training loop comes to its bare network, and how far ahead it is of a plain loop.

    python -m benchmarks.throughput --method ce glmc --data cifar10:PATH --out benchmarks/results/throughput.json
    python -m benchmarks.throughput --method bce3s --data synthetic --reference

Short rounds take turns in one process, so that whatever else the machine does slows all of them:

- loop: the engine's own `Trainer` with its loader, augmentation, method and optimiser. The rounds of the others are run
  inside its progress callback, and their time is left out;
- bare: the same backbone with a linear classifier, trained on random tensors of the shapes that the method feeds it;
- reference (optional): the method's loss in a loop as most research code has it, see `Reference`.

Ratios are those of the rounds: the median, the smallest and the largest. Before the rounds, one is run to warm up; after
them, one with a stopwatch at every phase. Rates count the images of a batch once, however many views are made of them.
The peak memory of each is that of a process of its own, which takes a few steps of nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import about, allocating_as_others_do, in_own_process, peak_memory_gb, ratios
from longtail.api import make_config
from longtail.cli import run
from longtail.config import Config, validate
from longtail.data.preprocessing import Preprocessing
from longtail.engine.evaluate import evaluate
from longtail.engine.prepare import build_method, choose_images
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run, write_json
from longtail.engine.schedule import build_optimizer
from longtail.engine.setup import use_bf16
from longtail.engine.trainer import Trainer
from longtail.errors import UsageError
from longtail.methods.base import Batch, Clock
from longtail.models import build_backbone, count_parameters
from longtail.models.heads import LinearClassifier
from longtail.models.torchvision_compat import ensure_torchvision

# All terms from the first step on.
OPTIONS: dict[str, dict[str, Any]] = {"bce3s": {"contrastive_from": 0}}


def now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Bare:
    """The network that a trainer trains, without anything around it: random images, one linear classifier."""

    def __init__(self, config: Config, classes: int, shapes: Sequence[Sequence[int]], device: torch.device) -> None:
        """`shapes`: of the images of each forward pass of a step."""
        train, self.device = config.train, device
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        _, channels, _, size = shapes[0]
        backbone = build_backbone(config.backbone, channels, image_size=size).to(device, memory_format=layout).train()  # type: ignore[call-overload]
        backbone.precision = torch.bfloat16 if use_bf16(train, device) else None
        self.backbone, self.head = backbone, LinearClassifier(backbone.dim, classes).to(device)
        self.optimiser = build_optimizer(train, [{"params": [*backbone.parameters(), *self.head.parameters()]}])
        self.images = [torch.randn(tuple(shape), device=device).to(memory_format=layout) for shape in shapes]
        self.labels = torch.randint(classes, (sum(shape[0] for shape in shapes),), device=device)

    def count_operations(self) -> int:
        """Floating-point operations of a step of the network that is not compiled yet."""
        with FlopCounterMode(display=False) as counter:
            self.step()
        return counter.get_total_flops()

    def warm_up(self, compile: bool) -> None:
        if compile:
            self.backbone.compile()
        self.seconds(2)

    def step(self) -> None:
        features = torch.cat([self.backbone(images) for images in self.images])
        self.optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.head(features), self.labels).backward()
        self.optimiser.step()

    def seconds(self, steps: int) -> float:
        start = now(self.device)
        for _ in range(steps):
            self.step()
        return now(self.device) - start


class Reference:
    """A loop as most research code has it, around the method's own loss: worker processes with PIL and torchvision
    transforms for each image, float32, NCHW, one forward pass per view, and every term read at every step.

    Images are decoded beforehand, as in CIFAR's files. Workers sleep between the rounds.
    """

    def __init__(
        self, config: Config, preprocessing: Preprocessing, device: torch.device, steps: int, workers: int
    ) -> None:
        batch, self.device = config.train.batch_size, device
        subset = choose_images(config.data, config.seed)
        self.method = build_method(config, subset.classes, preprocessing.channels).to(device).train()
        backbone, forward = self.method.backbone, self.method.backbone.forward
        backbone.forward = lambda images: torch.cat([forward(view) for view in images.split(batch)])  # type: ignore
        self.optimiser = build_optimizer(config.train, [{"params": list(self.method.parameters())}])
        train = subset.train
        positions = range(min(len(train), 4096))
        images = [Image.fromarray(train.image(i, preprocessing.channels).squeeze()) for i in positions]
        self.stage = self.method.stages(self.method.hp)[0]
        self.loaders = {}
        for name, stream in self.stage.streams.items():
            views = [_transform(spec, preprocessing.image_size, preprocessing) for spec in stream.views]
            data = _Views(images, train.labels, views)
            sampler = RandomSampler(data, replacement=True, num_samples=steps * batch)
            self.loaders[name] = DataLoader(
                data, batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
            )
        self.seconds()  # warm up

    @allocating_as_others_do()
    def seconds(self) -> float:
        start = now(self.device)
        for step, streams in enumerate(zip(*self.loaders.values(), strict=True)):
            batch = {name: self._batch(*stream) for name, stream in zip(self.loaders, streams, strict=True)}
            terms = self.method(batch, Clock(self.stage.name, 0, 2, step, step + 1, torch.Generator()))
            self.optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            self.optimiser.step()
            [term.item() for term in terms.values()]
        return now(self.device) - start

    def _batch(self, views: Sequence[Tensor], labels: Tensor, index: Tensor) -> Batch:
        return Batch(tuple(view.to(self.device) for view in views), labels.to(self.device), index.to(self.device))


class _Views(Dataset):
    def __init__(self, images: Sequence[Image.Image], labels: np.ndarray, views: Sequence[Any]) -> None:
        self.images, self.labels, self.views = images, labels, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[tuple[Tensor, ...], int, int]:
        return tuple(view(self.images[i]) for view in self.views), int(self.labels[i]), i


def _transform(spec: str, size: int, preprocessing: Preprocessing) -> Any:
    """torchvision's transforms for one of the methods' specs, at the size of CIFAR."""
    ensure_torchvision()
    from torchvision import transforms as t

    crop, jitter = t.RandomCrop(size, padding=4), t.ColorJitter(0.4, 0.4, 0.4, 0.1)
    pixels = {
        "weak": [crop],
        "autoaugment_cutout": [crop, t.AutoAugment(t.AutoAugmentPolicy.CIFAR10)],
        "simaugment": [t.RandomResizedCrop(size, (0.2, 1)), t.RandomApply([jitter], 0.8), t.RandomGrayscale(0.2)],
    }[spec]
    erase = [t.RandomErasing(1.0, (0.25, 0.25), (1, 1))] if spec == "autoaugment_cutout" else []
    normalise = t.Normalize(preprocessing.mean, preprocessing.std)
    return t.Compose([*pixels, t.RandomHorizontalFlip(), t.ToTensor(), normalise, *erase])


class Finished(Exception):  # noqa: N818  # it is no error
    """All rounds are done: ends the training from within."""


class Rounds(Reporter):
    """Watches a trainer, times its steps, and gives the others their turns."""

    def __init__(self, steps: int, rounds: int, workers: int | None) -> None:
        """`workers`: of the reference loop (None: without it)."""
        self.steps, self.rounds, self.workers = steps, rounds, workers
        self.done, self.start = 0, 0.0
        self.seconds: dict[str, list[float]] = {"loop": [], "bare": []}
        self.phases: defaultdict[str, float] = defaultdict(float)
        self.trainer: Trainer

    def begin(self, label: str, total: int, done: int = 0) -> None:
        trainer, needed = self.trainer, self.steps * (self.rounds + 2)
        if trainer.loaders.train.steps(trainer.train.batch_size) < needed:
            raise UsageError(
                f"{needed} steps are needed, more than an epoch of this data: lower --steps, --rounds or --batch."
            )
        self.device = trainer.fabric.device
        self.shapes: list[torch.Size] = []
        self.hook = trainer.method.backbone.register_forward_pre_hook(lambda _, x: self.shapes.append(x[0].shape))

    def advance(self, steps: int = 1) -> None:
        if self.done == 0:
            self.hook.remove()
        self.done += 1
        round_, step = divmod(self.done, self.steps)
        if self.phases:  # in the round with the stopwatch
            self._mark("rest")
        if step:
            return
        if round_ == 1:
            config, preprocessing = self.trainer.config, self.trainer.loaders.preprocessing
            self.bare = Bare(config, len(self.trainer.method.classes), self.shapes, self.device)
            self.operations = self.bare.count_operations()
            self.bare.warm_up(config.train.compile)
            if self.workers is not None:
                self.reference = Reference(config, preprocessing, self.device, self.steps, self.workers)
                self.seconds["reference"] = []
        elif round_ <= self.rounds + 1:
            self.seconds["loop"].append(now(self.device) - self.start)
            self.seconds["bare"].append(self.bare.seconds(self.steps))
            if self.workers is not None:
                self.seconds["reference"].append(self.reference.seconds())
        if round_ == self.rounds + 1:
            self._start_stopwatch()
        elif round_ == self.rounds + 2:
            raise Finished
        self.start = now(self.device)

    def _start_stopwatch(self) -> None:
        method, optimiser = self.trainer.method, self.trainer.update.optimizer
        method.register_forward_pre_hook(lambda *_: self._mark("data and augmentation"))
        method.register_forward_hook(lambda *_: self._mark("forward and loss"))
        optimiser.register_step_pre_hook(lambda *_: self._mark("backward"))
        optimiser.register_step_post_hook(lambda *_: self._mark("step"))

    def _mark(self, phase: str) -> None:
        """Everything since the last mark was `phase`."""
        then, self.start = self.start, now(self.device)
        self.phases[phase] += self.start - then


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of ten products of two square matrices."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    times = []
    for _ in range(10):
        start = now(device)
        a @ a
        times.append(now(device) - start)
    return 2 * size**3 / min(times)


def measure(config: Config, watcher: Rounds) -> dict[str, Any]:
    """One method: rates in images/s, ratios, shares of the phases."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = watcher.trainer = Trainer(config, Run(Path(folder)), watcher)
        device, batch = trainer.fabric.device, config.train.batch_size
        with suppress(Finished):
            trainer.fit()
    held_out = next(iter(trainer.loaders.held_out.values()))
    evaluate(trainer.method, held_out, batch)  # warm up: it may have to be compiled
    start = now(device)
    evaluate(trainer.method, held_out, batch)
    evaluation = len(held_out.labels) / (now(device) - start)

    precision, seconds = trainer.method.backbone.precision or torch.float32, watcher.seconds
    rates = {name: watcher.steps * batch / statistics.median(times) for name, times in seconds.items()}
    flops = watcher.operations / batch
    case = {
        "config": config.model_dump(mode="json"),
        "classes": len(trainer.method.classes),
        "shapes": [list(shape) for shape in watcher.shapes],
        "preprocessing": trainer.loaders.preprocessing.model_dump(mode="json"),
        "device": str(device),
        "workers": watcher.workers,
        "threads": torch.get_num_threads(),
    }
    return {
        "method": config.method,
        "backbone": config.backbone,
        "parameters": count_parameters(trainer.method),
        "precision": str(precision).removeprefix("torch."),
        "batch": batch,
        "forward_shapes": [list(shape) for shape in watcher.shapes],
        "images_per_second": rates | {"evaluation": evaluation},
        "loop_over_bare": ratios(seconds["bare"], seconds["loop"]),
        **({"loop_over_reference": ratios(seconds["reference"], seconds["loop"])} if "reference" in seconds else {}),
        "evaluation_over_loop": evaluation / rates["loop"],
        "phases": {name: value / sum(watcher.phases.values()) for name, value in watcher.phases.items()},
        "flops_per_image": flops,
        "utilisation": flops * rates["loop"] / matrix_peak(device, precision),
        "peak_memory_gb": {part: in_own_process("benchmarks.throughput", case | {"part": part}) for part in seconds},
        "seconds": seconds,
    }


def peak_memory_of(case: dict[str, Any], steps: int = 5) -> float:
    """GB that a process takes which does this part and nothing else, what it imports included."""
    torch.set_num_threads(case["threads"])
    config, device = validate(Config, case["config"], "case"), torch.device(case["device"])
    if case["part"] == "loop":
        with tempfile.TemporaryDirectory() as folder, suppress(Finished):
            Trainer(config, Run(Path(folder)), StopAfter(steps)).fit()
    elif case["part"] == "bare":
        bare = Bare(config, case["classes"], case["shapes"], device)
        bare.warm_up(config.train.compile)
        bare.seconds(steps)
    else:
        preprocessing = validate(Preprocessing, case["preprocessing"], "case")
        Reference(config, preprocessing, device, steps, case["workers"]).seconds()
    return peak_memory_gb(device)


class StopAfter(Reporter):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left <= 0:
            raise Finished


def write_synthetic(path: Path, images: int, size: int = 32) -> None:
    """Random images of ten classes, as an npz source with a test split."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", images), ("test", 1024)):
        arrays[f"{split}_images"] = random.integers(256, size=(count, size, size, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 10
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own option


def show(results: Sequence[dict[str, Any]]) -> None:
    title = f"training {results[0]['backbone']} in {results[0]['precision']}, images/s"
    table = Table("", "bare", "loop", "loop/bare (min-max)", title=title)
    for name in ("ref.", "loop/ref.", "eval.", "peak"):
        table.add_column(name)
    for r in results:
        rate, ratio, reference = r["images_per_second"], r["loop_over_bare"], r.get("loop_over_reference")
        table.add_row(
            r["method"],
            f"{rate['bare']:.0f}",
            f"{rate['loop']:.0f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})",
            f"{rate['reference']:.0f}" if reference else "",
            f"{reference['median']:.1f}" if reference else "",
            f"{rate['evaluation']:.0f}",
            f"{r['utilisation']:.0%}",
        )
    console = Console()
    console.print(table)
    for r in results:
        phases = ", ".join(f"{name} {share:.1%}" for name, share in r["phases"].items())
        memory = ", ".join(f"{part} {gb:.2f} GB" for part, gb in r["peak_memory_gb"].items())
        console.print(f"{r['method']}: {phases}; peak memory: {memory}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", default=["ce", "glmc", "bcl", "bce3s"])
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--data", default="synthetic", help="a source of images, or 'synthetic'")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone, of the bare network too")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--reference", action="store_true", help="run the plain loop too")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the plain loop, per stream")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # see `peak_memory_of`
    args = parser.parse_args(arguments)
    if args.case is not None:
        print(peak_memory_of(args.case))
        return
    if min(args.batch, args.steps, args.rounds) < 1 or args.workers < 0 or (args.threads or 1) < 1:
        raise UsageError("--batch, --steps, --rounds and --threads must be at least 1, --workers at least 0.")
    if args.threads:
        torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        source = args.data
        if source == "synthetic":
            source = f"{folder}/synthetic.npz"
            write_synthetic(Path(source), args.batch * args.steps * (args.rounds + 2))
        train = {"batch_size": args.batch, "accelerator": args.device, "precision": args.precision}
        overrides = {"backbone": args.backbone, "data": {"source": source}, "train": train | {"compile": args.compile}}
        results = []
        for method in args.method:
            config = make_config(method, overrides=overrides | {"options": OPTIONS.get(method, {})})
            results.append(measure(config, Rounds(args.steps, args.rounds, args.workers if args.reference else None)))
    show(results)
    if args.out:
        record = {
            **about("cuda" if torch.cuda.is_available() and args.device != "cpu" else "cpu"),
            "threads": torch.get_num_threads(),
            "data": Path(args.data).name,
            "results": results,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
