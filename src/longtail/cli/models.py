"""`longtail eval`, `longtail predict` and `longtail verify`: what is done with a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import LongtailError, UsageError
from ..printable import log_to_console
from .app import app
from .shared import console, errors, reads_source, say


@app.command("eval", epilog="Example: [bold]longtail eval runs/mine --data photos/test[/]")
@reads_source
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[str | None, typer.Option(help="Other images to score, with the same classes.")] = None,
    *,
    reading: dict[str, Any],
    split: Annotated[str | None, typer.Option(help="train, val or test (default: test, else val).")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also show every class.")] = False,
    geometry: Annotated[bool, typer.Option("--geometry", help="Also measure features and classifier.")] = False,
    aggregate: Annotated[
        bool,
        typer.Option(
            "--aggregate", help="Also weigh several experts by what they make of these images (transductive)."
        ),
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Also score the mean over five crops: LIFT's test-time ensembling.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Score a trained model: accuracy by shots, calibration, and (on request) classes and feature geometry."""
    import json

    from .. import api
    from ..engine.run import write_json
    from ..report.tables import class_table, crops_table, experts_table, geometry_tables, metrics_table, mistake_tables

    log_to_console(errors)
    result = api.evaluate(run, data=data, split=split, geometry=geometry, aggregate=aggregate, crops=crops, **reading)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        say(f"{result['images']} images of {result['source']} ({result['split']})")
        console.print(metrics_table(result["metrics"], result["intervals"]))
        for table in mistake_tables(result):
            console.print(table)
        if crops:
            console.print(crops_table(result))
        if "experts" in result:
            console.print(experts_table(result))
        if per_class:
            console.print(
                class_table(result["classes"], result["class_counts"], result["metrics"]["per_class"], limit=10_000)
            )
        if geometry:
            for table in geometry_tables(result):
                console.print(table)
    # Last, so that what took long to compute has been shown even where it cannot be saved.
    saved = run / f"evaluation-{result['split']}.json"
    try:
        write_json(saved, result)
    except LongtailError as error:
        raise LongtailError(
            f"The result above is not saved: cannot write {saved}. Is the folder read-only, or the disk full?"
        ) from error
    if not as_json:
        say(f"Saved as {saved}.")


@app.command(epilog="Example: [bold]longtail predict runs/mine photos/ --top 3 --format jsonl > predictions.jsonl[/]")
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders to search.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 1,
    form: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="Write here instead of the terminal.")] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=100_000)] = 64,
    prior: Annotated[
        str | None,
        typer.Option(
            help="The class mix of these images: uniform, train, estimate (from the images), or a CSV of class,share."
        ),
    ] = None,
) -> None:
    """Classify images: one line each, with probabilities. Streams, however many there are."""
    from ..api import load
    from ..predictions import predict_files, write_predictions

    if form not in ("csv", "jsonl"):
        raise UsageError(f"--format is csv or jsonl, not '{form}'.")
    log_to_console(errors)
    predictor = load(run)
    top = min(top, len(predictor.classes))
    predictions = predict_files(predictor, paths, top, batch_size, skip_corrupt, prior)
    count = write_predictions(predictions, form, top, out, predictor.verdicts)
    if out is not None:
        say(f"{count} predictions in {out}")


@app.command(epilog="Example: [bold]longtail verify runs/mine --pairs lfw/pairs.txt --images lfw/ --roc roc.png[/]")
def verify(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    pairs: Annotated[
        Path | None, typer.Option(help="A list of pairs in LFW's format (or, with --templates, IJB's).")
    ] = None,
    images: Annotated[str | None, typer.Option(help="The source of the images that are compared.")] = None,
    bins: Annotated[
        list[Path] | None, typer.Option("--bin", help="A packed set such as cfp_fp.bin; repeatable.")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="IJB's list of 'file template medium'; --images FOLDER.")
    ] = None,
    distractors: Annotated[
        str | None, typer.Option(help="Identify the people of --images among these images of others.")
    ] = None,
    shots: Annotated[bool, typer.Option("--shots", help="Accuracy of held-out images by training images.")] = False,
    roc: Annotated[Path | None, typer.Option(help="Save the ROC curves as this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Judge a model's embeddings on pairs, templates or identification: face recognition's protocols."""
    import json

    from ..faces.verify import tables
    from ..faces.verify import verify as judge
    from ..report.console import LiveReporter

    result = judge(
        run,
        images=images,
        pairs=pairs,
        templates=templates,
        bins=bins or (),
        distractors=distractors,
        shots=shots,
        roc=roc,
        reporter=LiveReporter(errors),
    )
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for table in tables(result):
        console.print(table)
    if roc is not None:
        say(f"Saved the ROC curve as {roc}.")
