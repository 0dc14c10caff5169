"""What the commands share: the terminal, how a command ends, and options that several have."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from ..errors import LongtailError, UsageError
from ..printable import PrintableConsole, log_to_console

# Of the processes that train one run together, the first speaks for all (errors are told by whoever meets them).
# Names of files and classes may hold [brackets] and :colons:, which must not be taken for styles and emoji.
console = PrintableConsole(
    quiet=int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0, markup=False, emoji=False, highlight=False
)
errors = PrintableConsole(stderr=True, markup=False, emoji=False, highlight=False)


def run(program: Callable[[], object]) -> None:
    """Call `program`; end with 0, 1 (the work failed), 2 (the request was wrong) or 128 + signal.

    What a user can mend is said in one message, without a traceback. Warnings of the log are shown, where a command does not
    show the whole; Pillow's remarks on files, which it puts on the terminal as they are, are not: ours say what matters.
    """
    log_to_console(errors, logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")
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


# How a source is to be read: the options of every command that opens one, named as the fields of `DataConfig`.
_READING: dict[str, Any] = {
    "root": Annotated[
        str | None, typer.Option(help="Folder that the paths in a list, table or JSON file are relative to.")
    ],
    "image_column": Annotated[
        str | None, typer.Option(help="A table's column of images (default: by its usual names).")
    ],
    "label_column": Annotated[
        str | None, typer.Option(help="A table's column of labels (default: by its usual names).")
    ],
    "suffix": Annotated[str | None, typer.Option(help="What the paths in a list or table lack, such as .jpg.")],
    "classes_at": Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="Which of nested folders are classes: 1 (the uppermost), 2, ... or leaf."),
    ],
    "splits": Annotated[
        str | None,
        typer.Option(help="Which parts are splits: train=NAME,val=NAME,test=NAME, or none (default: by name)."),
    ],
}


def reads_source(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` these options in place of its parameter `reading`, which is handed those that were given."""
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _READING.items()
    ]
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += (
            options if parameter.name == "reading" else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        )

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        level = values["classes_at"]
        if level not in (None, "leaf"):
            if not level.isdecimal():
                raise UsageError(f"--classes-at takes 1, 2, ... or leaf; found '{level}'.")
            values["classes_at"] = int(level[:5])
        command(reading=given(**{name: values.pop(name) for name in _READING}), **values)

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def default_out(method: str) -> Path:
    from datetime import datetime

    return Path("runs") / f"{method.replace(':', '-')}-{datetime.now():%Y%m%d-%H%M%S}"


@contextmanager
def stopping_after(minutes: float) -> Iterator[None]:
    """Have what is within stop by SIGTERM after this long, and say how to go on, whoever stopped it."""
    import signal
    import threading

    from ..engine.signals import Interrupted

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
