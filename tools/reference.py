"""Writes docs/reference from the code: every method, every command with its options, the public Python names.

`make docs` runs it before the site is built. What it writes is not committed.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import typer

from longtail.cli import app
from longtail.methods import METHODS, SECOND_STAGES, Entry

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "reference"
# page: (title, what it is, modules; a package stands for all of its modules)
PAGES = {
    "python": ("Python", "Training, judging and using models: `import longtail`.", ("longtail.api",)),
    "predictor": (
        "Predictor",
        "What `longtail.load` gives, and what exports and serves it.",
        ("longtail.engine.predictor", "longtail.engine.calibration", "longtail.ship.serve"),
    ),
    "losses": ("Losses", "Plain functions of tensors, for any training loop.", ("longtail.losses",)),
    "method": ("Method", "The shape of every method.", ("longtail.methods.base",)),
    "models": (
        "Models",
        "Backbones and what is put on them.",
        ("longtail.models.build", "longtail.models.backbone", "longtail.models.heads"),
    ),
    "data": (
        "Data",
        "Sets of images, long tails, streams, samplers, augmentation and mixing.",
        (
            "longtail.classes",
            "longtail.data.images",
            "longtail.data.longtail",
            "longtail.data.streams",
            "longtail.data.samplers",
            "longtail.data.augment",
            "longtail.data.mixing",
        ),
    ),
    "evaluation": ("Evaluation", "Accuracy by shots, calibration, intervals, geometry.", ("longtail.evaluation",)),
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    fill_navigation()
    (OUT / "methods.md").write_text(methods())
    (OUT / "commands.md").write_text(commands())
    for name, (title, about, modules) in PAGES.items():
        parts = [f"# {title}", about, *(text for module in modules for text in of_module(module))]
        (OUT / f"{name}.md").write_text("\n\n".join(parts) + "\n")


def fill_navigation() -> None:
    """List in mkdocs.yml, which knows no patterns, the methods' pages, and after all else the pages that it does not name."""
    file = ROOT / "mkdocs.yml"
    text = _fill(file.read_text(), "methods", sorted(page.name for page in (ROOT / "docs/methods").glob("*.md")))
    named = _fill(text, "others", [])
    others = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f" {page.name}\n" not in named]
    file.write_text(_fill(text, "others", others))


def _fill(text: str, marker: str, pages: Sequence[str]) -> str:
    folder = "methods/" if marker == "methods" else ""
    lines = "".join(f"      - {folder}{page}\n" for page in pages)
    return re.sub(rf"(      # {marker}: .*\n)(?:.*\n)*?(      # end\n)", rf"\g<1>{lines}\g<2>", text)


# --- Methods ---


def methods() -> str:
    """Tables of all methods by kind, and of second stages, with what they cost and their pages."""
    costs = json.loads((files("longtail.methods") / "costs.json").read_text())
    parts = [
        "# All methods",
        "`longtail methods` lists them too, and `longtail methods NAME` shows one with its options and recipes. **Images**: "
        "augmented images for each image of an epoch. **Work** and **size**: operations of a step's forward pass and trained "
        "parameters, in multiples of cross-entropy's, on resnet32 with 100 classes. [Choosing one](../choose.md).",
    ]
    for kind in dict.fromkeys(entry.kind for entry in METHODS.values()):
        parts.append(f"## {kind.capitalize()}")
        members = {name: entry for name, entry in METHODS.items() if entry.kind == kind}
        parts.append(method_table(members, costs))
    parts += ["## Second stages", "After any method that has a classifier: `longtail train METHOD --then STAGE`."]
    return "\n\n".join([*parts, method_table(SECOND_STAGES, {})]) + "\n"


def method_table(members: Mapping[str, Entry], costs: Mapping[str, Any]) -> str:
    rows = [("", "year", "images", "work", "size", ""), ("---", "---", "---:", "---:", "---:", "---")]
    for name, entry in members.items():
        cost = costs.get(name, {})
        numbers = (f"{cost[part]:g}" if part in cost else "-" for part in ("views", "work", "parameters"))
        label = f"[`{name}`](../methods/{page})" if (page := page_of(name)) else f"`{name}`"
        about = entry.about + (f"; needs {entry.needs}" if entry.needs else "")
        rows.append((label, str(entry.year), *numbers, about))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def page_of(name: str) -> str | None:
    """The page whose title names the method."""
    pages = sorted((ROOT / "docs/methods").glob("*.md"))
    return next((page.name for page in pages if f"`{name}`" in page.read_text().partition("\n")[0]), None)


# --- Python ---


def of_module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        for inner in sorted(found.name for found in pkgutil.iter_modules(module.__path__)):
            yield from of_module(f"{name}.{inner}")
        return
    yield f"## `{name}`"
    yield prose(inspect.getdoc(module))
    for label, member in public(module):
        yield f"### {label}"
        yield from of_member(label, member)


def public(module: ModuleType) -> list[tuple[str, Any]]:
    """Classes and functions that the module defines, or lists in `__all__`, as they stand in it."""
    listed = getattr(module, "__all__", None)
    members = [(name, getattr(module, name)) for name in listed or vars(module) if not name.startswith("_")]
    own = [pair for pair in members if inspect.isclass(pair[1]) or inspect.isfunction(pair[1])]
    if listed is None:
        own = [pair for pair in own if pair[1].__module__ == module.__name__]
    return [pair for pair in own if inspect.getdoc(pair[1])]


def of_member(name: str, member: Any) -> Iterator[str]:
    is_class = inspect.isclass(member)
    yield f"```python\n{'class ' if is_class else ''}{name}{signature(member)}\n```"
    yield prose(member.__doc__ and inspect.cleandoc(member.__doc__))
    if not is_class:
        return
    for inner, method in vars(member).items():
        function = getattr(method, "__func__", method)  # of a class method
        if not inner.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield f"#### {name}.{inner}"
            yield f"```python\n{inner}{signature(function)}\n```"
            yield prose(inspect.cleandoc(function.__doc__))


def signature(member: Any) -> str:
    """As it is written, without the quotes that annotations get when they are not evaluated; a line each where long."""
    try:
        found = inspect.signature(member)
    except ValueError:
        return ""
    text = re.sub(r"""(: |-> )(["'])(.*?)\2""", r"\1\3", str(found))
    text = re.sub(r"<(?:function|class) ?'?([\w.]+).*?>", r"\1", text)
    if len(text) < 90:
        return text
    parts = [re.sub(r"""(: |-> )(["'])(.*?)\2""", r"\1\3", str(parameter)) for parameter in found.parameters.values()]
    kinds = [parameter.kind for parameter in found.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        parts.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return "(\n    " + ",\n    ".join(parts) + ",\n)" + text[text.rindex(")") + 1 :]


def prose(text: str | None) -> str:
    """A docstring as Markdown: examples fenced, and what Markdown would take for its own escaped."""
    text = re.sub(
        r"(?m)((?:^ *(?:>>>|\.\.\.) ?.*\n?(?:(?! *(?:>>>|\.\.\.)).+\n?)*)+)", r"```pycon\n\1\n```\n", text or ""
    )
    pieces = re.split(r"(```.*?```|``.*?``|`[^`]*`)", text, flags=re.DOTALL)
    return "".join(piece if piece.startswith("`") else escape(piece) for piece in pieces)


def escape(text: str) -> str:
    text = text.replace("<", "&lt;").replace("[", r"\[").replace("]", r"\]")
    return re.sub(r"(?m)^( *)\\\* ", r"\1* ", text.replace("*", r"\*"))


# --- The command line ---


def commands() -> str:
    parts = ["# Commands", "`longtail COMMAND --help` says the same in the terminal."]
    for words, command in walk(app, ("longtail",)):
        rows = [row(*parameter) for parameter in parameters(command.callback)]
        arguments = [name.strip("`") for name, *_ in rows if not name.startswith("`-")]
        lines = [("", "", "default", "meaning"), ("---",) * 4, *rows] if rows else []
        parts += [
            f"## {' '.join(words)}",
            f"```text\n{' '.join([*words, '[OPTIONS]', *arguments])}\n```",
            prose(plain(command.help or inspect.getdoc(command.callback))),
            "\n".join("| " + " | ".join(cells) + " |" for cells in lines),
            prose(plain(re.sub(r"\[bold\](.*?)\[/\]", r"`\1`", command.epilog or ""))),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def walk(group: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for command in group.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")  # type: ignore[union-attr]
        yield (*words, name), command
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from walk(inner.typer_instance, (*words, str(inner.name)))


def parameters(function: Any) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, type, what Typer was told, and default (`inspect.Parameter.empty`: required)."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        told = next((m for m in getattr(hints[name], "__metadata__", ()) if hasattr(m, "param_decls")), None)
        if told is not None and not told.hidden:
            yield name, hints[name].__origin__, told, parameter.default


def row(name: str, kind: Any, told: Any, default: Any) -> tuple[str, ...]:
    is_option = isinstance(told, typer.models.OptionInfo)
    # Of `Option("--set")` Typer takes the first word for a default, until it makes the command.
    declared = [word for word in (told.default, *(told.param_decls or ())) if str(word).startswith("-")]
    flags = declared or [f"--{name.replace('_', '-')}"]
    types = [kind, *get_args(kind)]
    types += get_args(next((inner for inner in types if get_origin(inner) is list), None))
    basic = next((known for known in (bool, int, float, Path, str) if known in types), str)
    shown = {bool: "switch", int: "integer", float: "number", Path: "path", str: "text"}[basic]
    shown += ", repeatable" if list in map(get_origin, types) else ""
    required, empty = default is inspect.Parameter.empty, default is None or default is False
    value = "required" if required else "" if empty else f"`{default}`"
    label = " ".join(f"`{flag}`" for flag in flags) if is_option else f"`{name.upper()}`"
    return label, shown, value, prose(plain(told.help)).replace("|", r"\|")


def plain(text: str | None) -> str:
    """Without Rich's styles."""
    return re.sub(r"\[/?(?:bold|italic|dim)?\]", "", text or "")


if __name__ == "__main__":
    main()
