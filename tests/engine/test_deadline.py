"""Training that ends at a moment, with a clock that the test turns."""

from __future__ import annotations

import pytest

from longtail import api
from longtail.engine import trainer
from longtail.engine.deadline import Deadline
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import UsageError


class Ticking(Reporter):
    """A machine on which loading takes 5 seconds and each step of training `pace`."""

    def __init__(self, pace):
        self.now, self.pace = 0.0, pace

    def begin(self, label, total, done=0):
        self.now += 5

    def advance(self, steps=1):
        self.now += self.pace * steps


def train(out, small_set, monkeypatch, pace, **settings):
    clock = Ticking(pace)
    monkeypatch.setattr(trainer, "Deadline", lambda seconds, spent: Deadline(seconds, spent, lambda: clock.now))
    settings = {"epochs": 10, "batch_size": 20, "lr": 0.1, "schedule": "cosine", "schedule_per": "step", **settings}
    api.train("ldam", out=out, data=small_set, backbone="resnet8", reporter=clock, train=settings)  # 3 steps an epoch
    return clock.now, Run(out).metrics()


def test_slow_machine_stops_in_time_with_the_rate_fallen(tmp_path, small_set, monkeypatch):
    now, lines = train(tmp_path / "run", small_set, monkeypatch, 10, seconds=105)
    assert now == pytest.approx(105, abs=10)  # to a step
    assert len(lines) == 4
    assert lines[-1]["lr"] < 0.005
    assert "test" in lines[-1]
    rates = [line["lr"] for line in lines]
    assert rates == sorted(rates, reverse=True)


def test_fast_machine_takes_all_epochs(tmp_path, small_set, monkeypatch):
    _, lines = train(tmp_path / "run", small_set, monkeypatch, 0.1, seconds=105)
    assert len(lines) == 10
    _, without = train(tmp_path / "without", small_set, monkeypatch, 0.1)
    assert [line["lr"] for line in lines] == [line["lr"] for line in without]
    assert [line["loss"] for line in lines] == [line["loss"] for line in without]


def test_no_time_for_a_step_still_gives_a_scored_model(tmp_path, small_set, monkeypatch):
    _, lines = train(tmp_path / "run", small_set, monkeypatch, 1, seconds=3)
    assert [line["loss"] for line in lines] == [{}]
    assert Run(tmp_path / "run").results()["metrics"]["images"] == 60


def test_what_goes_by_epochs_goes_by_the_clock_too():
    now = 0.0
    deadline = Deadline(100.0, 0.0, lambda: now)
    now = 20.0
    deadline.begin(0.0)
    assert deadline.position(3, 1, 10, 4) == (3, 1)  # further by steps
    now = 60.0
    assert deadline.position(3, 1, 10, 4) == (5, 0.0)  # half of the steps' time is gone
    now = 200.0
    assert deadline.position(3, 1, 10, 4) == (9, 4.0)
    assert deadline.over()


def test_one_clock_and_one_stage(tmp_path, small_set):
    with pytest.raises(UsageError, match="seconds is for methods of one stage; crt has 2"):
        api.train("crt", out=tmp_path / "run", data=small_set, backbone="resnet8", train={"seconds": 5.0})
    with pytest.raises(UsageError, match="seconds is for one process"):
        api.train("ce", out=tmp_path / "run", data=small_set, train={"seconds": 5.0, "devices": 2})
