"""Peak resident memory of a whole run: decoding, training, evaluation, the files at the end.

    python -m benchmarks.memory --data cifar10:PATH --out benchmarks/results/memory.json

The run goes through its epochs in a fresh process, whose largest resident set the kernel remembers (Linux). By default
all of a balanced set is used, as that takes the most; one epoch shows the peak, and longer runs stay there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from longtail.engine.run import Run, device_name, write_json


def peak_of(command: list[str]) -> tuple[int, float]:
    """Run `command`; its peak resident memory in bytes and its seconds. Raises `CalledProcessError` if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ce")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        options = ["--data", args.data, "--backbone", args.backbone, "--epochs", str(args.epochs)]
        command = ["train", args.method, *options]
        entry = [sys.executable, "-c", "from longtail.cli import main; main()"]
        peak, seconds = peak_of([*entry, *command, "--out", f"{folder}/run"])
        data = Run.open(f"{folder}/run").results()["data"]
    record = {
        "command": " ".join(["longtail", *command]),
        "date": datetime.date.today().isoformat(),
        "machine": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "train_images": data["train_images"],
        "peak_resident_gb": round(peak / 1e9, 3),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(record, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, record)


if __name__ == "__main__":
    main()
