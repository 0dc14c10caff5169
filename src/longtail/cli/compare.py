"""`longtail compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..printable import printable
from .app import app
from .shared import console, say


@app.command(epilog="Example: [bold]longtail compare runs/ce-* runs/glmc-* --out compare.html[/]")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs' folders, two or more.")],
    by: Annotated[
        str, typer.Option(help="Settings that name a group, comma-separated; its runs may differ in the seed alone.")
    ] = "method,seed",
    baseline: Annotated[
        str | None, typer.Option(help="The group that the others are held against (default: ce, else the first).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a page here too.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Print markdown, latex or csv instead of tables.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs on other data or settings, too.")] = False,
) -> None:
    """Compare runs over seeds: mean and deviation, and whether a difference is more than luck."""
    from ..report.comparison import compare as compared
    from ..report.comparison import sentences
    from ..report.comparison_page import write_comparison
    from ..report.comparison_tables import FORMATS, render, terminal_tables

    if form is not None and form not in FORMATS:
        raise UsageError(f"--format is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not '{form}'.")
    found = compared(runs, [name.strip() for name in by.split(",")], baseline, force)
    if form is not None:
        typer.echo(printable(render(found, form)), nl=False)
    else:
        accuracies, differences = terminal_tables(found)
        say(f"Accuracy in %, {found.split} images, mean ± deviation over seeds")
        console.print(accuracies)
        say(f"\nDifferences from {found.baseline} in points")
        console.print(differences)
        for sentence in (*found.notes, *sentences(found)):
            say(f"\n{sentence}")
    if out is not None:
        write_comparison(found, out)
        if form is None:
            say(f"\nComparison: {out}")
