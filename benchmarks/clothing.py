"""Photographs of clothes, 951 to 15 training images a class, on a backbone trained on ImageNet: what a user meets.

    python -m benchmarks.clothing --data CLOTHING                      # all, one after the other
    python -m benchmarks.clothing --data CLOTHING --only head-ce sklearn-balanced

CLOTHING has train.csv and test.csv (columns path, label, sender; no sender in both) and the images. Every run is of the
same backbone; what differs is the loss and what of the backbone learns. Settings were chosen on senders held out of
train.csv, none on test.csv. Runs that are finished are kept and those that were stopped go on; every call adds what is
finished to benchmarks/results/clothing.{json,md}. Rows of commands are what a user types, in a process of its own that
starts without stored features: their seconds are all that a user waits.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import longtail
from benchmarks.measuring import Row, add_to_record, provenance
from longtail.api import go_on
from longtail.cli import run
from longtail.config import merge
from longtail.engine.run import Run, write_json
from longtail.files import write_text
from longtail.finetune.plan import LAYER_DECAY, OPTIMISATION, SCHEDULE

RESULTS = Path(__file__).parent / "results"
BACKBONE = "timm:tf_efficientnet_lite0"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("ce", {}),
    "class weights": ("ce", {"reweight": "always"}),
    "balanced_softmax": ("balanced_softmax", {}),
    "ldam (DRW)": ("ldam", {}),
    "crt": ("crt", {}),
    "logit adjustment after training": ("ce+logit_adjustment", {}),
    "glmc": ("glmc", {}),
    "bcl": ("bcl", {}),
    "bce3s": ("bce3s", {}),
}
MODES = ("head", "partial", "full", "scratch")
SKLEARN = {"sklearn": None, "sklearn-balanced": "balanced"}  # logistic regression's class_weight
PLAIN = "plain fine-tuning"  # as general tools do it: cross-entropy, all weights at one rate, batch norm running
COMMANDS = {
    "longtail train balanced_softmax --freeze": ("balanced_softmax", "--freeze"),
    "longtail train auto --budget 15m": ("auto", "--budget", "15m"),
    "longtail train auto --budget 1h": ("auto", "--budget", "1h"),
}


def names() -> list[str]:
    """Every row: MODE-METHOD with all methods on features, the two most telling ones elsewhere, and what others do."""
    few = ("ce", "balanced_softmax")
    return [
        *(f"{mode}-{method}" for mode in MODES for method in (METHODS if mode == "head" else few)),
        PLAIN,
        *SKLEARN,
        *COMMANDS,
    ]


def settings(name: str) -> tuple[str, dict[str, Any]]:
    """Method and settings of the row MODE-METHOD."""
    if name == PLAIN:
        method, chosen = settings("full-ce")
        return method, merge(chosen, {"finetune": {"layer_decay": 1.0, "norms": "running"}})
    mode, _, method = name.partition("-")
    method, options = METHODS[method]
    train = merge(OPTIMISATION["full" if mode == "scratch" else mode], SCHEDULE)
    finetune = {"mode": mode, "layer_decay": LAYER_DECAY if mode == "full" else 1.0}
    chosen = {"pretrained": True, "finetune": finetune} if mode != "scratch" else {"data": {"image_size": 224}}
    return method, {"backbone": BACKBONE, "train": train, "options": options, "report": False, **chosen}


def train(name: str, seed: int, path: Path, data: Path) -> dict[str, Any]:
    """Train one row's run, go on with it, or leave it alone if it is finished. Returns its line of the record."""
    begun = time.monotonic()
    if go_on(path) is None:
        method, chosen = settings(name)
        source = {"source": str(data / "train.csv"), "test": str(data / "test.csv"), "validation": 0.0}
        chosen = merge(chosen, {"data": source, "seed": seed})
        longtail.train(method, out=path, **chosen)
        _write_wall(path, begun)
    return _finished(name, seed, path, data)


def command(name: str, seed: int, path: Path, data: Path) -> Row:
    """Run the row's command, as a user does, without stored features; or leave it alone if it is finished."""
    if not Run(path).results_file.is_file():
        begun = time.monotonic()
        words = [
            *COMMANDS[name],
            "--data",
            data / "train.csv",
            "--test",
            data / "test.csv",
            "--seed",
            seed,
            "--out",
            path,
        ]
        environment = os.environ | {"LONGTAIL_CACHE": str(path.with_name(f"{path.name}-cache"))}
        subprocess.run([sys.executable, "-m", "longtail", "train", *map(str, words)], check=True, env=environment)
        _write_wall(path, begun)
    return _finished(name, seed, path, data)


def _write_wall(path: Path, begun: float) -> None:
    write_json(path / "wall.json", {"seconds": round(time.monotonic() - begun, 1), "load": os.getloadavg()[1]})


def _finished(name: str, seed: int, path: Path, data: Path) -> Row:
    results = Run(path).results()
    wall = json.loads((path / "wall.json").read_text()) if (path / "wall.json").exists() else {}
    environment = json.loads(Run(path).environment_file.read_text())
    metrics = results["metrics"] | {
        "standard_error": standard_error(results["metrics"]["per_class"], data / "test.csv")
    }
    return _row(name, seed, metrics, wall, environment, Run(path).config().train.model_dump())


def standard_error(per_class: Sequence[float], test: Path) -> float:
    """Of the class-balanced accuracy, from the number of test images of each class."""
    with test.open() as rows:
        counts = Counter(row["label"] for row in csv.DictReader(rows))
    variances = [p * (1 - p) / counts[name] for p, name in zip(per_class, sorted(counts), strict=True)]
    return math.sqrt(sum(variances)) / len(variances)


def logistic_regression(name: str, seed: int, features: Path, head: Row, data: Path) -> Row:
    """scikit-learn's on the features that the head runs learn from, standardised, C chosen on held-out senders."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with np.load(features) as arrays:
        train, labels, test, truth = (arrays[key] for key in ("train", "train_labels", "test", "test_labels"))
    with (data / "train.csv").open() as rows:
        senders = [row["sender"] for row in csv.DictReader(rows)]  # in the order of the features
    begun = time.monotonic()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight=SKLEARN[name]))
    strengths = {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0]}
    model = GridSearchCV(pipeline, strengths, scoring="balanced_accuracy", cv=GroupKFold(4))
    predicted = model.fit(train, labels, groups=senders).predict(test)
    right = predicted == truth
    classes = range(labels.max() + 1)
    per_class = [float(right[truth == c].mean()) for c in classes]
    few = [per_class[c] for c in classes if (labels == c).sum() < 100]
    metrics = {
        "top1": float(right.mean()),
        "class_balanced": statistics.mean(per_class),
        "under_100": statistics.mean(few),
        "per_class": per_class,
        "standard_error": standard_error(per_class, data / "test.csv"),
    }
    wall = {"seconds": round(time.monotonic() - begun, 1), "load": os.getloadavg()[1]}
    return _row(name, seed, metrics, wall, head["environment"], {})


def write_features(head: Path, out: Path) -> None:
    """The features that a finished head run learned from, of training and test images."""
    import torch

    from longtail.data.loaders import Setup
    from longtail.engine.prepare import choose_images
    from longtail.finetune.features import FrozenStages, Variant, compute
    from longtail.models import build_backbone

    config = Run(head).config()
    subset = choose_images(config.data, config.seed)
    backbone = build_backbone(config.backbone, 3, True).eval()
    backbone.precision = (
        torch.bfloat16 if json.loads(Run(head).environment_file.read_text())["precision"] == "bf16" else None
    )
    frozen = FrozenStages(backbone, len(backbone.stages) + 1)
    setup = Setup(torch.device("cpu"), config.data.mean, config.data.std, workers=2)
    arrays: dict[str, Any] = {}
    for split, images in (("train", subset.train), ("test", subset.held_out["test"])):
        values, _, _ = compute(
            images, frozen, [Variant("")], setup=setup, channels=3, image_size=config.data.image_size
        )
        arrays |= {split: values[Variant("")].flatten(1).numpy(), f"{split}_labels": images.labels}
    np.savez(out, **arrays)


def _row(
    name: str,
    seed: int,
    metrics: dict[str, Any],
    wall: dict[str, Any],
    environment: dict[str, Any],
    train: dict[str, Any],
) -> Row:
    environment = json.loads(json.dumps(environment))
    environment.get("data", {}).pop("source", None)  # where the data lay is nobody's business
    kept = {
        key: metrics[key]
        for key in ("top1", "class_balanced", "under_100", "per_class", "standard_error")
        if key in metrics
    }
    config = {"train": {"compile": False} | {key: train[key] for key in ("epochs", "lr", "batch_size") if key in train}}
    return {"name": name, "seed": seed, "metrics": kept, "wall": wall, "environment": environment, "config": config}


def write_table(fresh: Sequence[Row]) -> str:
    """Add rows to the record and write the table. Returns it."""
    rows = add_to_record(RESULTS / "clothing.json", fresh, lambda row: f"{row['name']} {row['seed']}", lambda row: 0)
    data = next(row["environment"]["data"] for row in rows if row["environment"].get("data"))
    errors = [row["metrics"]["standard_error"] for row in rows if "standard_error" in row["metrics"]]
    lines = [
        "# Photographs of clothes",
        "",
        f"- data: clothing (CC0), 17 classes of 951 to 15 training images, {data['train_images']:,} training and "
        f"{data['test_images']} test images, no sender in both",
        "- network: tf_efficientnet_lite0, trained on ImageNet, but for `scratch`; 224 px; last epoch, no test-time augmentation",
        "- settings: chosen on senders held out of training, none on test images; so is C of scikit-learn's logistic "
        "regression, on standardised features",
        "- class-balanced: the mean of the classes' accuracies, in %, mean ± standard deviation over seeds. Another test set of "
        f"this size (classes of 4 to 60 images) would move it by a standard error of {100 * statistics.mean(errors):.1f} points; "
        "rows are compared on the same images, so that their difference moves less",
        "- seconds: wall time of training and scoring, features that an earlier run had computed not included (of commands: "
        "all, from the photographs on), at the load that the last column says (of 2 cores)",
        *provenance(rows, lambda row: row["name"]),
        "",
        "| what learns, loss | seeds | class-balanced | top-1 | seconds | load |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in names():
        if of_name := [row for row in rows if row["name"] == name]:
            cells = [_spread([100 * row["metrics"][key] for row in of_name]) for key in ("class_balanced", "top1")]
            walls = [row["wall"] for row in of_name if row["wall"]]
            cells += [
                f"{statistics.mean(wall[key] for wall in walls):.0f}" if walls else "-" for key in ("seconds", "load")
            ]
            lines.append(f"| {name} | {len(of_name)} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / "clothing.md", text)
    return text


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=names(), default=names())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/clothing"))
    args = parser.parse_args(arguments)
    rows: list[Row] = []
    for name in args.only:
        for seed in args.seeds if name not in SKLEARN else [0]:  # its optimum does not depend on one
            if name in SKLEARN:
                head, features = args.out / "head-ce-seed0", args.out / "features.npz"
                first = train("head-ce", 0, head, args.data)
                if not features.exists():
                    write_features(head, features)
                rows.append(logistic_regression(name, seed, features, first, args.data))
            else:
                row = command if name in COMMANDS else train
                rows.append(row(name, seed, args.out / f"{name.replace(' ', '-')}-seed{seed}", args.data))
            text = write_table(rows)
    sys.stdout.write(text)


if __name__ == "__main__":
    run(main)
