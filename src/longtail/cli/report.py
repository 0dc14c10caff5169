"""`longtail report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .shared import say


@app.command(epilog="Example: [bold]longtail report runs/mine[/]")
def report(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    out: Annotated[Path | None, typer.Option(help="The page (default: report.html in the run's folder).")] = None,
) -> None:
    """Write a page that shows where a run stands, class by class. It opens in any browser, offline."""
    from ..report.run_report import write_report

    say(f"Report: {write_report(run, out)}")
