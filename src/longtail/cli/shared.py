"""What the commands share: the terminal, how a command ends, and options that several have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..errors import LongtailError, UsageError
from ..printable import PrintableConsole

# Of the processes that train one run together, the first speaks for all (errors are told by whoever meets them).
# Names of files and classes may hold [brackets] and :colons:, which must not be taken for styles and emoji.
console = PrintableConsole(
    quiet=int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0, markup=False, emoji=False, highlight=False
)
errors = PrintableConsole(stderr=True, markup=False, emoji=False, highlight=False)


def run(program: Callable[[], object]) -> None:
    """Call `program`; end with 0, 1 (the work failed), 2 (the request was wrong) or 128 + signal.

    What a user can mend is said in one message, without a traceback.
    """
    try:
        program()
    except LongtailError as error:
        say_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        say_error(f"{error.strerror or error}{where}.")
        sys.exit(1)


def say_error(text: str) -> None:
    errors.print(Text("Error:", "bold red"), text, soft_wrap=True)


def say(text: str) -> None:
    """Lines that stay whole in a narrow terminal: what they name may be copied."""
    console.print(text, soft_wrap=True)


def settings_of(method: str, assignments: list[str] | None) -> dict[str, Any]:
    """The --set options as one nested mapping."""
    from ..assignments import option_names, parse_set
    from ..config import merge
    from ..methods import method_class

    values: dict[str, Any] = {}
    for assignment in assignments or ():
        values = merge(values, parse_set(assignment, option_names(method_class(method).Options)))
    return values


Root = Annotated[str | None, typer.Option(help="Folder that the paths in a list, table or JSON file are relative to.")]
ImageColumn = Annotated[str | None, typer.Option(help="A table's column of images (default: by its usual names).")]
LabelColumn = Annotated[str | None, typer.Option(help="A table's column of labels (default: by its usual names).")]
Suffix = Annotated[str | None, typer.Option(help="What the paths in a list or table lack, such as .jpg.")]
ClassesAt = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", help="Which of nested folders are classes: 1 (the uppermost), 2, ... or leaf."),
]
SplitsOption = Annotated[
    str | None, typer.Option(help="Which parts are splits: train=NAME,val=NAME,test=NAME, or none (default: by name).")
]


def reading(
    test: str | None,
    root: str | None,
    image_column: str | None,
    label_column: str | None,
    suffix: str | None,
    classes_at: str | None,
    splits: str | None,
) -> dict[str, Any]:
    """How a source is to be read, as the fields of `DataConfig`; only what was given."""
    level: str | int | None = classes_at
    if classes_at is not None and classes_at != "leaf":
        if not classes_at.isdecimal():
            raise UsageError(f"--classes-at takes 1, 2, ... or leaf; found '{classes_at}'.")
        level = int(classes_at[:5])
    return given(
        test=test,
        root=root,
        image_column=image_column,
        label_column=label_column,
        suffix=suffix,
        classes_at=level,
        splits=splits,
    )


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def default_out(method: str) -> Path:
    from datetime import datetime

    return Path("runs") / f"{method.replace(':', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
