"""Margin heads with and without empirical prototypes (EPL) on LFW: same network, schedule and seeds for all six.

    python -m benchmarks.faces --data LFW --epochs 28                    # all, one after the other
    python -m benchmarks.faces --data LFW --only cosface cosface_epl     # some: processes may run side by side
    python -m benchmarks.faces --data LFW --backbone iresnet50 --image-size 112 --name faces-iresnet50
    python -m benchmarks.faces --data LFW --least 2 --authors --name faces-authors       # two images or more, EPL's start

LFW is a folder with images.parquet, people.txt and pairs.txt. The people of folds 1 to 9 are trained on, the pairs of
fold 10 are verified; no person is in both, which is checked. Runs that are finished are kept and those that were
stopped go on. Every call adds what is finished to benchmarks/results/NAME.{json,md}, where runs of other machines at the
same setting stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import longtail
from benchmarks.measuring import Row, add_to_record, provenance
from longtail.api import go_on
from longtail.cli import run
from longtail.config import merge
from longtail.engine.run import Run, write_json
from longtail.faces.lists import check_disjoint
from longtail.faces.verify import verify
from longtail.files import write_atomically, write_text

RESULTS = Path(__file__).parent / "results"
METHODS = ("cosface", "arcface", "uniface", "cosface_epl", "arcface_epl", "uniface_epl")
MEASURES = {"accuracy": "accuracy", "1e-1": "TAR at FAR 1e-1", "1e-2": "TAR at FAR 1e-2"}
DATA = "people-of-folds-1-to-9"
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PARTS = 10  # of the pairs judged: each at the threshold that the others choose


def read_people(path: Path) -> list[dict[str, int]]:
    """The people of each fold of people.txt and how many images they have: the number of folds, then for each its size
    and lines 'name images'."""
    lines = path.read_text().splitlines()
    folds, at = [], 1
    for _ in range(int(lines[0])):
        size = int(lines[at])
        people = (line.split("\t") for line in lines[at + 1 : at + 1 + size])
        folds.append({name: int(images) for name, images in people})
        at += 1 + size
    return folds


def write_training_set(data: Path, people: Sequence[str], path: Path) -> None:
    """The images of `people`, labelled from 0, in Hugging Face's convention."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(data / "images.parquet")
    persons = pc.replace_substring_regex(table["name"], pattern=r"_\d+$", replacement="")
    chosen = pc.is_in(persons, pa.array(people))
    persons, names = persons.filter(chosen), sorted(people)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": table["image"].filter(chosen), "label": pc.index_in(persons, pa.array(names)).cast(pa.int64())}
    chosen_table = pa.table(columns).replace_schema_metadata(metadata)
    write_atomically(path, lambda temporary: pq.write_table(chosen_table, temporary))


def write_pairs(data: Path, path: Path) -> list[str]:
    """The last fold of pairs.txt as a list of `PARTS` folds of its own. Returns the people in it."""
    header, *lines = (data / "pairs.txt").read_text().splitlines()
    size = int(header.split()[1])
    same, different = lines[-2 * size : -size], lines[-size:]
    part = size // PARTS
    parts = [side[i : i + part] for i in range(0, part * PARTS, part) for side in (same, different)]
    write_text(path, "\n".join([f"{PARTS}\t{part}", *chain(*parts)]) + "\n")
    return sorted({field for line in same + different for field in line.split("\t")[::2] if not field.isdecimal()})


def train(method: str, seed: int, path: Path, source: Path, args: argparse.Namespace) -> None:
    """Train one run, go on with it, or leave it alone if it is finished."""
    if go_on(path):
        return
    told: dict[str, Any] = {
        "data": {"source": str(source), "image_size": args.image_size, "validation": 0.0},
        "train": {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr, "compile": args.compile},
    }
    if args.authors:
        told = merge(told, {"data": HALVES, "train": {"last_batch": "drop"}, "options": {"network_start": "kaiming"}})
        if method.endswith("_epl"):
            told["options"] |= {"prototypes_start": "normal", "repeats": "last"}
    longtail.train(method, out=path, backbone=args.backbone, seed=seed, **told)


def judge(path: Path, data: Path, pairs: Path) -> None:
    if not (path / "verify.json").exists():
        write_json(path / "verify.json", verify(path, pairs=pairs, images=str(data / "images.parquet")))


def write_table(name: str, out: Path, seeds: Sequence[int]) -> str:
    """Collect the runs that were judged into a JSON file and a Markdown table. Returns the table."""
    fresh = []
    for method in METHODS:
        for seed in seeds:
            run = Run(out / f"{method}-seed{seed}")
            if (run.path / "verify.json").exists():
                (figures,) = json.loads((run.path / "verify.json").read_text())["sets"].values()
                environment = json.loads(run.environment_file.read_text())
                config = run.config().model_dump(mode="json")
                row = {"method": method, "seed": seed, "figures": figures, "environment": environment, "config": config}
                # Where the data lay on the machine that ran is nobody's business.
                fresh.append(json.loads(json.dumps(row).replace(config["data"]["source"], DATA)))
    rows = add_to_record(RESULTS / f"{name}.json", fresh, lambda row: f"{row['method']} {row['seed']}", _same)
    rows.sort(key=lambda row: (METHODS.index(row["method"]), row["seed"]))
    lines = ["# Faces: margin heads with and without empirical prototypes", ""]
    if rows:
        lines += [*_setting(rows), "", "| method | seeds | " + " | ".join(MEASURES.values()) + " |"]
        lines.append("|---|---:" + "|---:" * len(MEASURES) + "|")
    for method in METHODS:
        if of_method := [row for row in rows if row["method"] == method]:
            cells = [_spread([_measure(row["figures"], key) for row in of_method]) for key in MEASURES]
            lines.append(f"| {method} | {len(of_method)} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(RESULTS / f"{name}.md", text)
    return text


def _measure(figures: dict[str, Any], key: str) -> float | None:
    return figures["accuracy"] if key == "accuracy" else figures["tar"][key]


def _spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation in percent."""
    shares = [100 * value for value in values if value is not None]
    if len(shares) < len(values):
        return "not measurable"
    return f"{statistics.mean(shares):.1f}" + (f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else "")


def _same(row: Row) -> dict[str, Any]:
    """What all runs of a table have in common."""
    config = row["config"]
    return {
        "images": row["environment"]["data"]["subset_hash"],
        "size": config["data"]["image_size"],
        "backbone": config["backbone"],
        "start": config["options"].get("network_start", "usual"),
        **{name: config["train"][name] for name in ("epochs", "batch_size", "lr")},
    }


def _setting(rows: Sequence[Row]) -> list[str]:
    environment, config, figures = (rows[0][part] for part in ("environment", "config", "figures"))
    data, schedule = environment["data"], config["train"]
    size, start = config["data"]["image_size"], config["options"].get("network_start", "usual")
    return [
        f"- trained on: LFW, {data['classes']:,} people of folds 1 to 9, {data['train_images']:,} images, imbalance "
        f"factor {data['imbalance_factor']:,.0f}; judged on: the {figures['same']} same and "
        f"{figures['different']} different pairs of fold 10, whose people are all others (checked)",
        f"- accuracy: the pairs in {PARTS} parts, each at the threshold that the others choose. This is not LFW's "
        "ten-fold figure, which models trained on other sets report",
        f"- network: {config['backbone']} at {size}x{size}, {start} start, {environment['backbone_parameters']:,} parameters; "
        f"{environment['precision']}; embeddings of the image plus its mirror image, at the last epoch",
        f"- schedule: {schedule['epochs']} epochs, batch {schedule['batch_size']}, SGD lr {schedule['lr']:g}, x0.1 at "
        "4/7 and 6/7; margin 0.4, scale 64, k 0.7, prototypes in the loss from the 4th epoch",
        *provenance(rows, lambda row: f"{row['method']} {row['seed']}"),
        "- mean ± standard deviation over seeds, in %",
        "",
        "What this can show: that the six train, and how they rank, on a small set of people with few images each. "
        "What it cannot: 600 pairs leave a standard error of about 1 to 2 points beside that of the seeds, a FAR under "
        "1e-2 has fewer than three impostor pairs to go by, and methods that learn from many images of a person may "
        "rank otherwise on the large sets they were made for.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", default="faces", help="of the results and of the runs' folder")
    parser.add_argument("--backbone", default="iresnet18")
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.025, help="the authors' 0.1 for 512, in proportion to the batch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--least", type=int, default=1, help="train on the people with at least so many images")
    parser.add_argument("--authors", action="store_true", help="start, normalisation and last batch as in EPL's code")
    parser.add_argument("--compile", action="store_true", help="compile the network: faster, equal up to rounding")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args(arguments)
    out = args.out / args.name
    folds = read_people(args.data / "people.txt")[:-1]
    people = [name for fold in folds for name, images in fold.items() if images >= args.least]
    source, pairs = out / f"at-least-{args.least}.parquet", out / "pairs.txt"
    check_disjoint(people, write_pairs(args.data, pairs))
    if not source.exists():  # or another process may be reading it
        write_training_set(args.data, people, source)
    for seed in args.seeds:
        for method in args.only:
            path = out / f"{method}-seed{seed}"
            train(method, seed, path, source, args)
            judge(path, args.data, pairs)
            sys.stdout.write(write_table(args.name, out, args.seeds))


if __name__ == "__main__":
    run(main)
