"""Everything that only a GPU can show, in pieces: throughput and memory, no waiting for the device, full schedules.

    python -m benchmarks.gpu --data cifar10:PATH                    # call again until it says that all is done
    python -m benchmarks.gpu --data cifar10:PATH --minutes 9        # the default: save and stop after nine minutes
    python -m benchmarks.gpu --data cifar10:PATH --only throughput  # the parts with these words in their names
    python -m benchmarks.gpu --data cifar10:PATH --faces LFW        # IResNet-50 at 112 x 112 too

What is finished is kept, in benchmarks/results/gpu/ or where --results says: call the script again and it goes on with
the rest, trainings in the middle of an epoch. A part that would not fit into what is left of the time, or fails, is left
for the next call.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.throughput import OPTIONS
from longtail.api import make_config
from longtail.cli import run
from longtail.config import Config
from longtail.data.loaders.setup import STEPS_TOGETHER
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run, write_json
from longtail.engine.trainer import CHECK_EVERY, Trainer
from longtail.hardware import device_name

RESULTS = Path(__file__).parent / "results" / "gpu"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The papers' own networks and batches for CIFAR-10-LT.
NETWORKS = {"glmc": ("resnet32_w64", 64), "bce3s": ("resnet34_cifar", 64)}
MODES = {"eager": (2, ()), "compiled": (5, ("--compile",))}  # minutes that each needs at once, and its options
FULL_SCHEDULES = ("glmc/cifar10-lt-100", "bce3s/cifar10-lt-100")


@dataclass(frozen=True)
class Part:
    """`run` is given the minutes that are left and says whether it came to its end; `least`: minutes it needs at once."""

    name: str
    least: float
    run: Callable[[float], bool]
    is_done: Callable[[], bool]


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def finishes(minutes: float, module: str, *arguments: object) -> bool:
    """Run another program. False where it fails, or is stopped because its time is up."""
    process = subprocess.Popen(command(module, *arguments), start_new_session=True)
    try:
        return process.wait(60 * minutes) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # on which a training saves its state
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        return False
    finally:  # what it has started must not work on beside the next part
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def measured_by(path: Path, least: float, module: str, *arguments: object) -> Part:
    """A part that another benchmark measures and writes to a file of its own."""
    return Part(path.stem, least, lambda minutes: finishes(minutes, module, *arguments, "--out", path), path.exists)


def reproduced(recipe: str, results: Path, data: str, runs: Path, epochs: int | None = None) -> Part:
    """One seed of a recipe, with the authors' schedule unless `epochs` says otherwise."""

    def is_done() -> bool:
        lines = results.read_text().splitlines() if results.exists() else []
        return any(json.loads(line)["recipe"] == recipe for line in lines)

    def run(minutes: float) -> bool:
        shorter = () if epochs is None else ("--epochs", epochs)
        compiled = ("--set", "train.compile=true") if DEVICE == "cuda" else ()
        options = ("--data", data, "--seeds", 1, "--out", runs, "--results", results, "--minutes", minutes - 0.5)
        finishes(minutes, "longtail", "reproduce", recipe, *options, *shorter, *compiled)
        return is_done()

    return Part(f"reproduce {recipe}", 3, run, is_done)


class NoWaiting(Reporter):
    """From the third step on, any operation that makes the host wait for the device warns; then ends the run."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, steps: int = 1) -> None:
        self.done += 1
        on = 3 <= self.done < CHECK_EVERY - 1
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn" if on else "default")
        if self.done > 3 and not on:
            raise StopIteration


def no_waiting(path: Path, methods: Sequence[str], configure: Callable[[str], Config]) -> Part:
    """A GPU that waits for its host is idle: between two looks at the losses, a step must ask the device for nothing."""

    def waits(method: str) -> list[str]:
        """The lines at which a step waits."""
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with suppress(StopIteration):
                Trainer(configure(method), Run(Path(folder)), NoWaiting()).fit()
        return sorted({f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)})

    def run(minutes: float) -> bool:
        verdicts = {method: waits(method) or "no wait" for method in methods}
        write_json(path, {"device": device_name(torch.device(DEVICE)), "torch": torch.__version__, **verdicts})
        return True

    return Part("no waiting for the device", 1.5, run, path.exists)


def parts(args: argparse.Namespace) -> list[Part]:
    common = ("--data", args.data, "--device", DEVICE, "--steps", args.steps, "--rounds", args.rounds)

    def configure(method: str) -> Config:
        overrides = {
            "backbone": args.small or "resnet32",
            "data": {"source": args.data},
            "options": OPTIONS.get(method, {}),
            "train": {"accelerator": DEVICE, "batch_size": args.batch or 128, "clip": 1.0, "ema": 0.999},
        }
        return make_config(method, overrides=overrides)

    listed = [
        no_waiting(args.results / "no_waiting.json", ("ce", "balanced_softmax", "glmc", "bcl", "bce3s"), configure)
    ]
    for method, (network, batch) in NETWORKS.items():
        for label, (least, options) in MODES.items():
            module = ("benchmarks.throughput", "--method", method, "--backbone", args.small or network)
            path = args.results / f"throughput-{method}-{label}.json"
            listed.append(measured_by(path, least, *module, "--batch", args.batch or batch, *common, *options))
    lines = args.results / "reproductions.jsonl"
    listed += [reproduced(recipe, lines, args.data, args.runs, args.epochs) for recipe in FULL_SCHEDULES]
    module = ("benchmarks.identities", "--device", DEVICE, "--identities", *args.identities)
    listed.append(measured_by(args.results / "identities.json", 2, *module))
    if args.faces:
        listed.append(faces(args.faces))
    return [part for part in listed if args.only is None or any(word in part.name for word in args.only)]


def faces(data: Path) -> Part:
    """IResNet-50 on LFW, one seed with and without prototypes. That script keeps what is finished, and returns at once
    when all is."""
    options = ("--data", data, "--backbone", "iresnet50", "--image-size", 112, "--name", "faces-iresnet50")
    runs = ("--seeds", 0, "--only", "cosface", "cosface_epl")
    return Part("faces", 3, lambda minutes: finishes(minutes, "benchmarks.faces", *options, *runs), lambda: False)


def succeeds(part: Part, minutes: float) -> bool:
    try:
        return part.run(minutes)
    except Exception:  # one that fails must not cost the others their time on the machine
        traceback.print_exc()
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, in any form")
    parser.add_argument("--faces", type=Path, help="LFW, see benchmarks.faces")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--only", nargs="+", help="parts whose names hold one of these words")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (default: benchmarks/results/gpu)")
    parser.add_argument("--batch", type=int, help="images a step (default: the papers')")
    # A multiple of the steps that are augmented together, or rounds would differ in how often that is.
    parser.add_argument("--steps", type=int, default=3 * STEPS_TOGETHER)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--identities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--small", help="use this network everywhere, to try the script")
    parser.add_argument("--epochs", type=int, help="train this short, to try the script")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args(arguments)
    end = time.monotonic() + 60 * args.minutes
    args.results.mkdir(parents=True, exist_ok=True)
    open_ = []
    for part in parts(args):
        left = (end - time.monotonic()) / 60
        if part.is_done():
            print(f"{part.name}: done before")
        elif left < part.least:
            open_.append(f"{part.name} (needs {part.least:g} minutes)")
        elif not succeeds(part, left):
            open_.append(part.name)
    print("Open: " + ", ".join(open_) + ". Call again to go on." if open_ else "All is done.")


if __name__ == "__main__":
    run(main)
