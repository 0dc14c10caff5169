"""Rerunning a recipe over seeds, and setting what is measured beside what its authors reported."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from . import api
from .config import Config, flat, merge
from .engine.reporter import Reporter
from .engine.run import Run
from .errors import UsageError
from .recipes import find_recipe

# What is summarised over seeds: a label, and where a run's results hold it.
HEADLINE = "last epoch"
AUTHORS = {"test": "best epoch on the test set", "test_flip": "best epoch on the test set, flip averaged"}


def run_of_seed(name: str, seed: int, out: Path) -> Run:
    """Where below `out` the run of recipe `name` with `seed` lies."""
    return Run(out / name.replace("/", "-") / f"seed-{seed}")


def run_seeds(
    name: str,
    data: str,
    seeds: Sequence[int],
    out: Path,
    overrides: Mapping[str, Any],
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Train recipe `name` ("method/setting") once per seed, each in a folder of its own below `out`; return their results.

    Seeds that are finished are read, one that was stopped goes on. Both protocols are measured. Raises `UsageError` where a
    folder holds a run with other settings.
    """
    method, _, setting = name.partition("/")
    results = []
    for seed in seeds:
        run = run_of_seed(name, seed, out)
        laid = merge({"train": {"authors_protocol": True}, "data": {"source": data}}, merge(overrides, {"seed": seed}))
        if run.config_file.exists():
            check_settings(run, api.resolved(api.make_config(method, setting, laid)))
        results.append(
            api.go_on(run.path, reporter) or api.train(method, recipe=setting, out=run.path, reporter=reporter, **laid)
        )
    return results


def check_settings(run: Run, wanted: Config) -> None:
    """Raise `UsageError` where `run` was begun with other settings than `wanted`, as `api.resolved` has them."""
    there, asked = (dict(flat(config.model_dump(), ".")) for config in (run.config(), wanted))
    for name, value in asked.items():
        if there.get(name) != value:
            raise UsageError(
                f"{run.path} holds a run with another {name}: {there.get(name)}, and {value} is asked for. "
                "Choose another --out, or remove that run."
            )


def summarise(name: str, results: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> dict[str, Any]:
    """One line for the results file: the measured mean and standard deviation of top-1 (percent) under both protocols."""
    first = results[0]
    measured = {HEADLINE: [100 * result["metrics"]["top1"] for result in results]}
    for key, label in AUTHORS.items():
        if first["authors_protocol"]:
            measured[label] = [100 * result["authors_protocol"][key]["top1"] for result in results]
    return {
        "recipe": name,
        "seeds": [result["seed"] for result in results],
        "epochs": first["epochs"],
        "backbone": first["backbone"],
        "parameters": first["parameters"],
        "data": first["data"],
        "measured": {
            label: {"mean": round(statistics.mean(values), 2), "std": _deviation(values)}
            for label, values in measured.items()
        },
        "minutes_per_run": round(statistics.mean(result["seconds"] for result in results) / 60, 1),
        "machine": environment["processor"],
        "date": environment["date"],
        "torch": environment["packages"]["torch"],
        "git_commit": environment["git_commit"],
    }


def _deviation(values: Sequence[float]) -> float | None:
    return round(statistics.stdev(values), 2) if len(values) > 1 else None


def comparison_table(line: Mapping[str, Any]) -> Table:
    """What was reported and what was measured, one figure a row."""
    method, _, setting = line["recipe"].partition("/")
    data = line["data"]
    table = Table(
        title=f"{line['recipe']}: {line['backbone']}, {line['epochs']} epochs, {len(line['seeds'])} seed(s), "
        f"subset {data['subset']} ({data['subset_hash']})",
        title_justify="left",
    )
    for column in ("top-1 %", "protocol", "source"):
        table.add_column(column, justify="right" if column == "top-1 %" else "left")
    for figure in find_recipe(method, setting).reported:
        table.add_row(f"{figure.top1:.2f}", figure.note or "as its authors report it", figure.source)
    table.add_section()
    for label, value in line["measured"].items():
        spread = "" if value["std"] is None else f" ± {value['std']:.2f}"
        table.add_row(f"{value['mean']:.2f}{spread}", label, "measured here")
    return table
