"""Everything that only a GPU can show, in pieces: throughput and memory, no waiting for the device, full schedules.

    python -m benchmarks.gpu --data cifar10:PATH                    # call again until it says that all is done
    python -m benchmarks.gpu --data cifar10:PATH --minutes 9        # the default: save and stop after nine minutes
    python -m benchmarks.gpu --data cifar10:PATH --faces LFW        # IResNet-50 at 112 x 112 too

What is finished is kept, in benchmarks/results/gpu/: call the script again and it goes on with the rest, trainings in
the middle of an epoch. A part that would not fit into what is left of the time is left for the next call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from longtail.api import make_config
from longtail.cli import run
from longtail.config import Config
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run, device_name, write_json
from longtail.engine.trainer import CHECK_EVERY, Trainer

RESULTS = Path(__file__).parent / "results" / "gpu"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The papers' own networks for CIFAR-10-LT.
NETWORKS = {"glmc": "resnet32_w64", "bce3s": "resnet34_cifar"}
MODES = {"eager": (), "compiled": ("--compile",)}
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
    """Run another benchmark. False where it fails, or is stopped because its time is up."""
    try:
        return subprocess.run(command(module, *arguments), timeout=60 * minutes).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def measured_by(name: str, least: float, module: str, *arguments: object) -> Part:
    """A part that another benchmark measures and writes to a file of its own."""
    path = RESULTS / f"{name}.json"
    return Part(name, least, lambda minutes: finishes(minutes, module, *arguments, "--out", path), path.exists)


def reproduced(recipe: str, data: str, runs: Path, epochs: int | None = None) -> Part:
    """One seed of a recipe, with the authors' schedule unless `epochs` says otherwise."""
    results = RESULTS / "reproductions.jsonl"

    def is_done() -> bool:
        lines = results.read_text().splitlines() if results.exists() else []
        return any(json.loads(line)["recipe"] == recipe for line in lines)

    def run(minutes: float) -> bool:
        shorter = () if epochs is None else ("--epochs", epochs)
        compiled = ("--set", "train.compile=true") if DEVICE == "cuda" else ()
        options = ("--data", data, "--seeds", 1, "--out", runs, "--results", results, "--minutes", minutes - 0.5)
        subprocess.run(command("longtail", "reproduce", recipe, *options, *shorter, *compiled))
        return is_done()

    return Part(f"reproduce {recipe}", 1.5, run, is_done)


class NoWaiting(Reporter):
    """From the third step on, any operation that makes the host wait for the device is an error; then ends the run."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, steps: int = 1) -> None:
        self.done += 1
        on = 3 <= self.done < CHECK_EVERY - 1
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error" if on else "default")
        if self.done > 3 and not on:
            raise StopIteration


def no_waiting(methods: Sequence[str], configure: Callable[[str], Config]) -> Part:
    """A GPU that waits for its host is idle: between two looks at the losses, a step must ask the device for nothing."""
    path = RESULTS / "no_waiting.json"

    def run(minutes: float) -> bool:
        verdicts = {}
        for method in methods:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    Trainer(configure(method), Run(Path(folder)), NoWaiting()).fit()
                except StopIteration:
                    verdicts[method] = "no wait"
                except RuntimeError as error:
                    verdicts[method] = str(error)
                finally:
                    if torch.cuda.is_available():
                        torch.cuda.set_sync_debug_mode("default")
        write_json(path, {"device": device_name(torch.device(DEVICE)), "torch": torch.__version__, **verdicts})
        return True

    return Part("no waiting for the device", 1.5, run, path.exists)


def parts(args: argparse.Namespace) -> list[Part]:
    common = ("--device", DEVICE, "--steps", args.steps, "--rounds", args.rounds)
    listed = []

    def configure(method: str) -> Config:
        train = {"batch_size": args.batch, "accelerator": DEVICE}
        return make_config(
            method, overrides={"backbone": args.small or "resnet32", "data": {"source": args.data}, "train": train}
        )

    listed.append(no_waiting(("ce", "balanced_softmax", "glmc", "bcl", "bce3s"), configure))
    for method, network in NETWORKS.items():
        for label, options in MODES.items():
            module = ("benchmarks.throughput", "--method", method, "--backbone", args.small or network)
            shape = ("--data", args.data, "--batch", args.batch, *common, *options)
            listed.append(measured_by(f"throughput-{method}-{label}", 3, *module, *shape))
    listed += [reproduced(recipe, args.data, args.runs, args.epochs) for recipe in FULL_SCHEDULES]
    module = ("benchmarks.identities", "--device", DEVICE, "--identities", *args.identities)
    listed.append(measured_by("identities", 2, *module))
    if args.faces:
        listed.append(faces(args.faces))
    return listed


def faces(data: Path) -> Part:
    """IResNet-50 on LFW. That script keeps what is finished, and returns at once when all is."""
    options = ("--data", data, "--backbone", "iresnet50", "--image-size", 112, "--name", "faces-iresnet50")
    return Part("faces", 3, lambda minutes: finishes(minutes, "benchmarks.faces", *options), lambda: False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, in any form")
    parser.add_argument("--faces", type=Path, help="LFW, see benchmarks.faces")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--identities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--small", help="use this network everywhere, to try the script")
    parser.add_argument("--epochs", type=int, help="train this short, to try the script")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args(arguments)
    end = time.monotonic() + 60 * args.minutes
    RESULTS.mkdir(parents=True, exist_ok=True)
    open_ = []
    for part in parts(args):
        left = (end - time.monotonic()) / 60
        if part.is_done():
            print(f"{part.name}: done before")
        elif left < part.least:
            open_.append(f"{part.name} (needs {part.least:g} minutes)")
        elif not part.run(left):
            open_.append(part.name)
    print("Open: " + ", ".join(open_) + ". Call again to go on." if open_ else "All is done.")


if __name__ == "__main__":
    run(main)
