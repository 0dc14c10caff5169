"""A comparison as a table: for the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

from rich.table import Table

from ..classes import SHOTS
from .comparison import HEADLINE, MEASURES, Comparison, Group, sentences

FORMATS = ("markdown", "latex", "csv")
COLUMNS = {
    HEADLINE: "class-balanced",
    "top1": "top-1",
    **{shot: shot for shot in SHOTS},
    "worst_tenth": "worst tenth",
    "harmonic_mean": "harmonic mean",
    "ece": "ECE",
}
FACTS = {"parameters": "parameters", "multiply_adds": "multiply-adds", "seconds": "seconds"}


def cell(group: Group, measure: str, plus_minus: str = " ± ") -> str:
    """Mean and deviation over seeds, in percent."""
    mean, deviation = group.mean(measure), group.deviation(measure)
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if deviation is None else f"{plus_minus}{100 * deviation:.2f}")


def rows(comparison: Comparison, plus_minus: str = " ± ") -> list[list[str]]:
    """A header, and a row a group: accuracies in percent, mean and deviation over seeds, and what it costs."""
    found = [["", "seeds", *COLUMNS.values(), *FACTS.values()]]
    for group in comparison.groups:
        facts = [group.fact(name) for name in FACTS]
        found.append(
            [
                group.name,
                str(len(group.entries)),
                *(cell(group, measure, plus_minus) for measure in COLUMNS),
                *("-" if fact is None else f"{fact:,.0f}" for fact in facts),
            ]
        )
    return found


def difference_rows(comparison: Comparison) -> list[list[str]]:
    """A header, and a row a group and measure: the difference from the baseline in points, by images and by seed."""
    found = [["", "measure", "difference", "95 % interval", "p (Holm)", "by seed"]]
    for contrast in comparison.contrasts:
        if contrast.images is None:
            continue
        images = contrast.images
        found.append(
            [
                f"{contrast.group} - {comparison.baseline}",
                COLUMNS[contrast.measure],
                f"{100 * images.mean:+.2f}",
                f"{100 * images.low:+.2f} to {100 * images.high:+.2f}",
                f"{contrast.corrected_p:.4f}",
                ", ".join(f"{100 * d:+.2f} (seed {seed})" for seed, d in contrast.seeds.items()) or "-",
            ]
        )
    return found


def terminal_tables(comparison: Comparison) -> tuple[Table, Table]:
    """Groups and differences, as much of them as fits 80 columns."""
    accuracies, differences = rows(comparison, "±"), difference_rows(comparison)
    top1 = accuracies[0].index(COLUMNS["top1"])
    shown = [n for n in range(2 + len(MEASURES)) if n != top1]
    return _table([[row[n] for n in shown] for row in accuracies]), _table([row[:-1] for row in differences])


def _table(content: list[list[str]]) -> Table:
    made = Table(*content[0], box=None)
    for number, column in enumerate(made.columns):
        column.justify = "right" if number else "left"
        column.no_wrap = number > 0
    for row in content[1:]:
        made.add_row(*row)
    return made


def render(comparison: Comparison, form: str) -> str:
    """The groups, their differences and what was found, as text in one of `FORMATS`; CSV has a row a run instead."""
    if form == "csv":
        return _csv(comparison)
    if form == "latex":
        return _latex(rows(comparison, r" $\pm$ "))
    lines = [_markdown(rows(comparison)), _markdown(difference_rows(comparison))]
    return "\n\n".join([*lines, *sentences(comparison), *comparison.notes]) + "\n"


def _markdown(content: list[list[str]]) -> str:
    escaped = [[text.replace("|", r"\|") for text in row] for row in content]
    rule = ["---", *["---:"] * (len(content[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (escaped[0], rule, *escaped[1:]))


def _latex(content: list[list[str]]) -> str:
    """For booktabs; names of methods hold underscores."""
    special = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"}
    lines = [" & ".join("".join(special.get(c, c) for c in text) for text in row) + r" \\" for row in content]
    columns = "l" + "r" * (len(content[0]) - 1)
    body = [lines[0], r"\midrule", *lines[1:]]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}", ""])


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["group", "run", "seed", *COLUMNS, *FACTS])
    for group in comparison.groups:
        for entry in group.entries:
            metrics = [entry.results["metrics"].get(name) for name in COLUMNS]
            facts = [entry.results.get(name) for name in FACTS]
            writer.writerow([group.name, entry.path, entry.config.seed, *metrics, *facts])
    return text.getvalue()
