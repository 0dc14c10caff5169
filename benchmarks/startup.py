"""From the start of the process to the end of the first training step, imports included.

python -m benchmarks.startup --data cifar10:PATH fashion-mnist-lt --out benchmarks/results/startup.json
python -m benchmarks.startup --data PATH --pickled     # the same images in CIFAR-10's own format as well
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import print_json

from benchmarks.measuring import about
from longtail.cli import run
from longtail.data.images import ImageSet
from longtail.data.sources import open_source
from longtail.engine.run import write_json

RUN = """
import os
import sys
from pathlib import Path
from longtail.api import make_config
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.engine.trainer import Trainer

class FirstStep(Reporter):
    def advance(self, steps=1):
        os._exit(0)  # what an ending process tidies up is not part of a start

method, backbone, data, folder = sys.argv[1:]
config = make_config(method, overrides={"backbone": backbone, "data": {"source": data}})
Trainer(config, Run(Path(folder)), FirstStep()).fit()
"""


def write_pickles(source: str, folder: Path) -> None:
    """The 32 x 32 images of `source` in the official CIFAR-10 layout."""

    def write(name: str, images: ImageSet, positions: np.ndarray) -> None:
        data = np.stack([images.image(int(i), 3).transpose(2, 0, 1).ravel() for i in positions])
        batch = {b"data": data, b"labels": images.labels[positions].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, 4))

    splits = open_source(source)
    for i, part in enumerate(np.array_split(np.arange(len(splits.train)), 5), 1):
        write(f"data_batch_{i}", splits.train, part)
    assert splits.test is not None
    write("test_batch", splits.test, np.arange(len(splits.test)))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": list(splits.train.class_names)}, 4))


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
    parser.add_argument("--pickled", action="store_true", help="measure the first --data as CIFAR-10 pickles too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    for data in args.data:
        open_source(data)  # a wrong one is told here, and not by each process that is measured
    with tempfile.TemporaryDirectory() as pickles:
        sources = {Path(data).name: data for data in args.data}
        if args.pickled:
            write_pickles(args.data[0], Path(pickles))
            sources[f"{Path(args.data[0]).name}, pickled"] = f"cifar10:{pickles}"
        bare = [seconds("import torch; import os; os._exit(0)") for _ in range(args.rounds)]
        times = {
            name: [first_step_seconds(args.method, args.backbone, data) for _ in range(args.rounds)]
            for name, data in sources.items()
        }
    record = {
        **about(),
        "method": args.method,
        "backbone": args.backbone,
        "importing_torch_seconds": bare,
        "seconds": times,
    }
    print_json(data=record)
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.1f} s, of which importing torch {statistics.median(bare):.1f} s")
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
