"""An inspected source for people: tables, the class-frequency curve in the terminal and as a picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ..classes import SHOT_MEANINGS, SHOTS
from ..data.inspect import EXAMPLES, Inspection, SplitInspection

_BARS = 24  # rows of the curve in the terminal
_NAMED = 8  # of the largest and of the smallest classes where there are more
_COLOURS = {"many": "#2a78d6", "medium": "#1baf7a", "few": "#e8862e"}


def render(inspection: Inspection) -> RenderableType:
    """Tables and the class-frequency curve, for a rich console of 80 columns or more."""
    tables = (_summary(inspection), _shots(inspection), _curve(inspection), _problems(inspection))
    return Group(*(table for table in tables if table is not None))


def summary(inspection: Inspection) -> list[tuple[str, ...]]:
    """What was measured of each split: a row's name, and a text for each split."""
    splits = inspection.splits()
    rows: dict[str, Callable[[SplitInspection], str]] = {
        "images": lambda s: f"{s.images:,}",
        "classes": lambda s: f"{sum(n > 0 for n in s.counts):,}",
        "images of a class": lambda s: f"{max(s.counts):,} to {min(s.counts):,}",
        "classes of one image": lambda s: f"{s.counts.count(1):,}",
        "imbalance factor": lambda s: "none (a class is empty)" if s.imbalance is None else f"{s.imbalance:,.1f}",
        "colour": lambda _: "grey" if inspection.channels == 1 else "RGB",
        "height": lambda s: _range(s.heights),
        "width": lambda s: _range(s.widths),
        "values": lambda s: "unknown" if s.values is None else f"{s.values[0]:,g} to {s.values[1]:,g}",
        "mean (of 1)": lambda s: ", ".join(f"{value:.3f}" for value in s.means),
        "deviation": lambda s: ", ".join(f"{value:.3f}" for value in s.deviations),
        "exact duplicates": lambda s: _count(s.duplicates, s.contradictions, "with another label"),
        "look like another": lambda s: f"{s.similar:,}",
        "unreadable": lambda s: _count(s.unreadable),
    }
    found = [(name, *map(value, splits.values())) for name, value in rows.items()]
    for overlap in inspection.overlaps:
        for how, count in (("are", overlap.same), ("look like", overlap.similar)):
            cells = (_count(count) if name == overlap.second else "" for name in splits)
            found.append((f"{how} {overlap.first} images", *cells))
    return found


def _summary(inspection: Inspection) -> Table:
    table = Table("", *inspection.splits())
    for name, *cells in summary(inspection):
        wrong = name.startswith(("exact duplicates", "unreadable", "are "))
        table.add_row(name, *(f"[bold red]{cell}[/]" if wrong and cell not in ("", "0") else cell for cell in cells))
    return table


def _range(spread: tuple[int, int, int] | None) -> str:
    if spread is None:
        return "unknown"
    low, median, high = spread
    return str(low) if low == high else f"{low} to {high}, median {median}"


def _count(number: int, part: int = 0, of_them: str = "") -> str:
    return f"{number:,}" + (f" ({part:,} {of_them})" if part else "")


def _shots(inspection: Inspection) -> Table:
    table = Table("shots", "images of a class", "classes", "training images")
    for shot in SHOTS:
        classes, images = inspection.shots[shot]
        table.add_row(f"[{_COLOURS[shot]}]{shot}[/]", SHOT_MEANINGS[shot], f"{classes:,}", f"{images:,}")
    return table


def _curve(inspection: Inspection) -> Table:
    """Training images of each class, most first. Where there are many classes, the largest and the smallest have a bar each,
    and those between share a few (their mean), named after the first and the last of them."""
    classes = inspection.classes
    order = np.argsort(-np.array(classes.counts), kind="stable")
    table = Table("class", "images", "", box=None, expand=True, title="Training images by class", title_justify="left")
    table.columns[0].max_width = 32
    table.columns[0].no_wrap = True
    table.columns[1].justify = "right"
    table.columns[1].no_wrap = True
    table.columns[2].ratio = 1
    bars = np.array_split(order, len(order))
    if len(order) > _BARS:
        between = np.array_split(order[_NAMED:-_NAMED], _BARS - 2 * _NAMED)
        bars = [*bars[:_NAMED], *between, *bars[-_NAMED:]]
    largest = classes.counts[order[0]]
    for members in bars:
        counts = [classes.counts[c] for c in members]
        first, last = (classes.names[members[k]] for k in (0, -1))
        name = first if len(members) == 1 else f"{len(members):,}: {_short(first)} ... {_short(last)}"
        numbers = f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"
        shot = classes.shots[members[len(members) // 2]]
        table.add_row(escape(name), numbers, Bar(largest, 0, float(np.mean(counts)), color=_COLOURS[shot]))
    return table


def _short(name: str) -> str:
    return name if len(name) <= 11 else f"{name[:10]}…"


def _problems(inspection: Inspection) -> Table | None:
    table = Table("problem", "image")
    for split in inspection.splits().values():
        for text in split.unreadable_examples:
            table.add_row("unreadable", escape(text))
        for earlier, repeated, how in split.duplicate_examples:
            table.add_row("duplicate", escape(f"{repeated}: {how} {earlier}"))
    for overlap in inspection.overlaps:
        for first, second, how in overlap.examples:
            table.add_row(f"{overlap.second} in {overlap.first}", escape(f"{second}: {how} {first}"))
    if not table.row_count:
        return None
    table.caption = f"At most {EXAMPLES} of each kind are named."
    return table


def save_curve(inspection: Inspection, path: Path) -> None:
    """Write the class-frequency curve as PNG: training images of each class, most first, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = inspection.classes
    order = np.argsort(-np.array(classes.counts), kind="stable")
    counts = np.array(classes.counts)[order]
    shots = np.array(classes.shots)[order]

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shot in SHOTS:
        ranks = np.flatnonzero(shots == shot)
        if len(ranks):
            axes.fill_between(
                np.append(ranks, ranks[-1] + 1) - 0.5,
                np.append(counts[ranks], counts[ranks[-1]]),
                step="post",
                color=_COLOURS[shot],
                linewidth=0.8,  # so that five classes of thousands still show
                label=f"{shot}: {len(ranks):,} of {len(counts):,} classes, {counts[ranks].sum():,} images",
            )
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2 * max(counts))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(-0.5, len(counts) - 0.5)
    if len(counts) <= _BARS:
        axes.set_xticks(
            range(len(counts)), [classes.names[c] for c in order], rotation=35, ha="right", parse_math=False
        )
        for rank, count in enumerate(counts):
            axes.annotate(f"{count:,}", (rank, max(count, 0.7)), (0, 2), textcoords="offset points", ha="center")
    else:
        axes.set_xlabel("class, by number of training images")
    axes.set_ylabel("training images")
    factor = inspection.train.imbalance
    title = inspection.train.name + (f"\nimbalance factor {factor:,.1f}" if factor else "")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as boxes, which speak for themselves
        figure.savefig(path, format="png")
