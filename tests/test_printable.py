"""Names of files and classes that a terminal would obey are shown, not obeyed."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from longtail.printable import PrintableConsole, PrintableFormatter, printable

EVIL = "\x1b]0;owned\x07\x1b[31mred\r\x9b2J\u202egnp\udcff"
SHOWN = r"\x1b]0;owned\x07\x1b[31mred\x0d\x9b2J\u202egnp\xff"


def test_printable():
    assert printable(EVIL) == SHOWN
    assert printable("caf\u00e9\t\u732b\n\U0001f408") == "caf\u00e9\t\u732b\n\U0001f408"


def test_whatever_a_console_prints():
    console = PrintableConsole(file=io.StringIO(), width=200, markup=False, force_terminal=True, color_system=None)
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    for renderable in (EVIL, Text(EVIL), table):
        console.print(renderable)
    with Progress(TextColumn("{task.description}", markup=False), console=console, auto_refresh=False) as progress:
        progress.add_task(EVIL)
        progress.refresh()
    shown = console.file.getvalue()
    assert shown.count(SHOWN) >= 4
    assert shown.count(r"\x1b]0;owned") >= 7  # rich leaves bells and carriage returns out of a text
    assert not {"\x07", "\x9b", "\u202e", "\udcff"} & set(shown)
    assert "\x1b]" not in shown
    assert "\x1b[31m" not in shown
    lines = [line for line in shown.splitlines() if line.startswith(("\u2502", "\u2503", "\u250f"))]
    assert len({len(line) for line in lines}) == 1  # a table's columns stay in line


def test_log():
    record = logging.LogRecord("longtail", logging.INFO, "", 0, "left out %s", (EVIL,), None)
    assert PrintableFormatter("%(message)s").format(record) == f"left out {SHOWN}"


@pytest.fixture
def hostile(tmp_path):
    """A set whose class and file names are escape sequences."""
    name = "\x1b[31mcat\x9b"
    for folder, colour in ((name, 10), ("dog", 240)):
        for i in range(3):
            path = tmp_path / "set" / folder / f"\x1b]0;t\x07{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), colour + i, np.uint8)).save(path)
    return tmp_path / "set", name


def test_commands(longtail, hostile, tmp_path):
    data, name = hostile
    train = ["train", "ce", "--data", data, "--backbone", "resnet8", "--epochs", "1", "--out", tmp_path / "run"]
    commands = [
        ["data", "inspect", data],
        train,
        ["eval", tmp_path / "run", "--per-class"],
        ["predict", tmp_path / "run", data, "--format", "jsonl"],
        ["data", "inspect", f"folder:{data}/{name}"],  # an error
        ["predict", tmp_path / "run", tmp_path / "\x1b[2Jnone"],
    ]
    for command in commands:
        code, out, errors = longtail(*command)
        assert code == (0 if command in commands[:4] else 2), errors
        assert not {"\x1b", "\x07", "\x9b"} & set(out + errors), command
    assert not {"\x1b", "\x07", "\x9b"} & set((tmp_path / "run" / "log.txt").read_text())
    first = json.loads(longtail(*commands[3])[1].splitlines()[0])
    assert first["predictions"][0]["label"] in (name, "dog")
