"""Peak resident memory of a whole run: decoding, training, evaluation, the files at the end.

    python -m benchmarks.memory --data cifar10:PATH --out benchmarks/results/memory.json

The peak is that of this process, which does nothing else (Linux, CPU). All of the set is used, balanced as it is, as that
takes the most. One epoch shows the peak, since every epoch does the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich import print_json

import longtail
from benchmarks.measuring import about, resident_bytes
from longtail.cli import run
from longtail.engine.run import write_json


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ce")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)

    imported = resident_bytes("VmHWM")
    with tempfile.TemporaryDirectory() as folder:
        train = {"epochs": args.epochs, "accelerator": "cpu"}
        results = longtail.train(args.method, data=args.data, out=f"{folder}/run", backbone=args.backbone, train=train)
    record = {
        **about(),
        **{name: getattr(args, name) for name in ("method", "backbone", "epochs")},
        "data": Path(args.data).name,
        "images": {name: count for name, count in results["data"].items() if name.endswith("_images")},
        "peak_resident_gb": resident_bytes("VmHWM") / 1e9,
        "of_that_imports_gb": imported / 1e9,
        "training_seconds": results["seconds"],
    }
    print_json(data=record)
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    run(main)
