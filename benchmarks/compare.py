"""One table of methods on one long-tailed set: same network, same epochs, same batch size and schedule, one seed.

    python -m benchmarks.compare cifar10-jpeg --data PATH --epochs 20               # all, one after the other
    python -m benchmarks.compare cifar10-jpeg --data PATH --epochs 20 --only glmc   # some: processes may run side by side
    python -m benchmarks.compare cifar10-jpeg --data PATH --epochs 20 --geometry    # features and classifiers measured too

Runs that are finished are kept and those that were stopped go on, so the script can be called again at any time. Every
call adds what is finished to benchmarks/results/compare-NAME.{json,md}, where runs of other machines at the same
setting stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import longtail
from benchmarks.measuring import Row, add_to_record, provenance
from longtail.api import go_on
from longtail.cli import run
from longtail.engine.run import Run, write_json
from longtail.files import write_text
from longtail.report.tables import percent

RESULTS = Path(__file__).parent / "results"
# The authors' learning rates, those for another batch size than 64 scaled in proportion, and their weight decays.
LT = {"lr": 0.05, "weight_decay": 2e-4}
BCE3S: dict[str, Any] = {"method": "bce3s", "train": {"lr": 0.01, "weight_decay": 5e-3}}
VARIANTS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce", "train": LT},
    "balanced_softmax": {"method": "balanced_softmax", "train": LT},
    "glmc": {"method": "glmc", "train": {"lr": 0.01, "weight_decay": 5e-3}},
    "bcl": {"method": "bcl", "train": {"lr": 0.0375, "weight_decay": 5e-4}},
    "bce3s": BCE3S,
    "bce3s+maxnorm": BCE3S
    | {"start_from": "bce3s", "stages": ["maxnorm"], "options": {"finetune": "maxnorm", "finetune_epochs": 10}},
    # the paper's ablation of stage 1
    "bce3s: ce joint": BCE3S | {"options": {"joint": "ce", "contrastive": "off", "uniform": "off"}},
    "bce3s: joint": BCE3S | {"options": {"contrastive": "off", "uniform": "off"}},
    "bce3s: joint+contrastive": BCE3S | {"options": {"uniform": "off"}},
    "bce3s: joint+uniform": BCE3S | {"options": {"contrastive": "off"}},
}
# What `longtail eval --geometry` calls the properties that BCE3S claims, on the test features.
GEOMETRY = {
    "compactness": "compactness",
    "separability": "separability",
    "alignment": "alignment",
    "row_angle_std": "std of row angles (degrees)",
}
SHARED = {"batch_size": 64, "schedule": "cosine", "warmup_epochs": 1, "eval_every": 5}


def folder(out: Path, name: str) -> Path:
    return out / name.replace(": ", "-").replace(" ", "-")


def train(name: str, out: Path, args: argparse.Namespace) -> None:
    """Train one variant, go on with it, or leave it alone if it is finished."""
    variant = dict(VARIANTS[name])
    path = folder(out, name)
    if go_on(path):
        return
    if "start_from" in variant:
        variant["start_from"] = str(folder(out, variant["start_from"]))
    variant["train"] = SHARED | variant["train"] | {"epochs": args.epochs, "compile": args.compile}
    longtail.train(
        variant.pop("method"),
        data={"source": args.data, "imbalance": args.imbalance or None},
        out=path,
        backbone=args.backbone,
        seed=args.seed,
        **variant,
    )


def measure_geometry(path: Path) -> None:
    if not (path / "geometry.json").exists():
        measured = longtail.evaluate(path, geometry=True)["geometry"]["test"]["all"]
        write_json(path / "geometry.json", {name: measured[name] for name in GEOMETRY})


def write_table(setting: str, out: Path) -> str:
    """Collect the finished runs into a JSON file and a Markdown table. Returns the table."""
    fresh = []
    for name in VARIANTS:
        path = folder(out, name)
        if (path / "results.json").exists():
            run = Run.open(path)
            environment = json.loads(run.environment_file.read_text())
            row = {"name": name, "results": run.results(), "environment": environment}
            row["config"] = run.config().model_dump(mode="json")
            if (path / "geometry.json").exists():
                row["geometry"] = json.loads((path / "geometry.json").read_text())
            # Where things lay on the machine that ran is nobody's business.
            row = json.loads(json.dumps(row).replace(row["config"]["data"]["source"], setting))
            if row["config"]["start_from"]:
                row["config"]["start_from"] = VARIANTS[name]["start_from"]
            fresh.append(row)
    rows = add_to_record(RESULTS / f"compare-{setting}.json", fresh, lambda row: row["name"], _setting)
    rows.sort(key=lambda row: list(VARIANTS).index(row["name"]))
    lines = [f"# {setting}", ""]
    if rows:
        results, environment, config = rows[0]["results"], rows[0]["environment"], rows[0]["config"]
        data, epochs = results["data"], config["train"]["epochs"]
        lines += [
            f"- data: {setting}, imbalance factor {data['imbalance_factor']:g}, {data['train_images']:,} training "
            f"images (subset {data['subset']}, hash {data['subset_hash']}), {data['test_images']:,} test images",
            f"- network: {config['backbone']}, {environment['backbone_parameters']:,} parameters; {environment['precision']}",
            f"- schedule: {epochs} epochs, batch 64, SGD with the authors' learning rate and weight decay, "
            f"one warm-up epoch, cosine; seed {config['seed']}; protocol: {results['protocol']}",
            *provenance(rows, lambda row: row["name"]),
            f"- command: `OMP_NUM_THREADS=1 python -m benchmarks.compare {setting} --data PATH --epochs {epochs}`",
            "",
            "| method | top-1 | many | medium | few | ECE |",
            "|---|---:|---:|---:|---:|---:|",
        ]
    for row in rows:
        metrics = row["results"]["metrics"]
        cells = (percent(metrics[key]) for key in ("top1", "many", "medium", "few", "ece"))
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    if measured := [row for row in rows if "geometry" in row]:
        lines += ["", f"| method | {' | '.join(GEOMETRY.values())} |", "|---|" + "---:|" * len(GEOMETRY)]
        for row in measured:
            cells = (f"{row['geometry'][name]:.3f}" for name in GEOMETRY)
            lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / f"compare-{setting}.md", text)
    return text


def _setting(row: Row) -> dict[str, Any]:
    """What all runs of a table have in common."""
    config = row["config"]
    return {
        "images": row["results"]["data"]["subset_hash"],
        "backbone": config["backbone"],
        "epochs": config["train"]["epochs"],
        "seed": config["seed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", help="name of the table")
    parser.add_argument("--data", required=True)
    parser.add_argument("--imbalance", type=float, default=100, help="0: the set is long-tailed as it is")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--geometry", action="store_true", help="measure what BCE3S claims of features and classifier")
    parser.add_argument("--compile", action="store_true", help="compile the network: faster, equal up to rounding")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    args = parser.parse_args()
    out = args.out / args.setting
    for name in args.only:
        train(name, out, args)
        if args.geometry:
            measure_geometry(folder(out, name))
        write_table(args.setting, out)
    sys.stdout.write(write_table(args.setting, out))


if __name__ == "__main__":
    run(main)
