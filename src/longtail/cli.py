"""The command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from . import __version__
from .errors import LongtailError, UsageError, unknown_name

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train, compare and ship image classifiers on long-tailed data.\n\nStart with [bold]longtail demo[/], or "
    "[bold]longtail data inspect FOLDER[/] and [bold]longtail train balanced_softmax --data FOLDER[/] on your images.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")

# Of the processes that train one run together, the first speaks for all (errors are told by whoever meets them).
# Names of files and classes may hold [brackets] and :colons:, which must not be taken for styles and emoji.
console = Console(
    quiet=int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0, markup=False, emoji=False, highlight=False
)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


def main() -> None:
    """The command `longtail`."""
    run(app)


def run(program: Callable[[], object]) -> None:
    """Call `program`; end with 0, 1 (the work failed), 2 (the request was wrong) or 128 + signal.

    What a user can mend is said in one message, without a traceback.
    """
    try:
        program()
    except LongtailError as error:
        _say_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _say_error(f"{error.strerror or error}{where}.")
        sys.exit(1)


def _say_error(text: str) -> None:
    errors.print(Text("Error:", "bold red"), text, soft_wrap=True)


def _say(text: str) -> None:
    """Lines that stay whole in a narrow terminal: what they name may be copied."""
    console.print(text, soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longtail {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What may be asked without a command."""


@app.command(
    epilog="Example: [bold]longtail train glmc --data cifar10:~/cifar-10-batches-py --recipe cifar10-lt-100[/]"
)
def train(
    context: typer.Context,
    method: Annotated[str | None, typer.Argument(help="What to train: see `longtail methods`.")] = None,
    data: Annotated[str | None, typer.Option(help="A path, or kind:path: see `longtail data inspect --help`.")] = None,
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder that a list's or CSV's paths are relative to.")] = None,
    imbalance: Annotated[float | None, typer.Option(help="Carve a balanced set to this imbalance factor.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="resnet32, resnet32_w64, resnext50_32x4d, timm:NAME, ...")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes initialisation, order and augmentation.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A name from `longtail recipes`, or a YAML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other option, key=value; repeatable.")
    ] = None,
    start_from: Annotated[str | None, typer.Option("--from", help="Run folder whose weights to start from.")] = None,
    stages: Annotated[str | None, typer.Option(help="Which of the method's stages to run, comma-separated.")] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.")] = False,
    no_class_names: Annotated[
        bool, typer.Option("--no-class-names", help="Leave the names of classes out of the model file.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/METHOD-DATE-TIME).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder.")] = None,
) -> None:
    """Train a classifier and write a run folder: model, metrics, predictions, log."""
    from . import api
    from .config import merge
    from .methods import method_class
    from .report.console import LiveReporter, log_to_console
    from .report.tables import results_table

    log_to_console(console)
    reporter = LiveReporter(console)
    if resume is not None:
        others = [value for name, value in context.params.items() if name not in ("method", "resume")]
        if any(value not in (None, ()) and value is not False for value in others):
            raise UsageError("--resume goes on with a run as it was begun: leave the other options out.")
        results = api.resume(resume, reporter, method)
        out = resume
    else:
        if method is None:
            raise UsageError("Name a method, for instance `longtail train balanced_softmax`, or give --resume RUN.")
        overrides = _settings(method, settings)
        given: dict[str, Any] = {
            "backbone": backbone,
            "seed": seed,
            "start_from": start_from,
            "stages": stages.split(",") if stages else None,
            "data": _given(source=data, test=test, root=root, imbalance=imbalance, image_size=image_size),
            "train": _given(epochs=epochs),
        }
        if skip_corrupt:
            given["data"]["skip_corrupt"] = True
        if no_class_names:
            given["class_names"] = False
        overrides = merge(overrides, _given(**given))
        out = out or _default_out(method)
        results = api.train(method, out=out, recipe=recipe, reporter=reporter, **overrides)
    _say(f"Accuracy in %, {results['split']} split, {results['protocol']}")
    console.print(results_table([results]))
    if skipped := len(results["skipped_images"]):
        _say(f"Left out {skipped} unreadable image{'s' * (skipped > 1)}: see results.json")
    _say(f"Run folder: {out}\nNext:")
    quoted = shlex.quote(str(out))
    if method_class(results["method"]).classifies():
        _say(f"  longtail eval {quoted}\n  longtail predict {quoted} IMAGE_OR_FOLDER")
    else:
        _say(f"  longtail verify {quoted} --pairs FILE --images SOURCE")


def _settings(method: str, assignments: list[str] | None) -> dict[str, Any]:
    """The --set options as one nested mapping."""
    from .config import merge, parse_set
    from .methods import method_class

    values: dict[str, Any] = {}
    for assignment in assignments or ():
        values = merge(values, parse_set(assignment, method_class(method).Options.model_fields))
    return values


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _default_out(method: str) -> Path:
    from datetime import datetime

    return Path("runs") / f"{method}-{datetime.now():%Y%m%d-%H%M%S}"


@app.command("eval", epilog="Example: [bold]longtail eval runs/mine --data photos/test[/]")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    data: Annotated[str | None, typer.Option(help="Other images to score, with the same classes.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder that a list's or CSV's paths are relative to.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (default: test, else val).")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also show every class.")] = False,
    geometry: Annotated[bool, typer.Option("--geometry", help="Also measure features and classifier.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Score a trained model: accuracy by shots, calibration, and (on request) classes and feature geometry."""
    import json

    from . import api
    from .engine.run import write_json
    from .report.tables import class_table, geometry_tables, metrics_table

    result = api.evaluate(run, data=data, root=root, split=split, geometry=geometry)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _say(f"{result['images']} images of {result['source']} ({result['split']})")
        console.print(metrics_table(result["metrics"]))
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
        _say(f"Saved as {saved}.")


@app.command(epilog="Example: [bold]longtail predict runs/mine photos/ --top 3 --format jsonl > predictions.jsonl[/]")
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    paths: Annotated[list[Path], typer.Argument(help="Image files, or folders to search.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 1,
    form: Annotated[str, typer.Option("--format", help="csv or jsonl.")] = "csv",
    out: Annotated[Path | None, typer.Option(help="Write here instead of the terminal.")] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=100_000)] = 64,
) -> None:
    """Classify images: one line each, with probabilities. Streams, however many there are."""
    from .engine.deploy import load
    from .predictions import predict_files, write_predictions
    from .report.console import log_to_console

    if form not in ("csv", "jsonl"):
        raise UsageError(f"--format is csv or jsonl, not '{form}'.")
    log_to_console(errors)
    predictor = load(run)
    top = min(top, len(predictor.classes))
    count = write_predictions(predict_files(predictor, paths, top, batch_size, skip_corrupt), form, top, out)
    if out is not None:
        _say(f"{count} predictions in {out}")


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

    from .report.console import LiveReporter
    from .verify import tables
    from .verify import verify as judge

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
        _say(f"Saved the ROC curve as {roc}.")


@app.command()
def methods() -> None:
    """List the methods."""
    from rich.table import Table

    from .methods import METHODS

    table = Table("method", "what it is", box=None)
    for name, (_, about) in METHODS.items():
        table.add_row(name, about)
    console.print(table)
    _say("\nTrain one: longtail train METHOD --data SOURCE")


@app.command(epilog="Example: [bold]longtail recipes glmc/cifar10-lt-100[/]")
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the recipes, or show one with the figures its authors reported."""
    from rich.table import Table

    from .config import save_yaml
    from .recipes import all_recipes

    known = all_recipes()
    if name is not None:
        if name not in known:
            raise unknown_name("recipe", name, known)
        method, _, setting = name.partition("/")
        typer.echo(f"# longtail train {method} --recipe {setting} --data SOURCE")
        typer.echo(save_yaml(known[name]), nl=False)
        return
    table = Table("recipe", "reported %", "about", box=None)
    table.columns[0].no_wrap = True
    for key, recipe in known.items():
        table.add_row(key, " / ".join(f"{figure.top1:g}" for figure in recipe.reported) or "-", recipe.about)
    console.print(table)


@app.command(epilog="Example: [bold]longtail reproduce bcl/cifar100-lt-100 --data cifar100:~/cifar-100-python[/]")
def reproduce(
    recipe: Annotated[str, typer.Argument(help="METHOD/SETTING, a name from `longtail recipes`.")],
    data: Annotated[str, typer.Option(help="The recipe's data set: a path, or kind:path.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted from 0.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Another length than the recipe's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other option, key=value; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/reproduce"),
    results: Annotated[Path, typer.Option(help="File that gets a line.")] = Path("runs/reproductions.jsonl"),
    minutes: Annotated[
        float, typer.Option(show_default=False, help="Save and stop after this long; call again to go on.")
    ] = math.inf,
) -> None:
    """Train a recipe over seeds and set the result beside the reported figure. Goes on where it was stopped."""
    import json

    from .config import merge
    from .files import append_line
    from .recipes import all_recipes
    from .report.console import LiveReporter, log_to_console
    from .reproduce import comparison_table, run_of_seed, run_seeds, summarise

    log_to_console(console)
    if recipe not in all_recipes():
        raise unknown_name("recipe", recipe, all_recipes())
    overrides = merge(_settings(recipe.partition("/")[0], settings), {"train": _given(epochs=epochs)})
    with _stopping_after(minutes):
        runs = run_seeds(recipe, data, range(seeds), out, overrides, LiveReporter(console))
    last = run_of_seed(recipe, seeds - 1, out)
    line = summarise(recipe, runs, json.loads(last.environment_file.read_text()))
    append_line(results, line)
    console.print(comparison_table(line))
    _say(f"Added a line to {results}.")


@contextmanager
def _stopping_after(minutes: float) -> Iterator[None]:
    """Have what is within stop by SIGTERM after this long, and say how to go on, whoever stopped it."""
    import signal
    import threading

    from .engine.trainer import Interrupted

    def stopped(exit_code: int) -> LongtailError:
        error = LongtailError("Stopped. What was trained is saved: give the same command again to go on.")
        error.exit_code = exit_code
        return error

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)  # no Exception: reading data would take that for a corrupt image

    if not minutes > 0:  # nan included
        raise UsageError(f"--minutes is a number above 0, not {minutes:g}.")
    previous = signal.signal(signal.SIGTERM, stop)  # between trainings, which have a handler of their own
    alarm = threading.Timer(min(60 * minutes, threading.TIMEOUT_MAX), os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True
    alarm.start()
    try:
        yield
    except Interrupted as error:
        raise stopped(error.exit_code) from None
    except SystemExit:
        raise stopped(128 + signal.SIGTERM) from None
    finally:
        alarm.cancel()
        signal.signal(signal.SIGTERM, previous)


SOURCES = """Sources, found from a path or written kind:path:

  folder:PATH     a folder per class (train/ and test/ or val/ inside are splits)
  list:FILE       `relative/path label` lines (ImageNet-LT, Places-LT, iNaturalist 2018); --root
  csv:FILE        columns image (or path) and label; --root
  parquet:PATH    Hugging Face image convention, one file or many
  rec:FILE        InsightFace's RecordIO, with its .idx beside it
  npz:FILE        arrays train_images, train_labels, test_images, test_labels, class_names
  cifar10:PATH    cifar100:PATH   the official python pickles
  hf:NAME         a Hugging Face dataset (needs the extra hf)
  fashion-mnist-lt   1,485 images that come with longtail
"""


@data_app.command(epilog=SOURCES.replace("\n", "\n\n"))
def inspect(
    source: Annotated[str, typer.Argument(help="A path, or kind:path.")],
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder that a list's or CSV's paths are relative to.")] = None,
    png: Annotated[Path | None, typer.Option(help="Save the class-frequency curve here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Classes, counts, imbalance, shots, image sizes, duplicates and unreadable files of a source."""
    import json

    from .data.inspect import inspect_source, render, save_curve
    from .data.sources import open_source
    from .report.console import LiveReporter

    splits = open_source(source, test=test, root=root)
    reporter = LiveReporter(errors)
    reporter.begin("reading images", len(splits.train) + len(splits.test or ()))
    inspection = inspect_source(splits, reporter.advance)
    reporter.end()
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        console.print(render(inspection), markup=True)  # it escapes the names itself
    if png is not None:
        save_curve(inspection, png)
        errors.print(f"Saved the class-frequency curve as {png}.", soft_wrap=True)


# One network, schedule and number of epochs for all, so that only the method differs; and as many steps as GLMC needs.
DEMO_METHODS = ("ce", "balanced_softmax", "glmc")
DEMO: dict[str, Any] = {
    "backbone": "resnet8",
    "train": {"epochs": 60, "batch_size": 64, "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine"},
    "options": {"augment": "crop:4,flip"},
}


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Where the runs go (default: runs/demo-DATE-TIME).")] = None,
    seed: Annotated[int, typer.Option(help="One seed for all three.")] = 0,
) -> None:
    """Train three methods on the long-tailed Fashion-MNIST that comes with longtail, and compare them."""
    from . import api
    from .report.console import LiveReporter, log_to_console
    from .report.tables import results_table

    log_to_console(console)
    out = out or _default_out("demo")
    for folder in (out / method for method in DEMO_METHODS):
        if folder.exists():
            raise UsageError(f"{folder} already exists: choose another --out.")
    results = []
    for method in DEMO_METHODS:
        results.append(api.train(method, out=out / method, reporter=LiveReporter(console), seed=seed, **DEMO))
    _say("\nFashion-MNIST-LT, imbalance 100: test accuracy in %, last epoch, one seed")
    console.print(results_table(results))
    best = shlex.quote(str(out / DEMO_METHODS[-1]))
    _say(
        f"The runs are in {out}. Next:\n"
        f"  longtail eval {best} --per-class\n"
        "  longtail data inspect FOLDER            your own images, a folder per class\n"
        "  longtail train balanced_softmax --data FOLDER --image-size 64"
    )
