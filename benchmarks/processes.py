"""Images/s of one process and of two (gloo) that train the same run together on one CPU.

    python -m benchmarks.processes --data cifar10:PATH --out benchmarks/results/processes.json

Three cases take turns: one process with one thread, one with two, and two with one thread each. Rates are those of
whole epochs, the first left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import print_json

import longtail
from benchmarks.measuring import about, ratios
from longtail.cli import run
from longtail.data.sources import open_source
from longtail.engine.run import write_json
from longtail.errors import UsageError

CASES = {"one process, one thread": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}


def train(case: dict[str, Any]) -> None:
    """One run; with two devices this script is started again by the launcher, and comes here too."""
    torch.set_num_threads(case["threads"])
    longtail.train(
        case["method"],
        data={"source": case["data"]},
        out=case["out"],
        backbone=case["backbone"],
        train={
            "epochs": case["epochs"],
            "batch_size": case["batch"],
            "devices": case["processes"],
            "accelerator": "cpu",
            "eval_every": case["epochs"],
        },
    )


def rate(method: str, backbone: str, data: str, batch: int, epochs: int, processes: int, threads: int) -> float:
    """Median images/s of the epochs after the first."""
    with tempfile.TemporaryDirectory() as folder:
        case = {"method": method, "backbone": backbone, "data": data, "batch": batch, "epochs": epochs}
        case |= {"processes": processes, "threads": threads, "out": f"{folder}/run"}
        command = [sys.executable, "-m", "benchmarks.processes", "--case", json.dumps(case)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lines = Path(f"{folder}/run/metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["images_per_second"] for line in lines[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ce")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--data", default="fashion-mnist-lt")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.case:
        train(args.case)
        return
    if args.batch < 1 or args.batch % 2 or args.epochs < 2 or args.rounds < 1:
        raise UsageError("--batch must be even and above 0, --epochs at least 2 (the first is left out), --rounds 1.")
    open_source(args.data)  # a wrong one is told here, and not by each process that is measured
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.rounds):
        for name, (processes, threads) in CASES.items():
            rates[name].append(rate(args.method, args.backbone, args.data, args.batch, args.epochs, processes, threads))
    one, two_threads, two = rates.values()
    record = {
        **about(),
        **{name: getattr(args, name) for name in ("method", "backbone", "batch", "epochs")},
        "data": Path(args.data).name,
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "two_processes_over_one_thread": ratios(two, one)["median"],
        "two_processes_over_two_threads": ratios(two, two_threads)["median"],
        "rounds": rates,
    }
    print_json(data=record)
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
