"""Which method for how much work: the tables of docs/choose.md and README, from records of methods trained to the end."""

from __future__ import annotations

import json
from importlib.resources import files
from math import inf, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from longtail.classes import SHOTS
from longtail.methods import METHODS

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
# One or two of each kind, for a page that has no room for all.
BRIEF = ("ce", "ldam", "balanced_softmax", "crt", "glmc", "bce3s", "bcl", "ride")
NONE_YET = "Not measured yet.\n"

Runs = dict[str, list[dict[str, Any]]]


def trained(name: str) -> Runs:
    """By method, the runs in a record of `benchmarks.converged` but for its ablations; none where there is no record yet."""
    file = RESULTS / f"{name}.json"
    runs = json.loads(file.read_text()) if file.exists() else []
    of_methods = {method: [run for run in runs if run["name"] == method] for method in METHODS}
    return {method: found for method, found in of_methods.items() if found}


def percent(runs: list[dict[str, Any]], measure: str) -> list[float]:
    return [100 * run["results"]["metrics"][measure] for run in runs]


def cell(values: list[float]) -> str:
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def facts(found: Runs) -> str:
    """What, how, where and when, and how far chance goes, in a paragraph."""
    runs = [run for of_method in found.values() for run in of_method]
    data, train = runs[0]["results"]["data"], [run["config"]["train"] for run in runs]
    rates = {tuple(told[key] for key in ("lr", "weight_decay", "batch_size", "epochs")) for told in train}
    dates = sorted({run["environment"]["date"][:10] for run in runs})
    share = mean(percent(runs, "class_balanced")) / 100
    parts = [
        f"{data['source'].partition(' ')[0]}: {data['train_images']:,} training images of {data['classes']} classes, "
        f"imbalance factor {data['imbalance_factor']:g}, {data['test_images']:,} test images",
        f"{runs[0]['config']['backbone']}, {runs[0]['environment']['backbone_parameters']:,} parameters",
        "lr {}, weight decay {}, batch {}, {} epochs".format(*rates.pop())
        if len(rates) == 1
        else "as each recipe says",
        "last epoch, no test-time augmentation",
        *sorted({run["environment"]["processor"] for run in runs}),
        " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    ]
    error = 100 * sqrt(share * (1 - share) / data["test_images"])
    chance = f"Another test set of this size would move these means by a standard error of {error:.1f} points."
    return f"{'; '.join(parts)}. {chance}\n\n"


def accuracies(found: Runs, methods: list[str]) -> str:
    """The table: what each method costs and came to, "-" where it has not been trained to the end."""
    measures = [
        "class_balanced",
        *(shot for shot in SHOTS if shot in next(iter(found.values()))[0]["results"]["metrics"]),
    ]
    rows = [("method", "work", "parameters", "seeds", *(measure.replace("_", "-") for measure in measures))]
    for method in methods:
        runs = found.get(method, [])
        figures = (str(len(runs)), *(cell(percent(runs, measure)) for measure in measures)) if runs else ()
        cost = (f"{costs()[method][part]:g}" for part in ("work", "parameters"))
        rows.append((f"`{method}`", *cost, *(figures or ("-",) * (1 + len(measures)))))
    return markdown(rows)


def costs() -> dict[str, Any]:
    return json.loads((files("longtail.methods") / "costs.json").read_text())


def choice(name: str) -> str:
    """Of every classifier what it costs and came to, and before that the best for so much work."""
    if not (found := trained(name)):
        return NONE_YET
    rows = [("at most this work", "measured", "most class-balanced", "most of the few-shot classes")]
    for limit, words in ((1.1, "cross-entropy's"), (2.1, "twice that"), (inf, "any")):
        within = {method: runs for method, runs in found.items() if costs()[method]["work"] <= limit}
        tops = []
        for measure in ("class_balanced", "few"):
            means = {method: mean(percent(runs, measure)) for method, runs in within.items()}
            tops.append(
                ", ".join(f"`{method}` {means[method]:.1f}" for method in sorted(means, key=lambda m: -means[m])[:3])
            )
        rows.append((words, str(len(within)), *tops))
    methods = [method for method, entry in METHODS.items() if entry.kind != "faces"]
    return f"{facts(found)}{markdown(rows)}\n{accuracies(found, methods)}"


def headline(name: str) -> str:
    """The same of a few methods, those that have been measured."""
    found = trained(name)
    return facts(found) + accuracies(found, [method for method in BRIEF if method in found]) if found else NONE_YET


def markdown(rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:]))
