"""How long a report takes, how large it is, and how soon a browser has drawn it, for 2 to 8,142 classes.

python -m benchmarks.report --out benchmarks/results/report.json

The runs are made up: images of noise with a class's own brightness, and scores that lean towards frequent classes. What
is timed is the command, in a process of its own, with the pictures, label errors and everything else that the page has;
where other work shares the machine, the CPU's seconds say more than the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import about
from longtail.classes import Classes
from longtail.config import Config, save_yaml
from longtail.data.longtail import profile_counts
from longtail.engine.prepare import choose_images
from longtail.engine.run import Run, environment, write_json
from longtail.evaluation.accuracy import Evaluator
from longtail.evaluation.predictions import MOST_LOGITS, condense, write
from longtail.files import append_line, write_text

# classes, test images, images of the largest and imbalance of the training set
CASES = {2: (10_000, 5_000, 50), 100: (10_000, 500, 100), 1000: (10_000, 200, 100), 8142: (24_426, 40, 40)}


def made_up_run(
    folder: Path, classes: int, test: int, largest: int, imbalance: float, seed: int = 0,
    names: Sequence[str] | None = None, method: str = "ce", strength: float = 1.0,
) -> Run:  # fmt: skip
    """A finished run of `classes` classes with `test` test images, and beside it the images that it was made of.

    `strength`: how far the right class's score stands out of the noise. Runs in the same parent folder have the same
    images.
    """
    run, source = Run(folder), folder.parent / "images.npz"
    names = list(names or (f"class {c:04d}" for c in range(classes)))
    if not source.exists():
        draw = np.random.default_rng(0)
        arrays: dict[str, Any] = {"class_names": np.array(names)}
        of_split = {
            "train": np.repeat(np.arange(classes), profile_counts(largest, classes, imbalance)),
            "test": np.arange(test) % classes,
        }
        for split, of_images in of_split.items():
            brightness = (of_images * 37 % 200).astype(np.uint8)[:, None, None, None]
            arrays[f"{split}_images"] = brightness + draw.integers(0, 56, (len(of_images), 12, 12, 3), dtype=np.uint8)
            arrays[f"{split}_labels"] = of_images
        source.parent.mkdir(parents=True, exist_ok=True)
        np.savez(source, **arrays)
    values = {"method": method, "backbone": "resnet8", "seed": seed, "data": {"source": str(source)}}
    config = Config.model_validate(values)
    subset = choose_images(config.data, seed)
    counts = Classes(subset.train.class_names, subset.classes.counts)
    write_text(run.config_file, save_yaml(config))
    _write_predictions(run, counts, subset.held_out["test"], seed, strength)
    evaluator = Evaluator(counts)
    for _, labels, logits in _logits(counts, subset.held_out["test"].labels, seed, strength):
        evaluator.update(logits, labels)
    metrics = evaluator.compute()
    for epoch in range(60):
        scores = {
            name: value * (1 - 0.97 ** (epoch + 1)) for name, value in metrics.items() if isinstance(value, float)
        }
        line = {
            "stage": "train",
            "epoch": epoch,
            "lr": 0.1 * (1 - epoch / 60),
            "loss": {"cross_entropy": 2 * 0.95**epoch},
        }
        append_line(run.metrics_file, line | {"test": scores})
    write_json(run.environment_file, environment(torch.device("cpu")) | {"data": dict(subset.description)})
    results = {
        "method": method, "backbone": "resnet8", "parameters": 75_002, "multiply_adds": 9_145_216, "seed": seed,
        "data": dict(subset.description), "skipped_images": [], "epochs": 60, "split": "test",
        "protocol": "last epoch, no test-time augmentation", "metrics": metrics, "seconds": 60.0 + seed,
    }  # fmt: skip
    write_json(run.results_file, results)
    return run


def _logits(classes: Classes, labels: np.ndarray, seed: int, strength: float) -> Iterator[tuple[Tensor, ...]]:
    """Batches of index, labels and scores [B, C] that lean towards frequent classes."""
    draw = torch.Generator().manual_seed(seed)
    lean = classes.count_tensor.float().log()
    for index in torch.arange(len(labels)).split(2048):
        own = torch.from_numpy(labels)[index]
        logits = torch.randn(len(index), len(classes), generator=draw) + lean
        logits[torch.arange(len(index)), own] += strength * (3 + lean.max() / 2)
        yield index, own, logits


def _write_predictions(run: Run, classes: Classes, images: Any, seed: int, strength: float) -> None:
    keep = len(images) * len(classes) <= MOST_LOGITS
    scored = _logits(classes, images.labels, seed, strength)
    batches = [condense(index, labels, logits, keep) for index, labels, logits in scored]
    rows = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}
    write(run.predictions_file, rows, [images.key(i) for i in range(len(images))], classes, "test")


def measure(classes: int, folder: Path) -> dict[str, Any]:
    test, largest, imbalance = CASES[classes]
    run = made_up_run(folder / "run", classes, test, largest, imbalance)
    command = [sys.executable, "-m", "longtail", "report", str(run.path)]
    begun, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - begun, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    page = run.path / "report.html"
    return {
        "classes": classes,
        "test_images": test,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "megabytes": round(page.stat().st_size / 1e6, 2),
        "drawn_after_seconds": _drawn_after(page),
    }


def _drawn_after(page: Path) -> float | None:
    """Until a browser has drawn every plot; None where there is no browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if not Path("/usr/bin/chromium").exists():
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        begun = time.perf_counter()
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_function("[...document.querySelectorAll('.canvas')].every(c => c.hasAttribute('data-drawn'))")
        seconds = time.perf_counter() - begun
        browser.close()
    return round(seconds, 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", type=int, default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cases = [measure(classes, Path(folder, str(classes))) for classes in options.classes]
    record = about() | {"cases": cases}
    print(json.dumps(record, indent=2))
    if options.out is not None:
        write_json(options.out, record)


if __name__ == "__main__":
    main()
