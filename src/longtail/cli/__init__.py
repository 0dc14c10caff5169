"""The command line, a module for each group of commands. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

from . import train, tune, models, report, compare, calibrate, export, serve, listing, data  # isort: skip  # as --help lists them
from .app import app
from .shared import run

__all__ = [
    "app",
    "calibrate",
    "compare",
    "data",
    "export",
    "listing",
    "main",
    "models",
    "report",
    "run",
    "serve",
    "train",
    "tune",
]


def main() -> None:
    """The command `longtail`."""
    run(app)
