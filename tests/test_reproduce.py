"""Reproducing a recipe over seeds, and the demo."""

from __future__ import annotations

import json
import statistics

import pytest

import longtail.cli
from longtail.cli import app
from longtail.config import merge
from longtail.engine.run import Run
from longtail.errors import UsageError
from longtail.reproduce import run_seeds, summarise

OVERRIDES = {
    "backbone": "resnet8",
    "data": {"imbalance": None, "mean": None, "std": None},  # of grey images, not CIFAR's
    "train": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0, "accelerator": "cpu"},
}


def test_seeds_are_trained_once_and_both_protocols_measured(small_set, tmp_path):
    results = run_seeds("ce/cifar10-lt-100", small_set, range(2), tmp_path, OVERRIDES)
    runs = [Run(tmp_path / "ce-cifar10-lt-100" / f"seed-{seed}") for seed in range(2)]
    written = [run.results_file.stat().st_mtime_ns for run in runs]
    # A third seed leaves the finished ones alone.
    again = run_seeds("ce/cifar10-lt-100", small_set, range(3), tmp_path, OVERRIDES)
    assert again[:2] == results
    assert [run.results_file.stat().st_mtime_ns for run in runs] == written
    assert again[2]["seed"] == 2

    line = summarise("ce/cifar10-lt-100", results, json.loads(runs[0].environment_file.read_text()))

    last = [100 * run.metrics()[-1]["test"]["top1"] for run in runs]
    best = [100 * max(record["test"]["top1"] for record in run.metrics()) for run in runs]
    flipped = [100 * max(record["test_flip"]["top1"] for record in run.metrics()) for run in runs]
    for measured, values in zip(line["measured"].values(), (last, best, flipped), strict=True):
        assert measured["mean"] == pytest.approx(statistics.mean(values), abs=0.006)
        assert measured["std"] == pytest.approx(statistics.stdev(values), abs=0.006)
    assert line["seeds"] == [0, 1]
    assert line["data"]["subset_hash"] == results[0]["data"]["subset_hash"]


def test_a_seed_that_was_killed_before_its_first_checkpoint_is_trained(small_set, tmp_path):
    first = run_seeds("ce/cifar10-lt-100", small_set, [0], tmp_path / "whole", OVERRIDES)
    killed = tmp_path / "killed/ce-cifar10-lt-100/seed-0"
    Run(killed).create(Run(tmp_path / "whole/ce-cifar10-lt-100/seed-0").config())
    again = run_seeds("ce/cifar10-lt-100", small_set, [0], tmp_path / "killed", OVERRIDES)
    assert again[0]["metrics"] == first[0]["metrics"]


def test_a_run_with_other_settings_is_not_taken_for_this_one(small_set, tmp_path):
    run_seeds("ce/cifar10-lt-100", small_set, [0], tmp_path, OVERRIDES)
    longer = merge(OVERRIDES, {"train": {"epochs": 3}})
    with pytest.raises(UsageError, match=r"seed-0 holds a run with another train\.epochs: 2, and 3 is asked for"):
        run_seeds("ce/cifar10-lt-100", small_set, [0], tmp_path, longer)


def test_command_appends_a_line_and_shows_what_was_reported(small_set, tmp_path, capsys):
    settings = (
        "backbone=resnet8",
        "imbalance=null",
        "mean=null",
        "std=null",
        "batch_size=16",
        "warmup_epochs=0",
        "accelerator=cpu",
    )
    command = ["reproduce", "ce/cifar10-lt-100", "--data", small_set, "--seeds", "1", "--epochs", "1"]
    for setting in settings:
        command += ["--set", setting]
    command += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "lines.jsonl")]
    for _ in range(2):
        app(command, standalone_mode=False)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "70.40" in capsys.readouterr().out  # what the literature has for this recipe


def test_demo_compares_its_methods_on_equal_terms(tmp_path, monkeypatch, capsys):
    train = longtail.cli.train.DEMO["train"] | {"epochs": 1, "accelerator": "cpu"}
    monkeypatch.setitem(longtail.cli.train.DEMO, "train", train)
    app(["demo", "--out", str(tmp_path / "demo")], standalone_mode=False)
    shown = capsys.readouterr().out
    assert str(tmp_path / "demo" / "compare.html") in shown
    assert str(tmp_path / "demo" / "glmc" / "report.html") in shown
    assert "of class-balanced accuracy (interval" in shown
    assert (tmp_path / "demo" / "compare.html").stat().st_size > 1e6
    configs = [Run.open(tmp_path / "demo" / method).config() for method in longtail.cli.train.DEMO_METHODS]
    assert all(f"│ {method} " in shown for method in longtail.cli.train.DEMO_METHODS)
    assert len({(config.backbone, config.train, config.seed) for config in configs}) == 1
