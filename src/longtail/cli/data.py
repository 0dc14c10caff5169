"""`longtail data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..printable import log_to_console
from .app import data_app
from .shared import console, errors, reads_source, say

SOURCES = """Sources, found from a path or written kind:path:

  folder:PATH     a folder per class (train/ and test/ or val/ inside are splits)
  list:FILE       `relative/path label` lines (ImageNet-LT, Places-LT, iNaturalist 2018); --root
  csv:FILE        columns image (or path) and label; --root
  coco:FILE       JSON annotations of COCO or iNaturalist; --root
  parquet:PATH    Hugging Face image convention, one file or many
  tar:PATH        WebDataset's shards, or class folders in a tar file
  zip:FILE        class folders in a zip file
  rec:FILE        InsightFace's RecordIO, with its .idx beside it
  npz:FILE        arrays train_images, train_labels, test_images, test_labels, class_names
  cifar10:PATH    cifar100:PATH   the official python pickles
  hf:NAME         a Hugging Face dataset (needs the extra hf)
  fashion-mnist-lt   1,485 images that come with longtail
"""


@data_app.command(epilog=SOURCES.replace("\n", "\n\n"))
@reads_source
def inspect(
    source: Annotated[str, typer.Argument(help="A path, or kind:path.")],
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    *,
    reading: dict[str, Any],
    png: Annotated[Path | None, typer.Option(help="Save the class-frequency curve here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a page here too, with images of the classes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Classes, counts, imbalance, shots, image sizes, duplicates and unreadable files of a source."""
    import json

    from ..data.inspect import inspect_source
    from ..data.sources import open_source
    from ..report.console import LiveReporter
    from ..report.inspection import render, save_curve
    from ..report.inspection_page import write_inspection

    log_to_console(errors)
    opened = open_source(source, test=test, **reading)
    reporter = LiveReporter(errors)
    reporter.begin("reading images", sum(map(len, opened.named().values())))
    inspection = inspect_source(opened, reporter.advance)
    reporter.end()
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        console.print(render(inspection), markup=True)  # it escapes the names itself
    if out is not None:
        write_inspection(inspection, opened.named(), source, out)
        errors.print(f"Page: {out}", soft_wrap=True, markup=False)
    if png is not None:
        save_curve(inspection, png)
        errors.print(f"Saved the class-frequency curve as {png}.", soft_wrap=True)


@data_app.command(epilog="Example: [bold]longtail data convert cifar100:~/cifar-100-python --to parquet cifar100[/]")
@reads_source
def convert(
    source: Annotated[str, typer.Argument(help="A path, or kind:path.")],
    out: Annotated[Path, typer.Argument(help="New folder.")],
    to: Annotated[str, typer.Option(help="parquet (keeps all), folder (a folder per class) or list (class numbers).")],
    test: Annotated[str | None, typer.Option(help="The test split, where the source has none.")] = None,
    *,
    reading: dict[str, Any],
) -> None:
    """Write a source in another form: every split, the images' own bytes."""
    from ..data import convert as conversion
    from ..data.sources import open_source
    from ..report.console import LiveReporter

    log_to_console(errors)
    opened = open_source(source, test=test, **reading)
    reporter = LiveReporter(errors)
    reporter.begin("writing images", sum(map(len, opened.named().values())))
    try:
        notes = conversion.convert(opened, to, out, reporter.advance)
    finally:
        reporter.end()
    for note in notes:
        say(note)
    say(f"{', '.join(f'{len(images):,} {name}' for name, images in opened.named().items())} images are in {out}.")
