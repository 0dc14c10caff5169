"""What methods do with their options: take others' with other defaults, and refuse those that would do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any, TypeVar

from pydantic import create_model

from .base import Options

SomeOptions = TypeVar("SomeOptions", bound=Options)


def with_defaults(options: type[SomeOptions], **defaults: Any) -> type[SomeOptions]:
    """`options` with other `defaults`, checked as the originals are."""
    fields: dict[str, Any] = {}
    for name, value in defaults.items():
        field = copy(options.model_fields[name])
        field.default = value
        fields[name] = (field.annotation, field)
    return create_model(options.__name__, __base__=options, **fields)


def refuse_idle(options: Options, choice: str, idle: Mapping[str, tuple[str, ...]]) -> None:
    """Raise `ValueError` where an option that the value of `choice` gives nothing to do was set to something.

    `idle`: such options, and the values of `choice` with which they matter (empty: all but the present one).
    """
    for name, users in idle.items():
        if getattr(options, name) != type(options).model_fields[name].default:
            matters = f"it belongs to {' and '.join(users)}" if users else f"choose another {choice}"
            raise ValueError(f"{name} has no effect with {choice}={getattr(options, choice)}: {matters}")
