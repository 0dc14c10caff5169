"""Text that is safe to show: names of files and classes may hold characters that a terminal would obey."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters but for line feed and tab, characters that turn the direction of writing, bytes that are no UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with such characters as Python writes them: \x1b[31m."""
    return _OBEYED.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class PrintableConsole(Console):
    """A terminal to which only rich itself sends control characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, where they are measured and laid out."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """And whatever else is made of text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class PrintableFormatter(logging.Formatter):
    """For a log that someone will read in a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _ConsoleHandler(logging.Handler):
    """Log lines above the progress bar; whole, however narrow the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(Text(record.getMessage()), soft_wrap=True)


def log_to_console(console: Console, level: int = logging.INFO) -> None:
    """Show the project's log lines of `level` and above on `console`."""
    logger = logging.getLogger("longtail")
    handler = _ConsoleHandler(console)
    handler.setLevel(level)  # a run's log file lowers the logger's own
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


@contextmanager
def untold() -> Iterator[None]:
    """Errors alone are logged within: what is said of data and weights is said by the training itself, once."""
    logger = logging.getLogger("longtail")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
