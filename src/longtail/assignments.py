"""`--set key=value`: which option a name means, and what its value is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from .config import Config, Section
from .errors import UsageError, unknown_name
from .plain_yaml import problem, read_yaml


def parse_set(assignment: str, options: Iterable[str]) -> dict[str, Any]:
    """Turn ``lr=0.05`` or ``data.profile=step`` into a nested mapping.

    `options` are the names of the method's own hyper-parameters, see `option_names`. A name is looked up in every section:
    the least deep that has it is meant. The value is read as YAML. Raises `UsageError`.
    """
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise UsageError(f"--set takes key=value, for instance --set lr=0.05; found '{assignment}'.")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {key[:40]}: '{text[:40]}' is not a YAML value: {problem(error)}.") from error
    places = {f"options.{name}" for name in options}
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            places |= {f"{name}.{inner}" for inner in section.model_fields}
        elif name not in ("options", "method"):
            places.add(name)
    matches = [place for place in sorted(places) if f".{place}".endswith(f".{key}")]
    if not matches:
        endings = {place.split(".", depth)[-1] for place in places for depth in range(place.count(".") + 1)}
        raise unknown_name("option", key, endings)
    depth = min(place.count(".") for place in matches)
    matches = [place for place in matches if place.count(".") == depth]
    if len(matches) > 1:
        raise UsageError(f"Option '{key}' is ambiguous: write {' or '.join(matches)}.")
    for name in reversed(matches[0].split(".")):
        value = {name: value}
    return value


def option_names(model: type[BaseModel]) -> Iterator[str]:
    """The names of a model's fields, those of sections in it after the section's: "crt.epochs"."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from (f"{name}.{inner}" for inner in option_names(field.annotation))
        else:
            yield name
