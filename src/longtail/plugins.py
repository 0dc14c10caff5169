"""Methods and backbones that are not ours: named `module:Class`, or brought by an installed package's entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UsageError, unknown_name


def installed(group: str) -> list[str]:
    """The names that installed packages add to `group` ("longtail.methods", "longtail.backbones")."""
    return sorted({point.name for point in entry_points(group=group)})


def find(kind: str, name: str, group: str, ours: Iterable[str]) -> Any:
    """The object behind `name`, which is not one of `ours`: `module:object`, or an entry point of `group`.

    Modules are looked for beside the working folder too, as `python -m` does. Raises `UsageError` where there is none.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(
                f"Cannot find {kind} '{name}': {error}. Expected module:name, the module being installed or in the "
                "working folder."
            ) from error
    points = [point for point in entry_points(group=group) if point.name == name]
    if not points:
        raise unknown_name(kind, name, {*ours, *installed(group)})
    try:
        return points[0].load()
    except Exception as error:  # a stranger's code may fail in any way
        raise UsageError(f"The installed {kind} '{name}' ({points[0].value}) cannot be loaded: {error}") from error
