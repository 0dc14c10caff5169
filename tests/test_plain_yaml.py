"""YAML as people write it, and text that would make a parser run out of memory, stack or patience."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest
import yaml

from longtail.assignments import parse_set
from longtail.config import Config, validate
from longtail.errors import UsageError
from longtail.plain_yaml import dump_yaml, load_yaml, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("0.5", 0.5), (".5", 0.5), ("-2", -2), ("+3", 3), ("1_000", 1000), ("0x1f", 31), ("010", 10),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", float("inf")), ("5.", 5.0),
        ("off", "off"), ("yes", "yes"), ("n", "n"), ("2020-01-01", "2020-01-01"), ("2020-13-45", "2020-13-45"),
        ("1:30", "1:30"), ("0b_", "0b_"), ("0_", "0_"), ("[1, a]", [1, "a"]), ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("'1'", "1"), ("1e", "1e"), ("e4", "e4"), ("\u00e9", "\u00e9"),
    ],
)  # fmt: skip
def test_plain_values(text, value):
    found = read_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_what_is_written_is_read_back():
    words = [
        "off",
        "1e-4",
        "010",
        "0x1",
        "1:30",
        "2020-01-01",
        "true",
        "null",
        "~",
        "",
        "*a",
        "&a",
        "!!int",
        "-",
        "1_0",
        "NaN",
    ]
    numbers = [1e-5, 5e-324, 1e300, 2**63 - 1, -(2**63), 0.1]
    shared = [1]
    content = {"words": words, "numbers": numbers, "one": shared, "two": shared}
    assert read_yaml(dump_yaml(content)) == content


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "line 6: with its aliases written out, it is more than 100,000 values"),
        ("a: &a [*a]", "an alias of something within itself"),
        ("a: &a {b: *a}", "an alias of something within itself"),
        ("a: &a " + "[" * 15 + "]" * 15 + "\nb: " + "[" * 15 + "*a" + "]" * 15, "or 20 deep"),
        ("a: *b", "found undefined alias"),
        ("[" * 3000, "nested more than 20 deep"),
        ("{a: " * 3000, "nested more than 20 deep"),
        ("- " * 3000, "nested more than 20 deep"),
        ("a: !!bool x", "'x' is no bool"),
        ("a: !!int x", "'x' is no int"),
        ("a: !!float x", "'x' is no float"),
        ("a: !!timestamp x", "'x' is no timestamp"),
        ("a: !!timestamp 2020-13-45", "'2020-13-45' is no timestamp"),
        ("a: !!int 0b_", "'0b_' is no int"),
        ("a: !!binary x", "failed to decode base64"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: 0o9", "'0o9' is no int"),
        ("a: " + "9" * 5000, "'9{40}' is no int"),
        ("a: " + "9" * 4000, "the number 9{20}... is out of range"),
        ("a: 9223372036854775808", "the number 9223372036854775808... is out of range"),
        ("{[a]: b}", "found unhashable key"),
        ("a: \0", "special characters are not allowed"),
        ("a: '", "found unexpected end of stream"),
        ("a: 1\n" * 60_000, "longer than 250,000 characters"),
    ],
)
def test_bombs_and_nonsense_are_refused_in_a_line(tmp_path, text, problem):
    (tmp_path / "a.yaml").write_text(text)
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(UsageError, match=rf"a.yaml is not valid YAML( at)?.*{problem}") as caught:
        load_yaml(tmp_path / "a.yaml")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert time.perf_counter() - began < 2
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["2020-13-45", "0b_", "!!bool x", "9" * 5000, "9" * 4000, "[" * 3000, "&a [*a]", "x" * 5000]
)
def test_options_with_such_values(text):
    """Refused when read, or as the words that they are."""
    with pytest.raises(UsageError, match="lr") as caught:
        validate(Config, {"method": "ce", **parse_set(f"lr={text}", ())}, "configuration")
    assert len(str(caught.value)) < 300


def test_a_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match=r"Cannot read .*pipe.yaml: it is no regular file"):
        load_yaml(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"Cannot read .*link.yaml: it is no regular file"):
        load_yaml(tmp_path / "link.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match=r"Cannot read .*latin.yaml: .*utf-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_errors_have_a_problem():
    with pytest.raises(yaml.YAMLError):
        read_yaml("a: [")
