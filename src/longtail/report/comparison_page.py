"""`compare.html`: what a comparison found, in words, tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..classes import SHOTS
from .comparison import HEADLINE, Comparison, Contrast, sentences
from .comparison_tables import COLUMNS, FACTS, difference_rows, rows
from .figures import MOST_CELLS, PERCENT, Figure, escape
from .page import write_page
from .verdict import listing

LINES = ("var(--accent)", "var(--few)", "var(--medium)", "var(--extra)", "var(--bad)", "var(--text)")
PARTS = (
    ("verdict", "Verdict"),
    ("groups", "Groups"),
    ("differences", "Differences"),
    ("classes", "Classes"),
    ("cost", "Cost"),
    ("runs", "Runs"),
)


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write the page to `out`. Raises `LongtailError` where the disk refuses."""
    figures: dict[str, Figure] = {
        "shots": _by_shots(comparison),
        "forest": _forest(comparison),
        "classes": _by_class(comparison),
    }
    shown = [name for name in FACTS if all(group.fact(name) for group in comparison.groups)]
    figures |= {name: _cost(comparison, name) for name in shown}
    columns, *content = rows(comparison)
    head, *differences = difference_rows(comparison)
    entries = [
        (str(e.path), group.name, str(e.config.seed), f"{100 * e.results['metrics'][HEADLINE]:.2f}",
         e.results["data"]["subset_hash"], e.results["data"].get("labels_hash", "-"), e.results["protocol"])
        for group in comparison.groups
        for e in group.entries
    ]  # fmt: skip
    first = comparison.groups[0].entries[0]
    write_page(
        out,
        "compare.html",
        figures,
        {"classes": _class_rows(comparison)},
        title=f"{listing([group.name for group in comparison.groups[:4]], len(comparison.groups[4:]))} on {comparison.source}",
        subtitle=f"{len(first.predictions):,} {comparison.split} images of {len(comparison.classes):,} classes; "
        f"{first.results['protocol']}; held against {comparison.baseline}",
        parts=PARTS,
        sentences=sentences(comparison),
        notes=comparison.notes,
        groups={"columns": columns, "rows": content, "caption": "Accuracies in %: mean ± deviation over seeds."},
        differences={
            "columns": head,
            "rows": differences,
            "caption": "Differences in points. The interval is that of a paired bootstrap over the test images, drawn anew "
            f"within each class (over all of them for top-1); p is corrected over the groups held against "
            f"{comparison.baseline} (Holm).",
        },
        costs=[(name, FACTS[name]) for name in shown],
        missing=[FACTS[name] for name in FACTS if name not in shown],
        baseline=comparison.baseline,
        runs={
            "columns": ("run", "group", "seed", "class-balanced %", "subset", "labels", "protocol"),
            "rows": entries,
            "caption": "The runs, and the hashes of what they were trained and judged on.",
        },
    )


def _colours(comparison: Comparison) -> dict[str, str]:
    """Of each group, the same in every plot; the baseline's is grey."""
    others = [group.name for group in comparison.groups if group.name != comparison.baseline]
    return {comparison.baseline: "var(--muted)"} | {name: LINES[i % len(LINES)] for i, name in enumerate(others)}


def _by_shots(comparison: Comparison) -> Figure:
    names, colours = (HEADLINE, *SHOTS), _colours(comparison)
    data = []
    for group in comparison.groups:
        deviations = [100 * (group.deviation(name) or 0) for name in names]
        data.append(
            {
                "type": "bar",
                "name": escape(group.name),
                "x": [COLUMNS[name] for name in names],
                "y": [None if (mean := group.mean(name)) is None else round(100 * mean, 2) for name in names],
                "error_y": {"type": "data", "array": deviations, "visible": len(group.entries) > 1},
                "marker": {"color": colours[group.name]},
                "hovertemplate": f"{escape(group.name)}: %{{y:.2f}} %<extra></extra>",
            }
        )
    layout = {"xaxis": {}, "yaxis": {"title": "accuracy", **PERCENT, "range": [0, 100]}, "barmode": "group"}
    return {"data": data, "layout": layout}


def _forest(comparison: Comparison) -> Figure:
    """Each group's difference from the baseline with its interval, and the differences of single seeds."""
    data: list[dict[str, Any]] = []
    colours = _colours(comparison)
    names = [group.name for group in comparison.groups if group.name != comparison.baseline]
    for name in names:
        found = [c for c in comparison.contrasts if c.group == name and c.images is not None]
        rows_of = [COLUMNS[c.measure] for c in found]
        data.append(_interval(name, found, rows_of, colours[name]))
        points = [(100 * d, row) for c, row in zip(found, rows_of, strict=True) for d in c.seeds.values()]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": f"{escape(name)}, by seed", "legendgroup": name,
                "x": [round(x, 3) for x, _ in points], "y": [row for _, row in points],
                "marker": {"color": colours[name], "symbol": "line-ns-open", "size": 10},
                "hovertemplate": "%{x:+.2f} points<extra>one seed</extra>",
            }
        )  # fmt: skip
    zero = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 0, "x1": 0}
    layout = {
        "xaxis": {"title": f"points better than {escape(comparison.baseline)}"},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "shapes": [zero | {"line": {"dash": "dot", "width": 1, "color": "var(--text)"}}],
        "scattermode": "group",
    }
    return {"data": data, "layout": layout}


def _interval(name: str, found: list[Contrast], rows_of: list[str], colour: str) -> dict[str, Any]:
    images = [c.images for c in found if c.images is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(name),
        "legendgroup": name,
        "x": [round(100 * d.mean, 3) for d in images],
        "y": rows_of,
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [round(100 * (d.high - d.mean), 3) for d in images],
            "arrayminus": [round(100 * (d.mean - d.low), 3) for d in images],
            "color": colour,
        },
        "marker": {"color": colour, "size": 9},
        "hovertemplate": f"{escape(name)}: %{{x:+.2f}} points<extra></extra>",
    }


def _by_class(comparison: Comparison) -> Figure:
    """Each class's difference from the baseline, most frequent first; above `MOST_CELLS` classes a mean of neighbours too."""
    base = next(group for group in comparison.groups if group.name == comparison.baseline)
    predictions = base.entries[0].predictions
    order = predictions.order[predictions.tested[predictions.order] > 0]
    rank = np.arange(1, len(order) + 1)
    names = [escape(comparison.classes.names[c]) for c in order]
    many = len(order) > MOST_CELLS
    data: list[dict[str, Any]] = []
    colours = _colours(comparison)
    for group in (g for g in comparison.groups if g is not base):
        difference = 100 * (group.accuracy - base.accuracy)[order]
        data.append(
            {
                "type": "scatter" if many else "bar",
                **({"mode": "markers"} if many else {}),
                "name": escape(group.name),
                "x": rank.tolist(),
                "y": [None if np.isnan(d) else round(float(d), 2) for d in difference],
                "marker": {"color": colours[group.name], **({"size": 4, "opacity": 0.35} if many else {})},
                "customdata": [[name, comparison.classes.counts[c]] for name, c in zip(names, order, strict=True)],
                "hovertemplate": "<b>%{customdata[0]}</b>, %{customdata[1]:,} training images<br>%{y:+.1f} points"
                f"<extra>{escape(group.name)}</extra>",
            }
        )
        if many:
            parts = np.array_split(np.arange(len(order)), 20)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": f"{escape(group.name)}, mean of neighbours",
                    "x": [float(rank[part].mean()) for part in parts],
                    "y": [round(float(np.nanmean(difference[part])), 2) for part in parts],
                    "line": {"color": colours[group.name], "width": 3},
                    "hovertemplate": "%{y:+.1f} points<extra></extra>",
                }
            )
    axis: dict[str, Any] = {"title": "class, by training images"}
    if len(order) <= 30:
        axis = {"tickvals": rank.tolist(), "ticktext": names, "tickangle": -40, "ticklabeloverflow": "allow"}
    layout = {"xaxis": axis, "yaxis": {"title": "points", "zeroline": True, "zerolinecolor": "var(--text)"}}
    return {"data": data, "layout": layout}


def _cost(comparison: Comparison, fact: str) -> Figure:
    """Class-balanced accuracy against what a group costs."""
    data, colours = [], _colours(comparison)
    for group in comparison.groups:
        mean = group.mean(HEADLINE)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escape(group.name),
                "x": [group.fact(fact)],
                "y": [None if mean is None else round(100 * mean, 2)],
                "error_y": {
                    "type": "data",
                    "array": [100 * (group.deviation(HEADLINE) or 0)],
                    "color": colours[group.name],
                },
                "marker": {"color": colours[group.name], "size": 11},
                "hovertemplate": f"{escape(group.name)}: %{{y:.2f}} %, %{{x:,.0f}} {FACTS[fact]}<extra></extra>",
            }
        )
    y = {"title": "class-balanced", "ticksuffix": " %"}
    return {"data": data, "layout": {"xaxis": {"title": FACTS[fact], "rangemode": "tozero"}, "yaxis": y}}


def _class_rows(comparison: Comparison) -> dict[str, Any]:
    """The sortable table: rarest first, the baseline's accuracy, and each group's difference from it."""
    base = next(group for group in comparison.groups if group.name == comparison.baseline)
    others = [group for group in comparison.groups if group is not base]
    predictions = base.entries[0].predictions
    accuracy = 100 * base.accuracy
    differences = [100 * group.accuracy - accuracy for group in others]

    def rounded(value: float) -> float | None:
        return None if np.isnan(value) else round(float(value), 1)

    columns = [("class", "text"), ("shots", "text"), ("training images", "number"), (f"{base.name} %", "percent")]
    columns += [(f"{group.name} -/+", "percent") for group in others]
    content = [
        [
            comparison.classes.names[c],
            str(predictions.shots[c]),
            comparison.classes.counts[c],
            rounded(accuracy[c]),
            *(rounded(difference[c]) for difference in differences),
        ]
        for c in predictions.order[::-1].tolist()
    ]
    return {"columns": [{"name": name, "kind": kind} for name, kind in columns], "rows": content}
