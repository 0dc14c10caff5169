"""Fine-tuning through the one trainer: what learns, what is computed once, and that both give the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from longtail import api
from longtail.config import merge
from longtail.data.augment import Normalise
from longtail.data.loaders import Setup
from longtail.data.sources import open_source
from longtail.data.squares import SquareReader
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import LongtailError, UsageError
from longtail.finetune import features
from longtail.methods import METHODS, method_class
from longtail.models import build_backbone
from longtail.models.starts import ClassStatistics, discriminant

PHOTOS = Path(__file__).parents[1] / "data" / "clothing"
SMALL = "timm:test_efficientnet"


def train(out, settings, method="balanced_softmax", **finetune):
    options = merge(settings, {"finetune": finetune})
    return api.train(method, out=out, **options)


@pytest.mark.parametrize(("mode", "cached"), [("head", True), ("partial", True), ("partial", False), ("full", False)])
def test_frozen_stages_are_kept_and_the_model_is_whole(tmp_path, settings, mode, cached):
    results = train(tmp_path / "run", settings, mode=mode, cache=cached, last=2 if mode == "partial" else None)
    trained = api.load(tmp_path / "run").method.backbone.state_dict()
    torch.manual_seed(0)
    before = build_backbone(SMALL, pretrained=True, weights=settings["weights"]).state_dict()
    changed = {name.split(".")[1] for name, value in trained.items() if not torch.equal(value, before[name])}
    assert changed == {"head": set(), "partial": {"5", "6"}, "full": set("0123456")}[mode]
    # from images, as it is used, it scores what it scored in training
    assert api.evaluate(tmp_path / "run")["metrics"]["nll"] == pytest.approx(results["metrics"]["nll"], rel=1e-4)


def test_features_are_computed_once_and_are_the_networks_own(tmp_path, settings, monkeypatch):
    train(tmp_path / "a", settings, mode="head")
    first = Run(tmp_path / "a").metrics()

    def never(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(features.FrozenStages, "__call__", never)
    train(tmp_path / "b", settings, mode="head")
    assert [line["loss"] for line in Run(tmp_path / "b").metrics()] == [line["loss"] for line in first]
    monkeypatch.undo()


class StopInFeatures(Reporter):
    """Presses Ctrl-C when the first features are there."""

    def begin(self, label, total, done=0):
        self.due = label.startswith("features")

    def advance(self, steps=1):
        if self.due:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_the_features_computed_so_far(tmp_path, settings, cache, monkeypatch):
    monkeypatch.setattr(features, "BATCH", 8)
    options = merge(settings, {"finetune": {"mode": "head"}, "train": {"epochs": 1}})
    with pytest.raises(
        LongtailError, match=r"Stopped by SIGINT\. The features computed so far are kept: give the same"
    ):
        api.train("ce", out=tmp_path / "run", reporter=StopInFeatures(), **options)
    assert not (tmp_path / "run").exists()
    (shard,) = cache.rglob("*.safetensors")
    stored = len(load_file(shard)["hashes"])
    assert 8 <= stored <= 9  # 84 images in 11 batches
    computed, original = [], features.FrozenStages.__call__

    def counting(self, images):
        computed.append(len(images))
        return original(self, images)

    monkeypatch.setattr(features.FrozenStages, "__call__", counting)
    api.train("ce", out=tmp_path / "run", **options)
    assert sum(computed) == 84 - stored + 30


TWO_PROCESSES = """
import sys, json, os, longtail
from longtail.finetune import features
settings, out, log = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
original = features.FrozenStages.__call__
def recorded(self, images):
    with open(log, "a") as file:
        file.write(f"{os.environ.get('LOCAL_RANK', '0')} {len(images)}\\n")
    return original(self, images)
features.FrozenStages.__call__ = recorded
longtail.train("balanced_softmax", out=out, **settings)
"""


def test_of_two_processes_one_computes_the_features(tmp_path, settings):
    train = {"train": {"devices": 2, "accelerator": "cpu", "epochs": 1}, "finetune": {"mode": "head"}}
    words = [json.dumps(merge(settings, train)), str(tmp_path / "run"), str(tmp_path / "log")]
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, str(script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    computed = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(int(images) for _, images in computed) == 84 + 30
    assert {rank for rank, _ in computed} == {"0"}
    assert Run(tmp_path / "run").results()["metrics"]["images"] == 30


def test_classifier_starts_from_text_features(tmp_path, settings):
    """As a user with a text tower does: features of each class's prompt, in a file with the visual projection."""
    names = open_source(str(PHOTOS)).train.class_names
    text, projection = torch.randn(5, 16), torch.randn(build_backbone(SMALL).dim, 16)
    order = [2, 0, 1, 4, 3]  # of the file, by name
    np.savez(
        tmp_path / "text.npz",
        text_features=text[order],
        class_names=[names[i] for i in order],
        visual_projection=projection,
    )
    options = merge(settings, {"train": {"lr": 1e-12, "epochs": 1}})
    train(tmp_path / "run", options, "lift", mode="head", start=f"text:{tmp_path / 'text.npz'}")
    rows = torch.nn.functional.normalize(torch.nn.functional.normalize(text) @ projection.T)
    torch.testing.assert_close(api.load(tmp_path / "run").method.classifier.weight, rows)


def test_draws_follow_from_image_and_number_alone(settings, cache, weights):
    images = open_source(str(PHOTOS)).train
    backbone = build_backbone(SMALL, pretrained=True, weights=str(weights)).eval()
    stages = features.FrozenStages(backbone, 3)
    setup = Setup(torch.device("cpu"), (0.5,) * 3, (0.5,) * 3)
    variants = [features.Variant(""), *(features.Variant("resized_crop,flip", draw) for draw in range(2))]

    def computed(part):
        return features.compute(part, stages, variants, setup=setup, channels=3, image_size=32)[0]

    some = computed(images.select(np.arange(7)))  # in batches of another size than all of them
    for path in cache.rglob("*.safetensors"):
        path.unlink()
    every = computed(images)
    for variant in variants:
        torch.testing.assert_close(every[variant][:7], some[variant])
    assert not torch.equal(every[variants[1]], every[variants[2]])
    plain = every[variants[0]].permute(0, 3, 1, 2)
    torch.testing.assert_close(backbone(plain, start=3), _bare(backbone, images))


def _bare(backbone, images, mean=(0.5,) * 3, std=(0.5,) * 3):
    """Features by the network alone."""
    reader = SquareReader(images, 3, 32)
    squares = torch.stack([torch.from_numpy(reader.square(i).copy()) for i in range(len(images))])
    with torch.inference_mode():
        return backbone(Normalise(mean, std)(squares))


class StopAt(Reporter):
    """Asks to stop in the fifth step of training; features are computed before."""

    def begin(self, label, total, done=0):
        self.left = 5 if label.endswith(" train") else None

    def advance(self, steps=1):
        self.left = self.left and self.left - 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_versions_are_drawn_and_a_resumed_run_is_the_same(tmp_path, settings, monkeypatch):
    options = merge(settings, {"finetune": {"mode": "partial", "last": 1, "draws": 2, "norms": "running"}})
    whole = api.train("ce", out=tmp_path / "whole", **options)
    with pytest.raises(LongtailError, match="Stopped by SIGTERM"):
        api.train("ce", out=tmp_path / "stopped", reporter=StopAt(), **options)
    monkeypatch.setenv("LONGTAIL_CACHE", str(tmp_path / "elsewhere"))  # computed anew, to the same
    assert api.resume(tmp_path / "stopped")["metrics"] == whole["metrics"]


@pytest.mark.parametrize("start", ["zero", "class_means", "discriminant"])
def test_classifier_starts_as_asked(tmp_path, settings, start):
    train(tmp_path / "run", merge(settings, {"train": {"lr": 1e-12}}), "ce", mode="head", start=start)
    method = api.load(tmp_path / "run").method
    rows = method.classifier.weight
    if start == "zero":
        assert rows.abs().max() < 1e-6
    elif start == "class_means":
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    else:
        images = open_source(str(PHOTOS)).train
        statistics = ClassStatistics(5, method.backbone.dim)
        pixels = api.load(tmp_path / "run").description.preprocessing
        statistics.update(_bare(method.backbone, images, pixels.mean, pixels.std), torch.from_numpy(images.labels))
        expected, _ = discriminant(statistics)
        torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-3)


def test_start_needs_one_classifier(tmp_path, settings):
    with pytest.raises(UsageError, match="start is 'best'; expected random, zero"):
        train(tmp_path / "run", settings, mode="head", start="best")


@pytest.mark.parametrize("mode", ["adaptformer", "lora", "vpt", "bias"])
def test_transformers_learn_by_their_modules(tmp_path, settings, mode):
    options = merge(settings, {"backbone": "timm:test_vit", "pretrained": False, "train": {"epochs": 1}})
    del options["weights"]
    train(tmp_path / "run", options, mode=mode)
    predictor = api.load(tmp_path / "run")
    assert (predictor.description.backbone != "timm:test_vit") == (mode != "bias")
    assert predictor.predict(str(PHOTOS / "test" / "hat" / "01.jpg"))[0].label in predictor.classes


@pytest.mark.parametrize("name", [name for name in METHODS if method_class(name).classifies()])
def test_every_method_trains_on_features(tmp_path, settings, name):
    try:
        results = train(tmp_path / "run", merge(settings, {"train": {"epochs": 1}}), name, mode="head")
    except UsageError as error:
        assert "use finetune.mode=full" in str(error)  # noqa: PT017
    else:
        assert results["metrics"]["images"] == 30


def test_what_would_not_fit_is_computed_in_each_epoch(tmp_path, settings, caplog):
    caplog.set_level("INFO", "longtail")
    small = merge(settings, {"data": {"budget_gb": 1e-6}, "train": {"epochs": 1}})
    train(tmp_path / "run", small, mode="head")
    assert "computed anew in each epoch" in caplog.text
    assert "parameters learn" in caplog.text


def test_as_many_draws_are_kept_as_fit(tmp_path, settings, caplog):
    caplog.set_level("INFO", "longtail")
    one_stage = merge(settings, {"finetune": {"mode": "partial", "last": 1}, "train": {"epochs": 1}})
    for gigabytes, kept in ((1.0, "in 2 draws"), (2 * 64 * 200 / 2**30, "in 1 draw of"), (1e-6, "anew in each epoch")):
        api.train("ce", out=tmp_path / kept.replace(" ", "-"), **merge(one_stage, {"data": {"budget_gb": gigabytes}}))
        assert kept in caplog.text


def test_corrupt_images_are_named_or_left_out(tmp_path, settings):
    import shutil

    photos = tmp_path / "photos"
    shutil.copytree(PHOTOS, photos)
    (photos / "train" / "hat" / "01.jpg").write_bytes(b"no image")
    broken = merge(settings, {"data": {"source": str(photos)}})
    with pytest.raises(Exception, match="1 corrupt image:"):
        train(tmp_path / "run", broken, mode="head")
    results = train(tmp_path / "run", merge(broken, {"data": {"skip_corrupt": True}}), mode="head")
    assert results["skipped_images"] == ["train/hat/01.jpg"]


def test_authors_protocol_needs_images(tmp_path, settings):
    with pytest.raises(UsageError, match="authors_protocol mirrors images"):
        train(tmp_path / "run", merge(settings, {"train": {"authors_protocol": True}}), mode="head")
