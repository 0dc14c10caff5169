"""What the methods reached, for `longtail methods NAME` and their pages: `python -m benchmarks.measured` writes
`src/longtail/recipes/measured.jsonl` from benchmarks/results/converged-*.json, a line for each method and setting."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import longtail
from longtail.files import write_text
from longtail.methods import METHODS
from longtail.recipes.measured import Measured

RESULTS = Path(__file__).parent / "results"
FILE = Path(longtail.__file__).parent / "recipes" / "measured.jsonl"
WHERE = {
    "fashion-authors": "Fashion-MNIST-LT (embedded), resnet8, its own recipe for CIFAR-10-LT",
    "fashion-common": "Fashion-MNIST-LT (embedded), resnet8, rates common to all methods",
    "cifar10-third": "a third of CIFAR-10-LT (JPEG), factor 100, resnet20, its own recipe",
    "cifar10": "CIFAR-10-LT (JPEG), factor 100, resnet32, its own recipe",
}


def lines() -> list[Measured]:
    """One for each method and setting with finished runs. Ablations are left out."""
    found = []
    for setting, where in WHERE.items():
        record = RESULTS / f"converged-{setting}.json"
        rows = json.loads(record.read_text()) if record.exists() else []
        for method in METHODS:
            if runs := [row["results"] for row in rows if row["name"] == method]:
                found.append(_line(method, where, runs))
    return found


def _line(method: str, where: str, runs: list[dict[str, Any]]) -> Measured:
    shots = {
        figure: [round(100 * run["metrics"][figure], 2) for run in runs] for figure in ("top1", "many", "medium", "few")
    }
    means = {figure: round(statistics.mean(values), 1) for figure, values in shots.items()}
    deviation = round(statistics.stdev(shots["top1"]), 1) if len(runs) > 1 else None
    return Measured(method, where, runs[0]["epochs"], len(runs), deviation=deviation, **means)


def text() -> str:
    """The file's."""
    return "".join(json.dumps(line._asdict()) + "\n" for line in lines())


def write_measured() -> None:
    """Write the file anew."""
    write_text(FILE, text())


if __name__ == "__main__":
    write_measured()
