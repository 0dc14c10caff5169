"""The command that the others hang from."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train, compare and ship image classifiers on long-tailed data.\n\nStart with [bold]longtail demo[/], or "
    "[bold]longtail data inspect FOLDER[/] and [bold]longtail train auto FOLDER[/] on your images.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")


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
