"""`longtail tune`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..printable import log_to_console
from .app import app
from .shared import console, given, reads_source, say, settings_of, stopping_after


@app.command(epilog="Example: [bold]longtail tune bcl --data FOLDER --image-size 64 --trials 8[/]")
@reads_source
def tune(
    method: Annotated[str, typer.Argument(help="See `longtail methods`.")],
    data: Annotated[str, typer.Option(help="A path, or kind:path: see `longtail data inspect --help`.")],
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    *,
    reading: dict[str, Any],
    trials: Annotated[int, typer.Option(min=1, help="Trainings to choose from.")] = 8,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels.")] = None,
    backbone: Annotated[str | None, typer.Option(help="As for `longtail train`.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each trial, and of the training to come.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of each trial, and of the training to come.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A name from `longtail recipes`, or a YAML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other option, key=value; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the trials go (default: runs/tune-METHOD).")] = None,
    minutes: Annotated[
        float, typer.Option(show_default=False, help="Save and stop after this long; call again to go on.")
    ] = math.inf,
) -> None:
    """Choose learning rate, weight decay and the method's main weight on images held out of the training set.

    Every method has the same grid and number of trials. The test set takes no part.
    """
    from .. import api
    from ..config import merge
    from ..report.console import LiveReporter
    from ..report.tables import trials_table
    from ..tuning import RECORD
    from ..tuning import tune as tune_method

    log_to_console(console)
    out = out or Path("runs") / f"tune-{method.replace(':', '-')}"
    words = given(
        data=data,
        test=test,
        **reading,
        image_size=image_size,
        backbone=backbone,
        epochs=epochs,
        seed=seed,
        recipe=recipe,
    )
    told = given(
        backbone=backbone,
        seed=seed,
        data=given(source=data, test=test, image_size=image_size) | reading,
        train=given(epochs=epochs),
    )
    overrides = merge(settings_of(method, settings), told)
    if recipe is None:
        overrides = api.for_own_data(method, overrides)
    with stopping_after(minutes):
        record = tune_method(method, trials, out=out, recipe=recipe, reporter=LiveReporter(console), **overrides)
    say(f"Class-balanced accuracy in %, last epoch, on {record['held_out']:.0%} of the training images, held out:")
    console.print(trials_table(record))
    say(f"Record: {out / RECORD}")
    best = record["trials"][0]
    command = ["longtail", "train", method]
    for name, value in words.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    chosen = {"lr": best["lr"], "train.weight_decay": best["weight_decay"]}
    if record["weight"]:
        chosen[record["weight"]] = best[record["weight"]]
    for assignment in (*(settings or ()), *(f"{name}={value:g}" for name, value in chosen.items())):
        command += ["--set", assignment]
    say(f"Next, on all training images:\n  {shlex.join(command)}")
