"""What is chosen for photographs, and the search within a budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtail import api
from longtail.cli.train import seconds_of
from longtail.config import merge
from longtail.data.sources import open_source
from longtail.errors import LongtailError, UsageError
from longtail.finetune import plan
from longtail.finetune.pace import Pace, measure
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


def test_training_from_python_chooses_as_the_command_line_does(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(plan, "at_hand", lambda: ["tf_efficientnet_lite0"])
    monkeypatch.setattr(api, "train_as_told", lambda method, **told: told)
    caplog.set_level("INFO", "longtail")
    told = api.train("ce", data=PHOTOS, out=tmp_path)
    assert (told["backbone"], told["pretrained"]) == ("timm:tf_efficientnet_lite0", True)
    assert "--no-pretrained" in caplog.text
    for against in ({"pretrained": False}, {"backbone": "resnet32"}, {"recipe": "cifar10-lt-100"}):
        given = {"data": {"source": str(PHOTOS)}, "out": tmp_path, "recipe": None, "reporter": None} | against
        assert api.train("ce", **given) == given


@pytest.mark.parametrize("told", [{"pretrained": False}, {"backbone": "resnet32"}, {"data": {"image_size": 32}}])
def test_nothing_is_chosen_against_the_users_will(images, told):
    assert plan.for_photographs(images, told) == {}


def test_photographs_made_small_are_told_of_the_trained_backbone(images, caplog):
    caplog.set_level("INFO", "longtail")
    plan.for_photographs(images, {"data": {"image_size": 64}})
    assert "photographs resized to 64 pixels: a network from scratch; without --image-size" in caplog.text


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
    monkeypatch.setattr("longtail.finetune.trials.CANDIDATES", {"a": {"method": "ce"}, "b b": {"method": "ldam"}})
    monkeypatch.setattr(Trials, "_most", lambda self, images: 2)
    results = api.train_within(60, out=tmp_path / "run", overrides=settings)
    assert results["data"]["train_images"] == 84
    trials = sorted(path.name for path in (tmp_path / "run-trials").iterdir())
    assert trials == ["a-2", "b-b-2"]
    for path in (tmp_path / "run-trials").iterdir():
        assert api.Run.open(path).config().data.validation == 0.2
        assert "test_images" not in api.Run.open(path).results()["data"]
    assert results["data"]["test_images"] > 0


class Machine:
    """Trains as `api.train` does, with a deadline, on a clock of its own: `slow` times slower after the first trial."""

    def __init__(self, pace, slow=1.0, scores=()):
        self.now, self.pace, self.slow, self.scores = 0.0, pace, slow, dict(scores)
        self.known, self.runs = 0, []

    def train(self, method, *, data, out, reporter, train, finetune, **settings):
        speed = self.slow if self.runs else 1.0
        end = self.now + train["seconds"]
        images = (1 - data.get("validation", 0.0)) * 4470
        scored = 626 if data.get("use_test", True) else 4470 - images
        made = (images - self.known) * (1 + finetune["draws"]) + scored
        self.now += max(made, 0) * self.pace.features * speed
        self.known = max(self.known, images)
        epoch = images * self.pace.training * speed
        steps = max(min(train["epochs"] * epoch, end - self.now), 0)
        self.now += steps + scored * self.pace.training * speed / 2
        self.runs.append((out.name, method, train["epochs"], steps))
        lines = [{"seconds": epoch, "val": {"class_balanced": self.scores.get(method, 0.5)}}]
        out.mkdir(parents=True)
        (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return {}


def search(machine, seconds, tmp_path, mode="partial"):
    overrides = {"finetune": {"mode": mode}, "data": {}, "pretrained": True}
    Trials(tmp_path / "run", seconds, overrides, None, machine.train, lambda: machine.now).run(
        machine.pace, images=4470, test=626
    )
    return machine


@pytest.mark.parametrize("slow", [0.8, 1.0, 3.0])
@pytest.mark.parametrize("seconds", [900, 3600])
def test_a_search_ends_within_a_tenth_of_its_budget(tmp_path, seconds, slow):
    machine = search(Machine(Pace(0.012, 0.012), slow), seconds, tmp_path)
    assert machine.now <= 1.1 * seconds
    assert machine.now >= 0.9 * seconds or machine.runs[-1][2] == 24  # as many epochs as are of use
    assert len(machine.runs) > 2


def test_halving_keeps_the_better_half_and_trains_the_best(tmp_path, monkeypatch):
    scores = {"balanced_softmax": 0.7, "ce": 0.6, "glmc": 0.8, "bcl": 0.5}
    monkeypatch.setattr("longtail.finetune.trials.CANDIDATES", {name: {"method": name} for name in scores})
    machine = search(Machine(Pace(0.001, 0.001), scores=scores), 900, tmp_path)
    names = [name for name, *_ in machine.runs]
    assert names == [*(f"{name}-2" for name in scores), "glmc-4", "balanced_softmax-4", "run"]
    assert machine.runs[-1][1] == "glmc"


def test_little_time_is_all_for_the_first_candidate(tmp_path):
    machine = search(Machine(Pace(0.012, 0.03)), 400, tmp_path)
    assert [name for name, *_ in machine.runs] == ["run"]
    assert machine.now <= 440


def test_a_budget_that_features_alone_would_use_up_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"--budget 60s is too short here: .* 5,096 images takes about 61 s .* Give 204s"
    ):
        search(Machine(Pace(0.012, 0.012)), 60, tmp_path)


@pytest.mark.parametrize(("images", "epochs"), [(100, 24), (4500, 8), (9000, 5), (10**6, 5)])
def test_few_images_are_seen_more_often(images, epochs):
    assert plan.epochs_for("partial", images) == epochs


def test_pace_is_of_what_is_computed_once_and_of_what_learns(settings):
    def measured(mode):
        config = api.make_config("ce", None, merge(settings, {"finetune": {"mode": mode}}))
        return measure(config, 32, "cpu")

    assert measured("head").training == 0 < measured("head").features
    assert measured("full").features == 0 < measured("full").training
    both = measured("partial")
    assert both.features > 0 < both.training
    assert both.tell(images=1000, held_out=0, draws=1, epochs=2).startswith("features, unless kept by another run, in")
