"""The plots of a run's report, as plain Plotly figures.

A colour is written `var(--name)` and looked up in the page's style sheet when it is drawn, so that it follows the theme.
Names of classes are escaped: Plotly reads tags in text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..classes import SHOTS, Classes
from ..data.images import spread
from ..evaluation.bias import shifted_accuracy
from ..evaluation.confidence import reliability, risk_coverage
from ..evaluation.intervals import wilson
from ..evaluation.predictions import Predictions

Figure = dict[str, Any]


def escape(name: str) -> str:
    """`name` as Plotly shows it; it leaves other entities, of quotes for instance, as they are."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


MOST_BARS = 300  # intervals drawn one by one; more would be a smear
MOST_CELLS = 100  # classes of a confusion matrix
GROUPS = 40  # of classes, where there are more
_COLOURS = {shot: f"var(--{shot})" for shot in SHOTS}


def _percent(values: Iterable[float]) -> list[float | None]:
    return [None if not np.isfinite(value) else round(100 * float(value), 2) for value in values]


def _figure(data: list[dict[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any) -> Figure:
    return {"data": data, "layout": {"xaxis": dict(x), "yaxis": dict(y), **layout}}


TICKS = [digit * 10**power for power in range(7) for digit in (1, 3)]
PERCENT = {"range": [-3, 103], "ticksuffix": " %"}


def accuracy_by_count(predictions: Predictions, confused: Sequence[str]) -> Figure:
    """Accuracy against training images. `confused`: of each class, what it is most often taken for."""
    counts = np.array(predictions.classes.counts)
    low, high = wilson(predictions.hits, predictions.tested)
    each = len(counts) <= MOST_BARS
    data = []
    for shot in SHOTS:
        members = np.flatnonzero((predictions.shots == shot) & (predictions.tested > 0))
        if not len(members):
            continue
        accuracy = predictions.accuracy[members]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": shot,
            "x": counts[members].tolist(),
            "y": _percent(accuracy),
            "marker": {"color": _COLOURS[shot], "size": 9 if each else 5, "opacity": 1 if each else 0.45},
            "customdata": [
                [escape(predictions.classes.names[c]), int(predictions.tested[c]), *_percent((low[c], high[c])),
                 escape(confused[c])]
                for c in members.tolist()
            ],
            "hovertemplate": "<b>%{customdata[0]}</b><br>%{x:,} training, %{customdata[1]:,} test images<br>%{y:.1f} % "
            "(%{customdata[2]:.1f} to %{customdata[3]:.1f})<br>%{customdata[4]}<extra></extra>",
        }  # fmt: skip
        if each:
            trace["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": _percent(high[members] - accuracy),
                "arrayminus": _percent(accuracy - low[members]),
                "thickness": 1.2,
                "width": 3,
                "color": _COLOURS[shot],
            }
        data.append(trace)
    if not each:
        data.append(_pooled(predictions, counts))
    return _figure(
        data, {"type": "log", "title": "training images", "tickvals": TICKS}, {"title": "accuracy", **PERCENT}
    )


def _pooled(predictions: Predictions, counts: np.ndarray) -> dict[str, Any]:
    """Accuracy over the images of neighbouring classes, with its interval: what a cloud of points hides."""
    order = predictions.order[predictions.tested[predictions.order] > 0]
    parts = [part for part in np.array_split(order, 20) if len(part)]
    hits, images = (
        np.array([values[part].sum() for part in parts]) for values in (predictions.hits, predictions.tested)
    )
    low, high = wilson(hits, images)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "pooled over neighbours",
        "x": [float(np.exp(np.log(counts[part]).mean())) for part in parts],
        "y": _percent(hits / images),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": _percent(high - hits / images),
            "arrayminus": _percent(hits / images - low),
        },
        "marker": {"color": "var(--text)", "size": 7},
        "line": {"color": "var(--text)", "width": 1.5},
        "customdata": [[len(part), int(n)] for part, n in zip(parts, images, strict=True)],
        "hovertemplate": "%{customdata[0]:,} classes, %{customdata[1]:,} test images<br>%{y:.1f} %<extra></extra>",
    }


def frequency(predictions: Predictions) -> Figure:
    """How often each class is predicted over how often it is true, most frequent in training first."""
    order = predictions.order[predictions.tested[predictions.order] > 0]
    ratio = predictions.named[order] / predictions.tested[order]
    few = len(order) <= MOST_CELLS
    rank = np.arange(1, len(order) + 1)
    data = []
    for shot in SHOTS:
        members = np.flatnonzero(predictions.shots[order] == shot)
        if not len(members):
            continue
        colour = {"color": _COLOURS[shot]} | ({} if few else {"size": 4, "opacity": 0.5})
        data.append(
            {
                "type": "bar" if few else "scatter",
                **({} if few else {"mode": "markers"}),
                "name": shot,
                "x": rank[members].tolist(),
                "y": np.round(ratio[members], 3).tolist(),
                "marker": colour,
                "customdata": [
                    [escape(predictions.classes.names[c]), int(predictions.named[c]), int(predictions.tested[c])]
                    for c in order[members]
                ],
                "hovertemplate": "<b>%{customdata[0]}</b><br>predicted %{customdata[1]:,} times, true "
                "%{customdata[2]:,} times<extra></extra>",
            }
        )
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"dash": "dot", "width": 1}}
    line["line"] |= {"color": "var(--text)"}  # type: ignore[operator]
    axis = _named_axis([predictions.classes.names[c] for c in order])
    return _figure(
        data, axis, {"title": "predicted / true", "rangemode": "tozero"}, shapes=[line], bargap=0.2, barmode="overlay"
    )


def training_counts(classes: Classes) -> Figure:
    """Training images of each class, most first, on a log axis; a class without any is not on it."""
    counts = np.array(classes.counts)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    rank, shots = np.arange(1, len(order) + 1), np.array(classes.shots)[order]
    few = len(order) <= MOST_BARS
    data = []
    for shot in SHOTS:
        members = np.flatnonzero(shots == shot)
        if len(members):
            data.append(
                {
                    "type": "bar" if few else "scatter",
                    **({} if few else {"mode": "markers"}),
                    "name": shot,
                    "x": rank[members].tolist(),
                    "y": counts[order[members]].tolist(),
                    "marker": {"color": _COLOURS[shot]} | ({} if few else {"size": 4}),
                    "customdata": [escape(classes.names[c]) for c in order[members].tolist()],
                    "hovertemplate": "<b>%{customdata}</b><br>%{y:,} training images<extra></extra>",
                }
            )
    axis = _named_axis([classes.names[c] for c in order])
    y = {"title": "training images", "type": "log", "tickvals": TICKS}
    return _figure(data, axis, y, bargap=0.2, barmode="overlay")


def _named_axis(names: Sequence[str]) -> dict[str, Any]:
    """Of classes by training images, at 1, 2, ...: with their names where these are few enough to be read."""
    if len(names) > 30:
        return {"title": "class, by training images"}
    places = list(range(1, len(names) + 1))
    return {"tickvals": places, "ticktext": list(map(_short, names)), "tickangle": -40, "ticklabeloverflow": "allow"}


def _short(name: str, length: int = 18) -> str:
    return escape(name if len(name) <= length else name[: length - 1] + "…")


def confusion(predictions: Predictions) -> Figure:
    """Share of each true class (row) that is predicted as each class (column), both most frequent first; neighbours
    share a row and a column where there are more than `MOST_CELLS` classes."""
    order = predictions.order
    size = len(order)
    parts = np.array_split(order, size if size <= MOST_CELLS else GROUPS)
    group = np.empty(size, int)
    for number, part in enumerate(parts):
        group[part] = number
    table = np.zeros((len(parts), len(parts)))
    np.add.at(table, (group[predictions.labels], group[predictions.predicted]), 1)
    rows = table.sum(1, keepdims=True)
    share = np.divide(table, rows, out=np.full_like(table, np.nan), where=rows > 0)
    counts = np.array(predictions.classes.counts)
    if len(parts) == size:
        names = [escape(predictions.classes.names[c]) for c in order]
    else:
        names = [f"{counts[p].max():,} to {counts[p].min():,} images ({len(p):,} classes)" for p in parts]
    ticks: dict[str, Any] = {"showticklabels": False, "title": "predicted, most frequent first"}
    if size <= 30:
        short = [_short(predictions.classes.names[c]) for c in order]
        ticks = {"tickvals": list(range(size)), "ticktext": short, "title": "predicted"}
    data = {
        "type": "heatmap",
        "z": [_percent(row) for row in share],
        "customdata": [
            [[true, taken, int(n)] for taken, n in zip(names, row, strict=True)]
            for true, row in zip(names, table, strict=True)
        ],
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[0, "var(--card)"], [0.02, "var(--heat-low)"], [1, "var(--heat-high)"]],
        "colorbar": {"ticksuffix": " %", "thickness": 10, "len": 0.9},
        "hovertemplate": "%{customdata[0]} taken for<br>%{customdata[1]}: %{z:.1f} % (%{customdata[2]:,})<extra></extra>",
    }
    vertical = {**ticks, "title": str(ticks["title"]).replace("predicted", "true"), "autorange": "reversed"}
    return _figure([data], {**ticks, "tickangle": -40}, vertical, square=True)


def _of_shots(predictions: Predictions) -> list[tuple[str, str, np.ndarray]]:
    """Name, colour and images, bool [N], of all and of each shot that has some."""
    everything = [("all", "var(--text)", np.ones(len(predictions), bool))]
    shots = [(shot, _COLOURS[shot], predictions.shots[predictions.labels] == shot) for shot in SHOTS]
    return [part for part in everything + shots if part[2].any()]


def reliability_diagram(predictions: Predictions) -> Figure:
    """Accuracy against confidence, overall with intervals and by shots."""
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "hoverinfo": "skip", "showlegend": False,
            "line": {"color": "var(--muted)", "dash": "dot", "width": 1},
        }
    ]  # fmt: skip
    for name, colour, images in _of_shots(predictions):
        bins = reliability(predictions.probability[images], predictions.correct[images], 15 if name == "all" else 8)
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": f"{name} ({100 * bins.ece:.1f})",
            "x": _percent(bins.confidence),
            "y": _percent(bins.accuracy),
            "marker": {"color": colour, "size": 6},
            "line": {"color": colour, "width": 2},
            "customdata": bins.images.tolist(),
            "hovertemplate": "%{x:.1f} % sure, %{y:.1f} % right<br>%{customdata:,} images<extra></extra>",
        }
        if name == "all":
            low, high = wilson(bins.hits, bins.images)
            upper, lower = _percent(high - bins.accuracy), _percent(bins.accuracy - low)
            trace["error_y"] = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower, "thickness": 1}
        data.append(trace)
    return _figure(data, {"title": "probability given", **PERCENT}, {"title": "accuracy", **PERCENT})


def risk_by_coverage(predictions: Predictions) -> Figure:
    """Wrong answers among those that are given, where only the surest are."""
    data = []
    for name, colour, images in _of_shots(predictions):
        covered, risk = risk_coverage(predictions.probability[images], predictions.correct[images])
        shown = spread(len(risk), 200)
        shown = shown[shown >= min(4, len(risk) - 1)]  # one of the first five answers wrong says nothing
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": _percent(covered[shown]),
                "y": _percent(risk[shown]),
                "line": {"color": colour, "width": 2},
                "hovertemplate": "%{x:.1f} % answered, %{y:.1f} % of them wrong<extra></extra>",
            }
        )
    return _figure(
        data,
        {"title": "images answered", "range": [0, 100], "ticksuffix": " %"},
        {"title": "wrong answers", "ticksuffix": " %", "rangemode": "tozero"},
    )


def mixes(predictions: Predictions) -> Figure:
    """Accuracy under other test mixes."""
    shifted = shifted_accuracy(predictions)
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(shifted),
        "y": _percent(shifted.values()),
        "line": {"color": "var(--accent)", "width": 2},
        "marker": {"color": "var(--accent)", "size": 8},
        "hovertemplate": "%{x}: %{y:.1f} %<extra></extra>",
        "showlegend": False,
    }
    return _figure([trace], {"tickangle": -40, "type": "category"}, {"title": "accuracy", "ticksuffix": " %"})


LINES = ("var(--text)", "var(--extra)", "var(--medium)", "var(--few)", "var(--many)", "var(--muted)")


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Of the run's lines: every loss term, accuracies, and the learning rate, against the epochs done."""
    split = "val" if any("val" in line for line in metrics) else "test"
    names = {"class_balanced": "class-balanced", "top1": "top-1", **{shot: shot for shot in SHOTS}}
    terms = list(dict.fromkeys(term for line in metrics for term in line.get("loss", {})))
    lines = {
        "losses": {term: [line.get("loss", {}).get(term) for line in metrics] for term in terms},
        "accuracies": {
            shown: [None if (v := line.get(split, {}).get(name)) is None else 100 * v for line in metrics]
            for name, shown in names.items()
        },
        "rates": {"learning rate": [line.get("lr") for line in metrics]},
    }
    titles = {"losses": "loss terms", "accuracies": f"{split} accuracy", "rates": "learning rate"}
    return {
        name: _figure(
            [
                {
                    "type": "scatter",
                    "mode": "lines+markers" if len(metrics) < 2 else "lines",
                    "connectgaps": True,
                    "name": label,
                    "x": list(range(1, len(metrics) + 1)),
                    "y": [None if value is None else float(f"{value:.4g}") for value in values],
                    "line": {"color": _COLOURS.get(label, LINES[i % len(LINES)]), "width": 2},
                }
                for i, (label, values) in enumerate(series.items())
                if any(value is not None for value in values)
            ],
            {"title": "epoch"},
            {"title": titles[name], "rangemode": "tozero", **({"ticksuffix": " %"} if name == "accuracies" else {})},
        )
        for name, series in lines.items()
    }
