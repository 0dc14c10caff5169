"""Methods trained to the end, over seeds, on sets that a small machine finishes: docs/results.md is made of these.

    python -m benchmarks.converged fashion-authors                      # the embedded set, each recipe's rates and epochs
    python -m benchmarks.converged fashion-common --seeds 0 1 2         # one rate, decay and length for all
    python -m benchmarks.converged cifar10-third --data PATH --only ce balanced_softmax --minutes 60

Finished runs are kept and stopped ones go on, so call it again until nothing is left; several may run side by side. Every call
writes what is finished to benchmarks/results/converged-SETTING.{json,md}: last epoch, no test-time augmentation, mean and
standard deviation over seeds, and the difference to cross-entropy seed by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import longtail
from benchmarks.measuring import Row, add_to_record, provenance
from longtail.api import go_on
from longtail.cli import run
from longtail.cli.train import _stopping_after
from longtail.config import merge
from longtail.engine.run import Run
from longtail.files import write_text
from longtail.methods import METHODS
from longtail.recipes import all_recipes

RESULTS = Path(__file__).parent / "results"
COMMON = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 64, "schedule": "cosine", "epochs": 160, "warmup_epochs": 0}
CARVED = {"imbalance": 100, "subset": "ldam"}
# A set, a network, and whether each method trains as its recipe for CIFAR-10-LT says or all alike.
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-authors": {"data": {"source": "fashion-mnist-lt"}, "backbone": "resnet8", "recipes": True},
    "fashion-common": {"data": {"source": "fashion-mnist-lt"}, "backbone": "resnet8", "recipes": False},
    # a third of CIFAR-10's images, so that the authors' 200 to 340 epochs are hours and not days
    "cifar10-third": {"data": CARVED | {"n_max": 1667}, "backbone": "resnet20", "recipes": True},
    "cifar10": {"data": CARVED, "backbone": "resnet32", "recipes": True},
}
FIGURES = ("top1", "many", "medium", "few")
# What a row is called, the method it trains, and options beside its recipe's: the ablations, each term alone at equal length.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "bce3s: subset present": ("bce3s", {"subset": "present"}),
    "bce3s: CE joint alone": ("bce3s", {"joint": "ce", "contrastive": "off", "uniform": "off", "finetune": "none"}),
    "bce3s: BCE joint alone": ("bce3s", {"contrastive": "off", "uniform": "off", "finetune": "none"}),
    "bce3s: joint and contrastive": ("bce3s", {"uniform": "off", "finetune": "none"}),
    "bce3s: joint and uniform": ("bce3s", {"contrastive": "off", "finetune": "none"}),
    "bce3s: first stage": ("bce3s", {"finetune": "none"}),
    "bce3s: batch norm frozen in eval": ("bce3s", {"frozen_batchnorm": "eval"}),
    "bcl: projector on two views": ("bcl", {"projected": "contrasted"}),
    "glmc: no consistency": ("glmc", {"contrast_weight": 0.0}),
    "glmc: no reweighting": ("glmc", {"rebalance": False}),
}


def overrides(setting: dict[str, Any], method: str, args: argparse.Namespace) -> dict[str, Any]:
    """What a run is told beside its recipe."""
    data = setting["data"] | ({"source": args.data} if args.data else {})
    # Normalised by these images' own statistics: they are not CIFAR's.
    told: dict[str, Any] = {"data": data | {"mean": None, "std": None}, "backbone": setting["backbone"]}
    told["train"] = {"compile": args.compile} | ({} if setting["recipes"] else COMMON)
    return told


def train(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row's run of `seed`, go on with it, or leave it alone if it is finished."""
    setting = SETTINGS[args.setting]
    method, options = VARIANTS[name]
    path = folder(args, name, seed)
    if go_on(path):
        return
    recipe = "cifar10-lt-100" if f"{method}/cifar10-lt-100" in all_recipes() else None
    told = merge(overrides(setting, method, args), {"seed": seed, "options": options})
    longtail.train(method, recipe=recipe, out=path, **told)


def folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.out / args.setting / name.replace(": ", "-").replace(" ", "-") / f"seed-{seed}"


def finished(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the finished runs below --out measured."""
    for name in VARIANTS:
        for path in sorted((args.out / args.setting / name.replace(": ", "-").replace(" ", "-")).glob("seed-*")):
            opened = Run(path)
            if opened.results_file.exists():
                config = opened.config().model_dump(mode="json")
                row = {
                    "name": name,
                    "results": opened.results(),
                    "environment": json.loads(opened.environment_file.read_text()),
                    "config": config,
                }
                # Where things lay on the machine that ran is nobody's business.
                yield json.loads(json.dumps(row).replace(config["data"]["source"], args.setting))


def _setting(row: Row) -> dict[str, Any]:
    """What all runs of a table have in common."""
    return {"images": row["results"]["data"]["subset_hash"], "backbone": row["config"]["backbone"]}


def write_table(args: argparse.Namespace) -> str:
    """Collect the finished runs into a JSON file and a Markdown table. Returns the table."""
    record = RESULTS / f"converged-{args.setting}.json"
    rows = add_to_record(record, list(finished(args)), lambda row: (row["name"], row["config"]["seed"]), _setting)
    by_name: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["config"]["seed"]):
        by_name.setdefault(row["name"], []).append(row)
    lines = [f"# {args.setting}", ""]
    if rows:
        data, config = rows[0]["results"]["data"], rows[0]["config"]
        rates = (
            "each as its recipe for CIFAR-10-LT says" if SETTINGS[args.setting]["recipes"] else f"all alike: {COMMON}"
        )
        lines += [
            f"- data: {args.setting}, imbalance factor {data['imbalance_factor']:g}, {data['train_images']:,} training images "
            f"(subset {data['subset']}, hash {data['subset_hash']}), {data['test_images']:,} test images",
            f"- network: {config['backbone']}, {rows[0]['environment']['backbone_parameters']:,} parameters",
            f"- rates and epochs: {rates}; protocol: {rows[0]['results']['protocol']}",
            *provenance(rows, lambda row: f"{row['name']} {row['config']['seed']}"),
            f"- command: `OMP_NUM_THREADS=1 python -m benchmarks.converged {args.setting}`; minutes: of one thread beside others",
            "",
            "| method | seeds | epochs | top-1 | many | medium | few | over CE, seed by seed | parameters | minutes |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    order = [name for name in VARIANTS if name in by_name]
    baseline = {row["config"]["seed"]: row["results"]["metrics"]["top1"] for row in by_name.get("ce", [])}
    for name in order:
        runs = by_name[name]
        cells = [_spread([100 * row["results"]["metrics"][figure] for row in runs]) for figure in FIGURES]
        gains = [
            100 * (row["results"]["metrics"]["top1"] - baseline[row["config"]["seed"]])
            for row in runs
            if row["config"]["seed"] in baseline
        ]
        minutes = statistics.mean(row["results"]["seconds"] for row in runs) / 60
        lines.append(
            f"| {name} | {len(runs)} | {runs[0]['results']['epochs']} | {' | '.join(cells)} | "
            f"{_spread(gains) if gains and name != 'ce' else '-'} | {runs[0]['results']['parameters']:,} | {minutes:.0f} |"
        )
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / f"converged-{args.setting}.md", text)
    return text


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(SETTINGS))
    parser.add_argument("--data", help="the set, where the setting does not name it")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these rows")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--compile", action="store_true", help="compile the network: faster, equal up to rounding")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--out", type=Path, default=Path("runs/converged"))
    parser.add_argument("--table", action="store_true", help="write the table of what is finished, train nothing")
    args = parser.parse_args()
    if not args.table:
        wanted = args.only or [name for name in VARIANTS if not name.endswith(("face", "face_epl"))]
        end = time.monotonic() + 60 * args.minutes
        for seed in args.seeds:
            for name in wanted:
                with _stopping_after(max((end - time.monotonic()) / 60, 0.01)):
                    train(name, seed, args)
                write_table(args)
    sys.stdout.write(write_table(args))


if __name__ == "__main__":
    run(main)
