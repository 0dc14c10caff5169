"""How options are shown: name, type, default and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ..config import Config


def option_rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """The fields of `model` as text, "" for the default of a required one. Those of sections in it follow by "section.name",
    but for the configuration's own, which are shown by themselves."""
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            if model is not Config:
                yield from (
                    (f"{name}.{inner}", kind, _value(getattr(default, inner)), meaning)
                    for inner, kind, _, meaning in option_rows(type(default))
                )
            continue
        yield name, type_name(field.annotation), "" if field.is_required() else _value(default), field.description or ""


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def type_name(annotation: Any) -> str:
    """How a page writes a type: `int`, `float or null`, `exp, step`."""
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is tuple:
        return f"list of {type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return "mapping"
    if arguments := get_args(annotation):
        literal = get_origin(annotation) is Literal
        return ", ".join(map(str, arguments)) if literal else " or ".join(map(type_name, arguments))
    return annotation.__name__
