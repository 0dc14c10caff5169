"""Methods trained to the end, over seeds, on sets that a small machine finishes: docs/results.md is made of these.

    python -m benchmarks.converged fashion-authors                      # the embedded set, each recipe's rates and epochs
    python -m benchmarks.converged fashion-common --seeds 0 1 2         # one rate, decay and length for all
    python -m benchmarks.converged cifar10-third --data PATH --only ce balanced_softmax --minutes 60

Finished runs are kept and stopped ones go on, so call it again until nothing is left; several may run side by side. Every call
writes what is finished to benchmarks/results/converged-SETTING.{json,md}: last epoch, no test-time augmentation, mean and
standard deviation over seeds, the difference to cross-entropy on the same test images with its 95 % interval, and the
geometry of features and classifier. Under the table it says which methods fall behind cross-entropy, against their papers;
what was ruled out, and other disagreements, are written by hand in converged-SETTING.note.md, which is put there too.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import longtail
from benchmarks.compare import GEOMETRY
from benchmarks.measured import write_measured
from benchmarks.measuring import Row, add_to_record, provenance
from longtail.api import go_on
from longtail.cli import run
from longtail.cli.shared import stopping_after
from longtail.config import merge
from longtail.engine.run import Run
from longtail.evaluation.differences import Difference, paired_bootstrap
from longtail.evaluation.predictions import read
from longtail.files import write_text
from longtail.methods import METHODS
from longtail.recipes import all_recipes

RESULTS = Path(__file__).parent / "results"
COMMON = {"lr": 0.1, "weight_decay": 5e-4, "batch_size": 64, "schedule": "cosine", "epochs": 160, "warmup_epochs": 0}
CARVED = {"imbalance": 100, "subset": "ldam"}
# A set, a network, whether each method trains as its recipe for CIFAR-10-LT says or all alike, and the rows where not all.
SETTINGS: dict[str, dict[str, Any]] = {
    "fashion-authors": {"data": {"source": "fashion-mnist-lt"}, "backbone": "resnet8", "recipes": True},
    "fashion-common": {"data": {"source": "fashion-mnist-lt"}, "backbone": "resnet8", "recipes": False},
    # a third of CIFAR-10's images, so that the authors' 200 to 340 epochs are hours and not days
    "cifar10-third": {"data": CARVED | {"n_max": 1667}, "backbone": "resnet20", "recipes": True},
    "cifar10": {"data": CARVED, "backbone": "resnet32", "recipes": True},
    # what the name "ResNet-32" hides, on so few images that the wide one's epochs are minutes
    "cifar10-width": {
        "data": CARVED | {"n_max": 500},
        "backbone": "resnet32",
        "recipes": False,
        "rows": [f"{method}{network}" for network in ("", ": resnet32_w64") for method in ("ce", "balanced_softmax")],
    },
}
FIGURES = ("top1", "many", "medium", "few")


def _options(**options: Any) -> dict[str, Any]:
    return {"options": options}


# What a row is called, the method it trains, and settings beside its recipe's: the ablations, each term alone at equal length.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in METHODS} | {
    "bce3s: subset present": ("bce3s", _options(subset="present")),
    "bce3s: CE joint alone": ("bce3s", _options(joint="ce", contrastive="off", uniform="off", finetune="none")),
    "bce3s: BCE joint alone": ("bce3s", _options(contrastive="off", uniform="off", finetune="none")),
    "bce3s: joint and contrastive": ("bce3s", _options(uniform="off", finetune="none")),
    "bce3s: joint and uniform": ("bce3s", _options(contrastive="off", finetune="none")),
    "bce3s: first stage": ("bce3s", _options(finetune="none")),
    "bce3s: crop and flip alone": ("bce3s", _options(subset="present", augment="crop:4,flip")),
    "bce3s: batch norm frozen in eval": ("bce3s", _options(frozen_batchnorm="eval")),
    "bcl: projector on two views": ("bcl", _options(projected="contrasted")),
    "glmc: no consistency": ("glmc", _options(contrast_weight=0.0)),
    "glmc: no reweighting": ("glmc", _options(rebalance=False)),
    "ce: resnet32_w64": ("ce", {"backbone": "resnet32_w64"}),
    "balanced_softmax: resnet32_w64": ("balanced_softmax", {"backbone": "resnet32_w64"}),
}
# Faces have a script of their own, benchmarks/faces.py.
USUAL = [name for name in VARIANTS if not name.endswith(("face", "face_epl", "_w64"))]


def overrides(setting: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """What a run is told beside its recipe."""
    data = setting["data"] | ({"source": args.data} if args.data else {})
    # Normalised by these images' own statistics: they are not CIFAR's.
    told: dict[str, Any] = {"data": data | {"mean": None, "std": None}, "backbone": setting["backbone"]}
    told["train"] = {"compile": args.compile} | ({} if setting["recipes"] else COMMON)
    return told


def train(name: str, seed: int, args: argparse.Namespace) -> None:
    """Train one row's run of `seed`, go on with it, or leave it alone if it is finished."""
    setting = SETTINGS[args.setting]
    method, own = VARIANTS[name]
    path = folder(args, name, seed)
    if go_on(path):
        return
    recipe = "cifar10-lt-100" if f"{method}/cifar10-lt-100" in all_recipes() else None
    told = merge(overrides(setting, args), {"seed": seed} | own)
    longtail.train(method, recipe=recipe, out=path, **told)


def folder(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.out / args.setting / name.replace(": ", "-").replace(" ", "-") / f"seed-{seed}"


def finished(args: argparse.Namespace, kept: list[Row]) -> Iterator[Row]:
    """What the finished runs below --out measured. Their geometry is measured here, where `kept` does not have it."""
    known = {_key(row): row for row in kept}
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
                row = json.loads(json.dumps(row).replace(config["data"]["source"], args.setting))
                before = known.get(_key(row), {})
                if before.get("results") != row["results"] or "geometry" not in before:
                    before = {"geometry": measure_geometry(path)}
                # One bit for each test image, in the test set's order: whether it was recognised.
                right = base64.b64encode(np.packbits(read(path).correct).tobytes()).decode()
                yield row | {"geometry": before["geometry"], "right": right}


def measure_geometry(path: Path) -> dict[str, float]:
    """Of the test images' features and the classifier: see `evaluation.geometry`."""
    measured = longtail.evaluate(path, geometry=True)["geometry"]["test"]["all"]
    return {name: measured[name] for name in GEOMETRY}


def _key(row: Row) -> tuple[str, int]:
    return row["name"], row["config"]["seed"]


def _common(row: Row) -> dict[str, Any]:
    """What all runs of a table have in common."""
    return {"images": row["results"]["data"]["subset_hash"]}


def _right(row: Row) -> np.ndarray:
    """Whether each test image was recognised, float [N]."""
    bits = np.frombuffer(base64.b64decode(row["right"]), np.uint8)
    return np.unpackbits(bits, count=row["results"]["data"]["test_images"]).astype(float)


def over(runs: list[Row], baseline: list[Row]) -> Difference | None:
    """Their difference in accuracy on the same test images, a mean over the seeds that both have; None where there are none."""
    theirs = {row["config"]["seed"]: row for row in baseline}
    pairs = [(row, theirs[row["config"]["seed"]]) for row in runs if row["config"]["seed"] in theirs]
    if not pairs:
        return None
    differences = np.mean([_right(mine) - _right(other) for mine, other in pairs], axis=0)
    return paired_bootstrap(differences, np.zeros(len(differences), int))


def write_table(args: argparse.Namespace) -> str:
    """Collect the finished runs into a JSON file and a Markdown table. Returns the table."""
    setting, record = SETTINGS[args.setting], RESULTS / f"converged-{args.setting}.json"
    fresh = list(finished(args, json.loads(record.read_text()) if record.exists() else []))
    rows = add_to_record(record, fresh, _key, _common)
    rows.sort(key=lambda row: (list(VARIANTS).index(row["name"]), row["config"]["seed"]))
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    lines = [f"# {args.setting}", ""]
    if rows:
        data = rows[0]["results"]["data"]
        rates = "each as its recipe for CIFAR-10-LT says" if setting["recipes"] else f"all alike: {COMMON}"
        lines += [
            f"- data: {args.setting}, imbalance factor {data['imbalance_factor']:g}, {data['train_images']:,} training images "
            f"(subset {data['subset']}, hash {data['subset_hash']}), {data['test_images']:,} test images",
            f"- network: {setting['backbone']}, {rows[0]['environment']['backbone_parameters']:,} parameters",
            f"- rates and epochs: {rates}; protocol: {rows[0]['results']['protocol']}",
            *provenance(rows, lambda row: f"{row['name']} {row['config']['seed']}"),
            f"- command: `OMP_NUM_THREADS=1 python -m benchmarks.converged {args.setting}`; minutes: of one thread beside others",
            "- in %, mean ± standard deviation over seeds; over CE: top-1 less cross-entropy's of the same seeds, with the 95 % "
            "interval of a paired bootstrap over the test images",
            "",
            "| method | seeds | epochs | top-1 | many | medium | few | over CE | parameters | multiply-adds | minutes |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
    behind = []
    for name, runs in by_name.items():
        results = runs[0]["results"]
        cells = [_spread([row["results"]["metrics"][figure] for row in runs]) for figure in FIGURES]
        difference = over(runs, by_name.get("ce", [])) if name != "ce" else None
        if difference is not None and difference.high < 0:
            behind.append(name)
        minutes = statistics.mean(row["results"]["seconds"] for row in runs) / 60
        lines.append(
            f"| {name} | {len(runs)} | {results['epochs']} | {' | '.join(cells)} | {_interval(difference)} | "
            f"{results['parameters']:,} | {results['multiply_adds'] / 1e6:.1f} M | {minutes:.0f} |"
        )
    lines += _disagreements(args.setting, behind)
    if rows:
        lines += ["", f"| method | {' | '.join(GEOMETRY.values())} |", "|---|" + "---:|" * len(GEOMETRY)]
    for name, runs in by_name.items():
        means = (statistics.mean(row["geometry"][measure] for row in runs) for measure in GEOMETRY)
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in means)} |")
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / f"converged-{args.setting}.md", text)
    write_measured()
    return text


def _disagreements(setting: str, behind: list[str]) -> list[str]:
    """What is said under the table: who is behind cross-entropy, and the note that a person has written."""
    note = RESULTS / f"converged-{setting}.note.md"
    said = []
    if behind:
        said.append(f"Behind cross-entropy here, by more than luck with the test images explains: {', '.join(behind)}.")
    if note.exists():
        said.append(note.read_text().strip())
    return ["", "\n\n".join(said)] if said else []


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _spread(shares: list[float | None]) -> str:
    """Mean and standard deviation in percent, of a figure that the set may not have: not every one has few-shot classes."""
    values = [100 * share for share in shares if share is not None]
    if not values:
        return "-"
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


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
        wanted = args.only or SETTINGS[args.setting].get("rows", USUAL)
        end = time.monotonic() + 60 * args.minutes
        for seed in args.seeds:
            for name in wanted:
                with stopping_after(max((end - time.monotonic()) / 60, 0.01)):
                    train(name, seed, args)
                write_table(args)
    sys.stdout.write(write_table(args))


if __name__ == "__main__":
    run(main)
