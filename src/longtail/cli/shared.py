"""What the commands share: the terminal, how a command ends, and options that several have."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import LongtailError

# Of the processes that train one run together, the first speaks for all (errors are told by whoever meets them).
# Names of files and classes may hold [brackets] and :colons:, which must not be taken for styles and emoji.
console = Console(
    quiet=int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) > 0, markup=False, emoji=False, highlight=False
)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


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
    from ..config import merge, parse_set
    from ..methods import method_class

    values: dict[str, Any] = {}
    for assignment in assignments or ():
        values = merge(values, parse_set(assignment, method_class(method).Options.model_fields))
    return values


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def default_out(method: str) -> Path:
    from datetime import datetime

    return Path("runs") / f"{method}-{datetime.now():%Y%m%d-%H%M%S}"
