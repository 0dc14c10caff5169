"""Runs of methods with several experts: teaching, routing, each expert's figures, aggregation, and what is refused."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch

import longtail as library
from longtail.engine.experts import evaluate_experts
from longtail.engine.reporter import Reporter
from longtail.errors import LongtailError
from longtail.methods.base import Batch
from longtail.methods.ride import RIDE

SHORT = {"backbone": "resnet8", "train": {"epochs": 1, "batch_size": 16}}
COMMAND = ("--backbone", "resnet8", "--epochs", 1, "--set", "train.batch_size=16")


@pytest.fixture(scope="module")
def routed(small_set, tmp_path_factory):
    """A run of RIDE with routers."""
    out = tmp_path_factory.mktemp("runs") / "routed"
    library.train("ride", data=small_set, out=out, options={"routers": True, "router_epochs": 1}, **SHORT)
    return out


def test_routers_learn_alone_and_are_deployed(routed):
    lines = [json.loads(line) for line in (routed / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["train", "routers"]
    assert [set(line["loss"]) for line in lines] == [{"ldam", "diversity"}, {"routing"}]
    method = library.load(routed).method
    assert method.routing
    assert json.loads((routed / "model.json").read_text())["parameters"] == sum(p.numel() for p in method.parameters())


class FixedAnswers:
    """Three experts of ten classes: the first is always right, the second never, the third says class 0."""

    def __init__(self, labels):
        self.labels, self.seen = labels, 0

    def __call__(self, images):
        here = self.labels[self.seen : self.seen + len(images)]
        self.seen += len(images)
        answers = torch.stack([here, (here + 1) % 10, torch.zeros_like(here)], 1)
        return 5 * torch.nn.functional.one_hot(answers, 10).float(), torch.arange(len(images)) % 3 % 2 + 1


def test_each_expert_is_scored_alone(routed, small_set):

    method = library.load(routed).method
    labels = torch.from_numpy(np.load(small_set)["test_labels"]).long()
    method.expert_answers = FixedAnswers(labels)
    images = [torch.zeros(len(part), 1, 28, 28) for part in labels.split(7)]

    class Images:
        def evaluation(self, batch_size):
            for part, here in zip(images, labels.split(7), strict=True):
                yield Batch((part,), here, here)

    measured = evaluate_experts(method, Images(), 7)
    assert [round(expert["top1"], 6) for expert in measured["alone"]] == [1.0, 0.0, 0.1]
    assert measured["used"] == pytest.approx([44 / 60, 16 / 60, 0], abs=0.1)


def test_eval_shows_experts_and_routing(routed, longtail):
    code, out, err = longtail("eval", routed)
    assert code == 0, err
    assert all(f"expert {i}" in out for i in (1, 2, 3))
    assert "experts used, by share of the images: 1: " in out
    assert "transductive" not in out
    saved = json.loads((routed / "evaluation-test.json").read_text())
    assert sum(saved["experts"]["used"]) == pytest.approx(1)
    assert "aggregated" not in saved


def test_aggregation_has_a_column_of_its_own(routed, longtail):
    def evaluated(*more):
        code, out, err = longtail("eval", routed, *more)
        assert code == 0, err
        return out, json.loads((routed / "evaluation-test.json").read_text())

    _, before = evaluated()
    out, after = evaluated("--aggregate")
    assert "aggregate (transductive)" in out
    assert "without labels" in out
    assert after["metrics"] == before["metrics"]
    assert sum(after["aggregated"]["shares"]) == pytest.approx(1)
    assert evaluated("--aggregate")[1] == after


def test_only_several_experts_can_be_aggregated(small_set, tmp_path, longtail):
    library.train("ce", data=small_set, out=tmp_path / "ce", **SHORT)
    code, _, err = longtail("eval", tmp_path / "ce", "--aggregate")
    assert code == 2
    assert "this run has one" in err
    assert not list(tmp_path.glob("ce/evaluation*"))
    assert "experts" not in library.evaluate(tmp_path / "ce")


def test_a_run_teaches_another(routed, small_set, tmp_path, longtail):
    taught = tmp_path / "taught"
    code, _, err = longtail(
        "train", "ride", "--data", small_set, *COMMAND, "--set", f"teacher={routed}", "--out", taught
    )
    assert code == 0, err
    (line,) = (json.loads(line) for line in (taught / "metrics.jsonl").read_text().splitlines())
    assert set(line["loss"]) == {"ldam", "diversity", "distillation"}
    assert line["loss"]["distillation"] > 0
    routed.rename(tmp_path / "elsewhere")  # no longer needed
    try:
        assert library.load(taught).predict(np.zeros((28, 28), np.uint8))
    finally:
        (tmp_path / "elsewhere").rename(routed)


class StopAfter(Reporter):
    """Asks the run to stop after so many of its steps."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("steps", [2, 6], ids=["while taught", "while routers learn"])
def test_all_of_it_is_the_same_after_a_stop(steps, routed, small_set, tmp_path):
    settings = SHORT | {"data": small_set, "options": {"teacher": str(routed), "routers": True, "router_epochs": 3}}
    library.train("ride", out=tmp_path / "whole", **settings)
    with pytest.raises(LongtailError, match="Stopped"):
        library.train("ride", out=tmp_path / "run", reporter=StopAfter(steps), **settings)
    library.resume(tmp_path / "run")
    state, expected = (torch.load(tmp_path / run / "last.ckpt")["method"] for run in ("run", "whole"))
    torch.testing.assert_close(state, expected, rtol=0, atol=0)
    assert expected["routing"]


def test_a_teacher_sees_images_as_it_learned_them(routed, small_set, tmp_path, monkeypatch):
    """However this run normalises, the teacher gets its own normalisation."""
    seen = []
    whole = RIDE.logits

    def logits(self, images):
        if not torch.is_grad_enabled() and self.routing:
            seen.append(images)
        return whole(self, images)

    monkeypatch.setattr(RIDE, "logits", logits)
    for mean, std in (((0.5,), (0.25,)), (None, None)):
        library.train(
            "ride",
            data={"source": small_set, "mean": mean, "std": std},
            out=tmp_path / str(mean),
            options={"teacher": str(routed), "augment": "none"},
            **SHORT,
        )
    first, second = (torch.cat(seen[i * len(seen) // 2 : (i + 1) * len(seen) // 2]) for i in (0, 1))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "nowhere"}, "nowhere holds no model.json"),
        ({"experts": 9}, "experts"),
        ({"routers": True, "router_top_k": 30}, "30 highest logits, and there are 10 classes"),
    ],
)
def test_what_cannot_be_is_told_before_training(change, message, small_set, tmp_path, longtail):
    settings = [word for key, value in change.items() for word in ("--set", f"{key}={value}")]
    code, _, err = longtail("train", "ride", "--data", small_set, *COMMAND, *settings, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_or_images_is_refused(routed, photos, small_set, tmp_path, longtail):
    def train(source, *more):
        words = ("train", "ride", "--data", source, *COMMAND, "--set", f"teacher={routed}", *more)
        return longtail(*words, "--out", tmp_path / "run")

    code, _, err = train(photos, "--image-size", 16)
    assert code == 2
    assert "other classes" in err
    assert "2 (cat, dog, ...)" in err
    assert "resident" not in err  # no image was decoded
    code, _, err = train(small_set, "--image-size", 16)
    assert code == 2
    assert "grey images of 28 pixels" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "paper"), [("ride", "Wang et al., ICLR 2021"), ("glmc", "Du et al., CVPR 2023")])
def test_a_method_is_shown_with_what_it_does_and_its_paper(method, paper, longtail):
    _, out, _ = longtail("methods", method)
    assert paper in out
    assert "module's text" not in out
