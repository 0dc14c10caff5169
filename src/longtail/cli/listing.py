"""`longtail methods` and `longtail recipes`."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.resources import files
from typing import Annotated, Any

import typer

from ..errors import unknown_name
from .app import app
from .shared import console, say

POINTER = "See the module's text."


@app.command(epilog="Example: [bold]longtail methods ldam[/]")
def methods(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the methods, or show one: its options, recipes and figures."""
    from rich.table import Table

    from ..methods import METHODS, SECOND_STAGES, Entry

    if name is not None:
        _show_method(name)
        return
    costs = _costs()
    groups: dict[str, dict[str, Entry]] = {}
    for key, entry in METHODS.items():
        groups.setdefault(entry.kind, {})[key] = entry
    groups["second stages, after a method: --then STAGE"] = SECOND_STAGES
    for kind, members in groups.items():
        table = Table(box=None, title=kind, title_justify="left", title_style="bold", padding=(0, 1, 0, 0))
        for heading, width in zip(("", "year", "views", "work", "params"), (16, 4, 5, 5, 6), strict=True):
            table.add_column(heading, width=width)
        table.add_column("")
        for key, entry in members.items():
            cost = costs.get(key, {}) if members is not SECOND_STAGES else {}
            numbers = (f"{cost[part]:g}" if part in cost else "-" for part in ("views", "work", "parameters"))
            table.add_row(
                key, str(entry.year), *numbers, entry.about + (f"; needs {entry.needs}" if entry.needs else "")
            )
        console.print(table)
    say(
        "\nviews: augmented images for each image of an epoch. work, params: operations of a step's forward pass, and what is "
        "trained, in multiples of cross-entropy's (resnet32, 100 classes). "
        "Several labels an image, and hierarchies of classes, are for none of them yet.\n"
        "One in detail: longtail methods METHOD. Train one: longtail train METHOD --data SOURCE"
    )


def _costs() -> dict[str, Any]:
    """What each method costs, as `python tests/test_docs.py` measured it."""
    costs: dict[str, Any] = json.loads((files("longtail.methods") / "costs.json").read_text())
    return costs


def _about(cls: type) -> str:
    """What a method's class says of itself, its module's text in place of a pointer to it."""
    text = cls.__doc__ or ""
    if text.startswith(POINTER):
        text = f"{import_module(cls.__module__).__doc__}{text.removeprefix(POINTER)}"
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _show_method(name: str) -> None:
    """A method's options with defaults, its paper, its recipes and their figures."""
    from rich.table import Table

    from ..methods import METHODS, method_class
    from ..recipes import all_recipes
    from ..recipes.measured import HEADINGS, measured
    from ..report.options import option_rows

    cls = method_class(name)
    entry = METHODS[name.partition("+")[0]]
    say(f"{name}: {entry.about} ({entry.kind}, {entry.year})")
    say(_about(cls))
    if entry.needs:
        say(f"Needs {entry.needs}.")
    options = Table(
        "option", "type", "default", "meaning", box=None, title="\nOptions: --set option=value", title_justify="left"
    )
    for row in option_rows(cls.Options):
        options.add_row(*row)
    console.print(options)
    if defaults := cls.train_defaults:
        say("\nTrained with, unless told otherwise: " + ", ".join(f"{key} {value}" for key, value in defaults.items()))
    base = name.partition("+")[0]
    recipes = {key: recipe for key, recipe in all_recipes().items() if recipe.method == base}
    table = Table("recipe", "network", "reported %", box=None, title="\nRecipes: --recipe NAME", title_justify="left")
    for key, recipe in recipes.items():
        reported = "\n".join(f"{figure.top1:g} ({figure.source})" for figure in recipe.reported)
        table.add_row(key.partition("/")[2], recipe.backbone, reported or "-")
    console.print(table if recipes else "\nNo recipes.")
    lines = measured(name)
    table = Table(*HEADINGS, box=None, title="\nMeasured here, at the last epoch", title_justify="left")
    for line in lines:
        table.add_row(*line.cells)
    console.print(table if lines else "\nNot measured here yet.")


@app.command(epilog="Example: [bold]longtail recipes glmc/cifar10-lt-100[/]")
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one whole.")] = None) -> None:
    """List the recipes, or show one with the figures its authors reported."""
    from rich.table import Table

    from ..config import save_yaml
    from ..recipes import all_recipes

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
