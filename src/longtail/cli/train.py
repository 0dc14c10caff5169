"""`longtail train`, `longtail reproduce` and `longtail demo`."""

from __future__ import annotations

import math
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError, unknown_name
from ..printable import log_to_console
from .app import app
from .shared import console, default_out, given, reads_source, say, settings_of, stopping_after

AUTO_METHOD = "balanced_softmax"  # what auto trains where no budget lets it try others


def seconds_of(text: str) -> float:
    """A length of time such as 90s, 30m or 2h; minutes where it has no unit. Raises `UsageError`."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        seconds = float(text[:-1]) * unit if unit else float(text) * 60
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"--budget takes a length of time such as 90s, 30m or 2h; found '{text}'.")
    return seconds


@app.command(
    epilog="Example: [bold]longtail train glmc --data cifar10:~/cifar-10-batches-py --recipe cifar10-lt-100[/]"
)
@reads_source
def train(
    context: typer.Context,
    method: Annotated[
        str | None, typer.Argument(help="What to train: see `longtail methods`; auto: chosen for your photographs.")
    ] = None,
    folder: Annotated[str | None, typer.Argument(metavar="[DATA]", help="The same as --data.")] = None,
    data: Annotated[str | None, typer.Option(help="A path, or kind:path: see `longtail data inspect --help`.")] = None,
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    *,
    reading: dict[str, Any],
    imbalance: Annotated[float | None, typer.Option(help="Carve a balanced set to this imbalance factor.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels.")] = None,
    channels: Annotated[int | None, typer.Option(help="1 (grey) or 3 (RGB); default: 3 if any is in colour.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="resnet32, resnet32_w64, resnext50_32x4d, timm:NAME, ...")
    ] = None,
    pretrained: Annotated[
        bool | None, typer.Option(help="Start from a trained backbone (default: where images are above 64 pixels).")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="The backbone's weights: a file, or hf:OWNER/NAME.")] = None,
    finetune: Annotated[
        str | None, typer.Option(metavar="MODE", help="What of it learns: full, partial, head, lora, ...")
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="The same as --finetune head.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its peak.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes initialisation, order and augmentation.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train so many seeds, counted from --seed.")] = None,
    budget: Annotated[str | None, typer.Option(help="Of auto: how long it may take, such as 30m or 2h.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A name from `longtail recipes`, or a YAML file.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any other option, key=value; repeatable.")
    ] = None,
    start_from: Annotated[str | None, typer.Option("--from", help="Run folder whose weights to start from.")] = None,
    then: Annotated[
        str | None, typer.Option(help="Second stages to go on with, comma-separated: see `longtail methods`.")
    ] = None,
    stages: Annotated[str | None, typer.Option(help="Which of the method's stages to run, comma-separated.")] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help="Leave unreadable images out.")] = False,
    no_class_names: Annotated[
        bool, typer.Option("--no-class-names", help="Leave the names of classes out of the model file.")
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html at the end.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/METHOD-DATE-TIME).")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder; with --epochs, for longer.")] = None,
) -> None:
    """Train a classifier and write a run folder: model, metrics, predictions, log."""
    started = time.monotonic()
    from .. import api
    from ..config import merge
    from ..methods import method_class
    from ..report.console import LiveReporter
    from ..report.tables import results_table, seeds_table

    log_to_console(console)
    reporter = LiveReporter(console)
    if resume is not None:
        others = [value for name, value in context.params.items() if name not in ("method", "resume", "epochs")]
        if any(value not in (None, ()) and value is not False for value in others):
            raise UsageError(
                "--resume goes on with a run as it was begun: leave the other options out, but for --epochs (to train longer)."
            )
        results = api.resume(resume, reporter, method, epochs)
        out = resume
    else:
        begun: dict[str, Any] = {}
        seconds = then.split(",") if then else []
        if method is None and start_from and seconds:
            begun = api.go_on_from(start_from, seconds)
            method = begun.pop("method")
        elif method is None:
            raise UsageError(
                "Name a method, for instance `longtail train balanced_softmax`, give --resume RUN, or go on with a run: "
                "--from RUN --then STAGE."
            )
        else:
            method = "+".join((method, *seconds))
        if folder is not None and data is not None:
            raise UsageError(f"The data were given twice: {folder} and --data {data}.")
        if freeze and finetune not in (None, "head"):
            raise UsageError(f"--freeze is --finetune head, and --finetune {finetune} was given too.")
        automatic = method == "auto"
        if budget is not None and not automatic:
            raise UsageError("--budget is for `longtail train auto`; other methods take --epochs.")
        if budget is not None and epochs is not None:
            raise UsageError("--budget decides how many epochs there are: leave --epochs out.")
        bound = seconds_of(budget) if budget is not None else 0.0
        method = AUTO_METHOD if automatic else method
        method_class(method)  # an unknown one is told before anything is looked at
        overrides = merge(begun, settings_of(method, settings))
        told: dict[str, Any] = {
            "backbone": backbone,
            "seed": seed,
            "start_from": start_from,
            "stages": stages.split(",") if stages else None,
            "pretrained": pretrained,
            "weights": weights,
            "finetune": given(mode="head" if freeze else finetune),
            "data": given(
                source=data or folder, test=test, imbalance=imbalance, image_size=image_size, channels=channels
            )
            | reading,
            "train": given(epochs=epochs, lr=lr, batch_size=batch_size),
        }
        if skip_corrupt:
            told["data"]["skip_corrupt"] = True
        if no_class_names:
            told["class_names"] = False
        if no_report:
            told["report"] = False
        overrides = merge(overrides, given(**told))
        out = out or default_out("auto" if automatic else method)
        if recipe is None and budget is not None:
            overrides = api.for_photographs(overrides)
        elif recipe is None:
            overrides = api.for_own_data(method, overrides)
            if overrides.get("pretrained"):
                api.tell_time(method, overrides)
        if budget is not None:
            left = bound - (time.monotonic() - started)
            results = api.train_within(left, out=out, reporter=reporter, overrides=overrides)
        elif seeds is not None:
            first = overrides.pop("seed", 0)
            several = range(first, first + seeds)
            every = [
                api.train_as_told(method, out=out / f"seed{n}", recipe=recipe, reporter=reporter, seed=n, **overrides)
                for n in several
            ]
            say(f"{method}: accuracy in %, {every[0]['split']} split, {every[0]['protocol']}")
            console.print(seeds_table(every))
            say(f"Compare them: longtail compare {shlex.quote(str(out))}/*")
            return
        else:
            results = api.train_as_told(method, out=out, recipe=recipe, reporter=reporter, **overrides)
    say(f"Accuracy in %, {results['split']} split, {results['protocol']}")
    console.print(results_table([results]))
    if skipped := len(results["skipped_images"]):
        say(f"Left out {skipped} unreadable image{'s' * (skipped > 1)}: see results.json")
    say(f"Run folder: {out}")
    if (out / "report.html").exists():
        say(f"Report: {out / 'report.html'}")
    say("Next:")
    quoted = shlex.quote(str(out))
    if method_class(results["method"]).classifies():
        say(f"  longtail eval {quoted}\n  longtail predict {quoted} IMAGE_OR_FOLDER")
    else:
        say(f"  longtail verify {quoted} --pairs FILE --images SOURCE")


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

    from ..config import merge
    from ..files import append_line
    from ..recipes import all_recipes
    from ..report.console import LiveReporter
    from ..reproduce import comparison_table, run_of_seed, run_seeds, summarise

    log_to_console(console)
    if recipe not in all_recipes():
        raise unknown_name("recipe", recipe, all_recipes())
    overrides = merge(settings_of(recipe.partition("/")[0], settings), {"train": given(epochs=epochs)})
    with stopping_after(minutes):
        runs = run_seeds(recipe, data, range(seeds), out, overrides, LiveReporter(console))
    last = run_of_seed(recipe, seeds - 1, out)
    line = summarise(recipe, runs, last.environment() or {})
    append_line(results, line)
    console.print(comparison_table(line))
    say(f"Added a line to {results}.")


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
    from .. import api
    from ..report.comparison import compare, sentences
    from ..report.comparison_page import write_comparison
    from ..report.console import LiveReporter
    from ..report.tables import results_table

    log_to_console(console)
    out = out or default_out("demo")
    for folder in (out / method for method in DEMO_METHODS):
        if folder.exists():
            raise UsageError(f"{folder} already exists: choose another --out.")
    results = []
    for method in DEMO_METHODS:
        results.append(api.train(method, out=out / method, reporter=LiveReporter(console), seed=seed, **DEMO))
    say("\nFashion-MNIST-LT, imbalance 100: test accuracy in %, last epoch, one seed")
    console.print(results_table(results))
    comparison = compare([out / method for method in DEMO_METHODS])
    write_comparison(comparison, out / "compare.html")
    for sentence in sentences(comparison):
        say(sentence)
    best = shlex.quote(str(out / DEMO_METHODS[-1]))
    say(
        f"\nOpen in a browser:\n"
        f"  {out / 'compare.html'}    the three side by side\n"
        f"  {out / DEMO_METHODS[-1] / 'report.html'}    where {DEMO_METHODS[-1]} stands, class by class\n"
        f"The runs are in {out}. Next:\n"
        f"  longtail eval {best} --per-class\n"
        "  longtail data inspect FOLDER            your own images, a folder per class\n"
        "  longtail train auto FOLDER              photographs start from a trained backbone"
    )
