"""`longtail serve`: a trained model behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .shared import say


@app.command(epilog="Example: [bold]longtail serve runs/mine[/], then open the address it prints")
def serve(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, an exported one, or hf:user/name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    top: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 5,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="Largest image that is taken.")] = 10,
    prior: Annotated[str | None, typer.Option(help="Class mix of the images: uniform, train, or a CSV.")] = None,
) -> None:
    """Answer images over HTTP with classes and probabilities, and show a page to drop images on."""
    from .. import api
    from ..ship.serve import make_app
    from ..ship.serve import serve as run_server

    predictor = api.load(run)
    application = make_app(
        predictor, top=min(top, len(predictor.classes)), max_bytes=round(max_mb * 1_000_000), prior=prior
    )
    run_server(application, host, port, lambda address: say(f"{run} is at {address} (Ctrl-C stops it)"))
