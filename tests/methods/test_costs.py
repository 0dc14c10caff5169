"""What `longtail methods` says of methods: their costs are measured ones, and every one can be shown."""

from __future__ import annotations

import json

import pytest

from benchmarks import measured
from benchmarks.costs import FILE, measure
from longtail.cli import app
from longtail.methods import METHODS, SECOND_STAGES
from longtail.methods.second_stage import second_stage


def test_costs_are_those_of_the_methods() -> None:
    assert json.loads(FILE.read_text()) == measure(), "run: python -m benchmarks.costs"


def test_methods_are_listed_by_kind_with_cost_and_year(capsys: pytest.CaptureFixture[str]) -> None:
    app(["methods"], standalone_mode=False)
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["bbn"][1:5] == ["2020", "2", "2", "1.17"]
    assert all(name in lines for name in (*METHODS, *SECOND_STAGES))
    kinds = {entry.kind for entry in METHODS.values()}
    assert all(any(line.strip() == kind for line in shown.splitlines()) for kind in kinds)


def test_one_method_is_shown_with_options_and_figures(capsys: pytest.CaptureFixture[str]) -> None:
    app(["methods", "crt"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("crt.sampler", "class_aware", "imagenet-lt", "49.6", "(decoupled, 2020)"):
        assert part in shown
    app(["methods", "glmc"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Measured here, at the last epoch" in shown
    assert "Fashion-MNIST-LT" in shown
    app(["methods", "glmc+lws"], standalone_mode=False)
    assert "lws.epochs" in capsys.readouterr().out


def test_what_was_measured_is_of_the_committed_results() -> None:
    assert measured.FILE.read_text() == measured.text(), "run: python -m benchmarks.measured; python tests/test_docs.py"


def test_a_method_without_figures_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    app(["methods", "cosface"], standalone_mode=False)
    assert "Not measured here yet" in capsys.readouterr().out


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_second_stages_are_called_what_they_are_listed_as(name: str) -> None:
    assert second_stage(name).name == name
