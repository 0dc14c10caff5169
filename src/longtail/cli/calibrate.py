"""`longtail calibrate`: from scores to probabilities and decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import app
from .shared import console, reads_source, say

if TYPE_CHECKING:
    from ..engine.calibration import Calibration


@app.command(epilog="Example: [bold]longtail calibrate runs/mine --precision 0.95 --reject 0.05[/]")
@reads_source
def calibrate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[str | None, typer.Option(help="Labelled images that the run was not trained on.")] = None,
    *,
    reading: dict[str, Any],
    split: Annotated[str | None, typer.Option(help="Of the run's own images (default: val, those held out).")] = None,
    prior: Annotated[
        str | None, typer.Option(help="The class mix in use: uniform, train, or a CSV of class,share.")
    ] = None,
    precision: Annotated[float | None, typer.Option(help="Find thresholds per class that reach this.")] = None,
    recall: Annotated[float | None, typer.Option(help="Find thresholds per class that reach this.")] = None,
    reject: Annotated[
        float | None,
        typer.Option(help="Find the score below which an image is none of these, at this loss of known ones."),
    ] = None,
    unknown: Annotated[
        list[Path] | None, typer.Option(help="Images of none of the classes, to measure --reject on; repeatable.")
    ] = None,
) -> None:
    """Fit probabilities to held-out images, and find thresholds: `predict`, `export` and `serve` then use them."""
    from .. import api

    result = api.calibrate(
        run,
        data=data,
        split=split,
        prior=prior,
        precision=precision,
        recall=recall,
        reject=reject,
        unknown=unknown or (),
        **reading,
    )
    _show(result, api.load(run).classes)
    say(f"Saved as {run / 'calibration.json'}: predict, export and serve use it from now on.")
    if result.split == "test":
        say("It was fitted to the test split: what is measured on that split from now on is too good.")


def _show(result: Calibration, classes: tuple[str, ...]) -> None:
    from ..report.tables import percent

    say(f"{result.images} images of {result.source} ({result.split})")
    say(f"Temperature {result.temperature:.3f}; scores stand for classes in proportion to n ** {result.exponent:.2f}")
    (nll, fitted_nll), (ece, fitted_ece) = result.nll, result.ece
    say(
        f"In the mix of these images: negative log-likelihood {nll:.3f} -> {fitted_nll:.3f} nats, calibration error "
        f"{percent(ece)} -> {percent(fitted_ece)} %"
    )
    if result.thresholds is not None:
        from rich.table import Table

        table = Table("class", "from", "precision %", "recall %", "images")
        for column in table.columns[1:]:
            column.justify = "right"
        rows = sorted(zip(classes, result.thresholds, strict=True), key=lambda row: row[1].images if row[1] else 0)
        for name, found in rows[:30]:
            cells = ("-",) * 4
            if found is not None:
                cells = (f"{found.at:.3f}", percent(found.precision), percent(found.recall), str(found.images))
            table.add_row(name, *cells)
        table.caption = f"the 30 rarest of {len(rows)} classes" if len(rows) > 30 else None
        console.print(table)
        say("Measured on the images that the thresholds were chosen on: of few images, expect less.")
        if never := sum(found is None for found in result.thresholds):
            say(
                f"No threshold reaches {result.wanted} {result.share:g} for {never} of the classes: none is taken for these."
            )
    if (none := result.none_of_these) is not None:
        by_shot = ", ".join(
            f"{shot} {percent(rate)}" for shot, rate in none.rejected_by_shot.items() if rate is not None
        )
        say(f"None of these: scores below {none.score:.3f}, {percent(none.rejected)} % of the images above ({by_shot})")
        if none.unknown_rejected is not None:
            say(f"Of {none.unknown_images} unknown images it turns away {percent(none.unknown_rejected)} %")
