"""YAML as people write settings, and no more of it: no dates, no deep nesting, no few aliases that stand for millions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import UsageError
from .files import read_text

_DEEPEST = 20
_MOST = 100_000
_LONGEST = 250_000  # characters; a file of settings is a hundredth of it
_INT, _FLOAT, _BOOL = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool"))


class _Loader(yaml.SafeLoader):
    """Plain words are what YAML 1.2 takes them for: 1e-4 is a number, which YAML 1.1 reads as a string, and off, 1:30 and
    2020-01-01 are words."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.extents: dict[int, tuple[int, int]] = {}  # of nodes with all in them: how many there are, and how deep

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.depth == _DEEPEST:
            self._refuse(f"nested more than {_DEEPEST} deep", event)
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.extents[id(node)] = self._extent(node, event)
        return node

    def _extent(self, node: Any, event: Any) -> tuple[int, int]:
        """Aliases count as what they stand for: a few of them can stand for gigabytes."""
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in children for part in pair]
        if any(id(child) not in self.extents for child in children):
            self._refuse("an alias of something within itself", event)
        extents = [self.extents[id(child)] for child in children]
        size, height = 1 + sum(size for size, _ in extents), 1 + max((height for _, height in extents), default=0)
        if size > _MOST or height > _DEEPEST:
            self._refuse(f"with its aliases written out, it is more than {_MOST:,} values or {_DEEPEST} deep", event)
        return size, height

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML's constructors meet what their tag does not fit with errors of every type
            raise yaml.MarkedYAMLError(
                problem=f"'{str(node.value)[:40]}' is no {node.tag.rpartition(':')[2]}", problem_mark=node.start_mark
            ) from error
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise yaml.MarkedYAMLError(
                problem=f"the number {str(node.value)[:20]}... is out of range", problem_mark=node.start_mark
            )
        return value

    @staticmethod
    def _refuse(problem: str, event: Any) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes words that either version of YAML takes for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _decimal(loader: _Loader, node: Any) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.lower().lstrip("+-").startswith(("0x", "0o")) else int(text)


_Loader.add_constructor(_INT, _decimal)
_Loader.yaml_implicit_resolvers = {
    letter: kept
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    if (kept := [pair for pair in resolvers if pair[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")])
}
for _tag, _pattern, _letters in (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, r"[-+]?[0-9]+(_[0-9]+)*|0[ox][0-9a-fA-F]+", "-+0123456789"),
    (
        _FLOAT,
        r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    for _user in (_Loader, _Dumper):
        _user.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_letters))


def read_yaml(text: str) -> Any:
    """The value that `text` stands for. Raises `yaml.YAMLError`, whose `problem` says in a few words what is wrong."""
    if len(text) > _LONGEST:
        raise yaml.MarkedYAMLError(problem=f"longer than {_LONGEST:,} characters")
    return yaml.load(text, _Loader)  # a SafeLoader


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises `UsageError` naming the file and the line where it is not one."""
    try:
        content = read_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path} is not valid YAML{where}: {problem(error)}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds {type(content).__name__}; expected a mapping of option: value.")
    return content


def problem(error: yaml.YAMLError) -> str:
    """What is wrong, in a few words."""
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).partition("\n")[0][:120]


def dump_yaml(content: Mapping[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)
