"""What the engine tells whoever watches. The default watches silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Reporter:
    """Receives progress. Subclasses show it; every method may be left as it is."""

    def begin(self, label: str, total: int, done: int = 0) -> None:
        """A piece of work of `total` steps starts, `done` of them done before."""

    def advance(self, steps: int = 1) -> None:
        """Some steps of it are done."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch ended with this line of metrics."""

    def end(self) -> None:
        """The piece of work ended."""
