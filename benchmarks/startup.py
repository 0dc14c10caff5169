"""From the start of the process to the end of the first training step, imports included.

python -m benchmarks.startup --data cifar10:PATH --out benchmarks/results/startup.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich import print_json

from benchmarks.measuring import about
from longtail.engine.run import write_json

RUN = """
import sys
from pathlib import Path
from longtail.api import make_config
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.engine.trainer import Trainer

class FirstStep(Reporter):
    def advance(self, steps=1):
        sys.exit()

method, backbone, data, folder = sys.argv[1:]
config = make_config(method, overrides={"backbone": backbone, "data": {"source": data}})
Trainer(config, Run(Path(folder)), FirstStep()).fit()
"""


def seconds(code: str, *arguments: str) -> float:
    """From the start of a Python process to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    return time.perf_counter() - start


def first_step_seconds(method: str, backbone: str, data: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return seconds(RUN, method, backbone, data, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="bce3s")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    bare = [seconds("import torch") for _ in range(args.rounds)]
    record = {
        **about(),
        "method": args.method,
        "backbone": args.backbone,
        "importing_torch_seconds": bare,
        "seconds": {
            Path(data).name: [first_step_seconds(args.method, args.backbone, data) for _ in range(args.rounds)]
            for data in args.data
        },
    }
    print_json(data=record)
    for data, times in record["seconds"].items():
        print(f"{data}: {statistics.median(times):.1f} s, of which importing torch {statistics.median(bare):.1f} s")
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    main()
