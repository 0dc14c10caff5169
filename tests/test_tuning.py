"""`longtail tune`: the same grid for every method, chosen on held-out training images."""

from __future__ import annotations

import json
import shlex

import pytest

import longtail.cli
from longtail import api
from longtail.cli import app
from longtail.errors import DivergedError, UsageError
from longtail.methods import METHODS, method_class
from longtail.tuning import GRIDS, points, tune

SMALL = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 32, "accelerator": "cpu"}}


def cli(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        longtail.cli.run(lambda: app(arguments))
    return end.value.code or 0


@pytest.mark.parametrize("optimizer", GRIDS)
def test_every_method_tries_the_same_rates_in_the_same_order_and_its_own_weight_three_times(optimizer):
    plain = points(optimizer, None)
    assert len({json.dumps(point) for point in plain}) == len(plain) == 12
    for method in METHODS:
        weight = method_class(method).main_weight
        grid = points(optimizer, weight)
        assert [point["train"] for point in grid[: len(plain)]] == [point["train"] for point in plain]
        assert len({json.dumps(point) for point in grid}) == len(grid) == 12 * (3 if weight else 1)


@pytest.mark.parametrize("method", [name for name in METHODS if method_class(name).main_weight])
def test_the_weight_is_an_option_and_its_values_are_allowed_and_hold_the_default(method):
    name, values = method_class(method).main_weight
    options = api.make_config(method).options
    default = options[name] if options[name] is not None else {"cmo": 0.5}[method]
    assert default in values
    for value in values:
        assert api.make_config(method, None, {"options": {name: value}}).options[name] == value


def test_the_best_on_held_out_images_comes_first_and_what_is_finished_is_kept(small_set, tmp_path, monkeypatch):
    told = SMALL | {"data": {"source": small_set}}
    first = tune("glmc", 2, out=tmp_path, **told)
    scores = {row["trial"]: row["class_balanced"] for row in first["trials"]}
    for trial, score in scores.items():
        folder = tmp_path / f"trial-{trial}"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert score == lines[-1]["val"]["class_balanced"]
        assert not any("test" in line for line in lines)
        data = json.loads((folder / "results.json").read_text())["data"]
        assert (data["train_images"], data["val_images"]) == (50, 10)
        assert "test_images" not in data
    assert [row["class_balanced"] for row in first["trials"]] == sorted(scores.values(), reverse=True)

    train = api.train_as_told
    monkeypatch.setattr(api, "train_as_told", None)  # nothing is trained again
    assert tune("glmc", 2, out=tmp_path, **told) == first
    with pytest.raises(UsageError, match=r"trial-1 holds a run with another train.epochs: 1, and 2 is asked for"):
        tune("glmc", 2, out=tmp_path, **(told | {"train": {"epochs": 2}}))

    def diverges(method, **told):
        if told["train"]["lr"] == second["lr"]:
            raise DivergedError("In epoch 1, step 1, loss term 'ce' is not finite.")
        return train(method, **told)

    second = points("sgd", ("contrast_weight", (1.0, 4.0, 10.0)))[2]["train"]
    monkeypatch.setattr(api, "train_as_told", diverges)
    again = tune("glmc", 3, out=tmp_path, **told)
    assert again["trials"][-1] | second == again["trials"][-1]
    assert again["trials"][-1]["class_balanced"] is None
    assert json.loads((tmp_path / "tune.json").read_text()) == again


def test_the_command_prints_what_was_tried_and_how_to_train_with_it(small_set, tmp_path, capsys):
    common = ["--set", "batch_size=32", "--set", "accelerator=cpu"]
    words = ["tune", "bcl", "--data", small_set, "--backbone", "resnet8", "--epochs", "1", *common]
    assert cli(*words, "--trials", "1", "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "tune.json").read_text())["trials"]
    assert f"{100 * row['class_balanced']:.2f}" in said
    train = shlex.split(said.splitlines()[-1])
    assert cli(*train[1:], "--out", str(tmp_path / "run")) == 0
    config = api.Run(tmp_path / "run").config()
    assert (config.train.lr, config.train.weight_decay) == (row["lr"], row["weight_decay"])
    assert config.options["contrast_weight"] == row["contrast_weight"]
    assert (config.train.batch_size, config.train.epochs, config.data.validation) == (32, 1, None)


def test_more_trials_than_the_grid_has_are_refused(tmp_path, capsys):
    assert cli("tune", "ce", "--data", "fashion-mnist-lt", "--trials", "13", "--out", str(tmp_path / "out")) == 2
    assert "the grid of ce has 12 points; give 1 to 12" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
