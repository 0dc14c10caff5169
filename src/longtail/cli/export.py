"""`longtail export` and `longtail push`: a model for other programs and other people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .shared import console, say


@app.command(epilog="Example: [bold]longtail export runs/mine --format onnx --preprocess --out model/[/]")
def export(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    form: Annotated[str, typer.Option("--format", help="onnx, torchscript or torch-export.")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="A new folder (default: in the run, named after the format).")
    ] = None,
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Build resizing and normalisation in: uint8 images of any size.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Divide scores by this (default: what `calibrate` found, else 1).")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="Build a class mix in: uniform, train, or a CSV of class,share.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise ONNX to 8 bits, and measure what it costs.")] = False,
    images: Annotated[
        list[Path] | None, typer.Option(help="Real images to check with (default: the run's own); repeatable.")
    ] = None,
) -> None:
    """Write a model as ONNX, TorchScript or torch.export, checked against the run on real images."""
    from .. import api

    result = api.export(
        run, form, out, preprocess=preprocess, temperature=temperature, prior=prior, int8=int8, images=images or ()
    )
    check = result.check
    say(
        f"Checked on {check.images} images: outputs differ from PyTorch's by at most {check.difference:.1e} "
        f"(allowed: {check.bound:.1e})"
    )
    if check.agreeing is not None:
        say(f"Same class as `longtail predict` on {check.agreeing:.1%} of them")
    if result.int8 is not None:
        _show_int8(result.int8)
    say(
        f"{result.folder}: {result.bytes / 1e6:.1f} MB, with model.json (classes, preprocessing) and README.md (model card)"
    )


def _show_int8(measured: dict) -> None:
    from rich.table import Table

    from ..classes import SHOTS
    from ..report.tables import percent

    table = Table(f"% of the {measured['split']} split", "float32", "int8")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in ("top1", "class_balanced", *SHOTS):
        table.add_row(name.replace("_", " "), *(percent(measured[kind][name]) for kind in ("float32", "int8")))
    table.add_row("MB", *(f"{measured[f'{kind}_bytes'] / 1e6:.2f}" for kind in ("float32", "int8")))
    console.print(table)


@app.command(epilog="Example: [bold]longtail push runs/mine user/name[/]")
def push(
    run: Annotated[Path, typer.Argument(help="A finished run's folder, or an ONNX export.")],
    name: Annotated[str, typer.Argument(help="user/name on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="For nobody else to see.")] = False,
) -> None:
    """Upload a model with its card to the Hugging Face Hub; `hf:user/name` then names it everywhere."""
    from .. import api

    say(f"Uploaded to {api.push_to_hub(run, name, private=private)}")
