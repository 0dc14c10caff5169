"""Tables of results, the same wherever they are shown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from ..classes import SHOTS


def percent(value: float | None) -> str:
    """A share as percent with two decimals; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def results_table(results: Iterable[Mapping[str, Any]]) -> Table:
    """One row a run: method, top-1, many / medium / few, seconds."""
    table = Table()
    for name in ("method", "top-1", *SHOTS, "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for result in results:
        metrics = result["metrics"] or {}
        scores = (percent(metrics.get(name)) for name in ("top1", *SHOTS))
        table.add_row(result["method"], *scores, f"{result['seconds']:.0f}")
    return table


def seeds_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """`results_table` of a run's seeds, class-balanced accuracy beside, and under it mean ± standard deviation."""
    table = Table("seed", "class-balanced", "top-1", *SHOTS, "seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    names = ("class_balanced", "top1", *SHOTS)
    for result in results:
        scores = (percent((result["metrics"] or {}).get(name)) for name in names)
        table.add_row(str(result["seed"]), *scores, f"{result['seconds']:.0f}")
    if len(results) > 1:
        table.add_section()
        table.add_row(
            "mean ± deviation",
            *(_spread([(result["metrics"] or {}).get(name) for result in results]) for name in names),
        )
    return table


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    return f"{percent(statistics.mean(known))} ± {percent(statistics.stdev(known))}"


def metrics_table(metrics: Mapping[str, Any], intervals: Mapping[str, tuple[float, float] | None]) -> Table:
    """Every scalar of an evaluation, with its 95 % interval where there is one; shares in percent, the negative
    log-likelihood in nats."""
    table = Table("measure", "value", "95 % interval", show_header=False)
    table.columns[1].justify = "right"
    for name, value in metrics.items():
        if isinstance(value, float):
            shown = f"{value:.4f} nats" if name == "nll" else f"{percent(value)} %"
            table.add_row(name.replace("_", " "), shown, _interval(intervals.get(name)))
    return table


def _interval(ends: tuple[float, float] | None) -> str:
    return f"{percent(ends[0])} to {percent(ends[1])}" if ends else ""


def mistake_tables(result: Mapping[str, Any], limit: int = 5) -> list[Table]:
    """The worst classes, and which are taken for which."""
    worst = Table("worst classes", "training images", "images", "accuracy %", "95 % interval")
    for row in result["worst"][:limit]:
        counts = str(row["training_images"]), str(row["images"])
        worst.add_row(row["class"], *counts, percent(row["accuracy"]), _interval(row["interval"]))
    confused = Table("most confused", "taken for", "images", "of the class %")
    for row in result["confusions"][:limit]:
        confused.add_row(row["label"], row["prediction"], str(row["images"]), percent(row["share"]))
    for table, texts in ((worst, 1), (confused, 2)):
        for column in table.columns[texts:]:
            column.justify = "right"
    return [table for table in (worst, confused) if table.row_count]


def experts_table(result: Mapping[str, Any]) -> Table:
    """The answer of a method with several experts beside each expert alone and, where asked for, their aggregate."""
    columns = {"answer": result["metrics"]}
    columns |= {f"expert {i}": metrics for i, metrics in enumerate(result["experts"]["alone"], 1)}
    captions = []
    if (used := result["experts"]["used"]) is not None:
        shares = ", ".join(f"{i}: {100 * share:.1f} %" for i, share in enumerate(used, 1))
        captions.append(f"experts used, by share of the images: {shares}")
    if (aggregated := result.get("aggregated")) is not None:
        columns["aggregate (transductive)"] = aggregated["metrics"]
        weights = ", ".join(f"{share:.2f}" for share in aggregated["shares"])
        captions.append(f"weights learned from these images, without labels: {weights}")
    table = _beside_each_other("experts, in %", columns)
    table.caption, table.caption_justify = "\n".join(captions), "left"
    return table


def crops_table(result: Mapping[str, Any]) -> Table:
    """The headline's protocol beside test-time ensembling."""
    columns = {"one crop": result["metrics"], "mean of five crops": result["five_crops"]}
    return _beside_each_other("test-time ensembling, in %", columns)


def _beside_each_other(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    for name in columns:
        table.add_column(name, justify="right")
    for name in ("top1", "class_balanced", *SHOTS, "ece"):
        table.add_row(name, *(percent(metrics[name]) for metrics in columns.values()))
    return table


def class_table(
    names: Iterable[str], counts: Iterable[int], accuracies: Iterable[float | None], limit: int = 30
) -> Table:
    """Accuracy by class, rarest first, at most `limit` rows."""
    rows = sorted(zip(counts, names, accuracies, strict=True), key=lambda row: row[0])
    table = Table("class", "training images", "accuracy %")
    for column in table.columns[1:]:
        column.justify = "right"
    for count, name, accuracy in rows[:limit]:
        table.add_row(name, str(count), percent(accuracy))
    if len(rows) > limit:
        table.caption = f"the {limit} rarest of {len(rows)} classes"
    return table


def trials_table(record: Mapping[str, Any]) -> Table:
    """What `longtail tune` tried, the best first."""
    names = [name for name in ("trial", "lr", "weight_decay", record["weight"]) if name]
    table = Table(*(name.replace("_", " ") for name in names), "held out")
    for column in table.columns:
        column.justify = "right"
    for row in record["trials"]:
        score = row["class_balanced"]
        table.add_row(*(f"{row[name]:g}" for name in names), "diverged" if score is None else percent(score))
    return table


# What fits a terminal; --json has the rest.
BY_CLASS = ("images", "compactness", "separability", "alignment", "row_angle_min")


def geometry_tables(result: Mapping[str, Any], limit: int = 30) -> list[Table]:
    """Feature geometry of each split: a table by shots, and one by class, rarest first."""
    tables = []
    for split, geometry in result["geometry"].items():
        table = Table(title=f"geometry of {split} features", title_justify="left")
        table.add_column("measure")
        for group in ("all", *SHOTS):
            table.add_column(group, justify="right")
        for name in geometry["all"]:
            row = (geometry[group].get(name) for group in ("all", *SHOTS))
            table.add_row(name.replace("_", " "), *("-" if value is None else f"{value:.3f}" for value in row))
        tables.append(table)
        columns = {name: geometry["per_class"][name] for name in BY_CLASS}
        by_class = Table(
            "class", *(name.replace("_", " ") for name in columns), title=f"{split}, by class", title_justify="left"
        )
        order = sorted(range(len(result["classes"])), key=lambda c: result["class_counts"][c])
        for c in order[:limit]:
            cells = (values[c] for values in columns.values())
            by_class.add_row(
                result["classes"][c],
                *("-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells),
            )
        if len(order) > limit:
            by_class.caption = f"the {limit} rarest of {len(order)} classes; --json has all"
        tables.append(by_class)
    return tables
