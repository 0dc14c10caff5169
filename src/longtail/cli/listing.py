"""`longtail methods` and `longtail recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import unknown_name
from .app import app
from .shared import console, say


@app.command()
def methods() -> None:
    """List the methods."""
    from rich.table import Table

    from ..methods import METHODS

    table = Table("method", "what it is", box=None)
    for name, (_, about) in METHODS.items():
        table.add_row(name, about)
    console.print(table)
    say("\nTrain one: longtail train METHOD --data SOURCE")


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
