"""What is chosen for photographs, and the search within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from longtail import api
from longtail.cli.train import seconds_of
from longtail.data.sources import open_source
from longtail.errors import LongtailError, UsageError
from longtail.finetune import plan
from longtail.finetune.trials import Trials

PHOTOS = Path(__file__).parents[1] / "data" / "clothing"


@pytest.fixture
def images():
    return open_source(str(PHOTOS)).train


def test_photographs_start_from_a_trained_backbone(images, monkeypatch):
    monkeypatch.setattr(plan, "at_hand", lambda: ["tf_efficientnet_lite0"])
    chosen = plan.for_photographs(images, {"data": {"source": str(PHOTOS)}})
    assert chosen["backbone"] == "timm:tf_efficientnet_lite0"
    assert chosen["pretrained"] is True
    assert chosen["finetune"]["mode"] in ("partial", "full")


@pytest.mark.parametrize("told", [{"pretrained": False}, {"backbone": "resnet32"}, {"data": {"image_size": 32}}])
def test_nothing_is_chosen_against_the_users_will(images, told):
    assert plan.for_photographs(images, told) == {}


def test_offline_without_weights_trains_from_scratch_and_says_so(images, monkeypatch, caplog):
    def offline(name):
        raise LongtailError("no network.")

    monkeypatch.setattr(plan, "at_hand", lambda: [])
    monkeypatch.setattr(plan, "check_reachable", offline)
    assert plan.for_photographs(images, {}) == {}
    assert "no network. Training from scratch" in caplog.text
    with pytest.raises(LongtailError, match="no network"):
        plan.for_photographs(images, {"pretrained": True})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5", 90)])
def test_lengths_of_time(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1m", "nanm", "0", ""])
def test_no_lengths_of_time(text):
    with pytest.raises(UsageError, match="--budget takes a length of time"):
        seconds_of(text)


def test_the_best_on_held_out_images_is_trained_on_all(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("longtail.finetune.trials.METHODS", ("balanced_softmax", "ce"))
    results = api.train_within(60, out=tmp_path / "run", overrides=settings)
    assert results["data"]["train_images"] == 84
    trials = sorted(path.name for path in (tmp_path / "run-trials").iterdir())
    assert len(trials) >= 3
    assert all(api.Run.open(path).config().data.validation == 0.2 for path in (tmp_path / "run-trials").iterdir())


def test_halving_keeps_the_better_half(tmp_path, monkeypatch):
    seen = []
    scores = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}

    def trial(self, name, candidate, factor):
        seen.append((name, factor))
        return scores[name]

    monkeypatch.setattr(Trials, "_trial", trial)
    trials = Trials(tmp_path, 1e6, {}, None, None)
    assert trials._halve({name: {} for name in scores}) == "b"
    assert seen == [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("b", 2), ("c", 2)]
