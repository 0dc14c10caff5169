"""The project from Python."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import longtail
from longtail.engine.prepare import build_method
from longtail.engine.run import Run
from longtail.errors import LongtailError, UsageError


@pytest.fixture(scope="module")
def run(small_set, tmp_path_factory):
    """A run of GLMC on the first images of each class of the embedded set."""
    folder = tmp_path_factory.mktemp("api") / "run"
    results = longtail.train(
        "glmc",
        data=small_set,
        out=folder,
        backbone="resnet8",
        train={"epochs": 1, "batch_size": 16, "precision": "fp32", "accelerator": "cpu"},
    )
    assert results == json.loads((folder / "results.json").read_text())
    return folder


def test_importing_and_asking_for_help_load_nothing_heavy():
    script = (
        "import sys, longtail, longtail.cli\n"
        "from longtail.cli import app\n"
        "sys.argv = ['longtail', '--help']\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'timm', 'torchvision', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_names():
    assert {"train", "evaluate", "load", "resume"} <= set(longtail.__all__)
    modules = {"losses", "mixing", "samplers"}
    assert all(callable(getattr(longtail, name)) for name in longtail.__all__ if name not in modules)
    assert all(getattr(longtail, name).__all__ for name in modules)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        longtail.trian  # noqa: B018


def test_predictor_is_the_trained_method(run):
    """The deployed files hold what the last checkpoint's method computes, whatever form an image comes in."""
    predictor = longtail.load(run)
    method = build_method(Run.open(run).config(), predictor.method.classes, channels=1).eval()
    method.load_state_dict(Run.open(run).load_checkpoint()["method"])
    arrays = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    prepared = [predictor.prepare(array) for array in arrays]
    assert torch.equal(torch.stack(prepared), torch.from_numpy(arrays)[:, None])
    pixels = predictor.description.preprocessing
    images = (torch.from_numpy(arrays)[:, None] / 255 - pixels.mean[0]) / pixels.std[0]
    with torch.no_grad():
        expected = method.logits(images)
    torch.testing.assert_close(predictor.logits(prepared), expected, rtol=1e-4, atol=1e-5)
    probabilities, order = expected.softmax(1).sort(1, descending=True)
    predictions = predictor.predict(list(arrays), top=10)
    assert [p.labels for p in predictions] == [tuple(predictor.classes[c] for c in row) for row in order.tolist()]
    np.testing.assert_allclose([p.probabilities for p in predictions], probabilities, atol=1e-5)
    assert predictions[0].label == predictions[0].labels[0]


def test_predictor_takes_images_in_every_form(run, tmp_path):
    predictor = longtail.load(str(run))
    array = np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    forms = [array, array[..., None], np.stack([array] * 3, -1), Image.open(path), path, str(path), path.read_bytes()]
    (expected,) = predictor.predict(array)
    for form in forms:
        assert predictor.predict(form) == [expected]
    for prediction in predictor.predict(forms, batch_size=2):
        assert prediction.labels == expected.labels
        assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert len(predictor.predict(Image.new("RGB", (50, 31)))) == 1
    assert predictor.predict([]) == []


def test_predictor_refuses(run, tmp_path):
    predictor = longtail.load(run)
    with pytest.raises(UsageError, match=r"none.png: No such file"):
        predictor.predict("none.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(LongtailError, match=r"Cannot read .*bad.png: not an image"):
        predictor.predict(tmp_path / "bad.png")
    with pytest.raises(UsageError, match=r"holds no model.json: give a finished run"):
        longtail.load(tmp_path)
    for size in ({"top": 0}, {"batch_size": 0}):
        with pytest.raises(UsageError, match=r"top and batch_size are .*; expected 1 or more"):
            predictor.predict(np.zeros((28, 28), np.uint8), **size)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="Cannot use device 'cuda': "):
            longtail.load(run, device="cuda")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((2, 28, 28, 3), np.uint8), r"An array uint8 \[2, 28, 28, 3\]"),
        (np.zeros((3, 28, 28), np.uint8), r"An array uint8 \[3, 28, 28\]"),
        (np.zeros(28, np.uint8), r"An array uint8 \[28\]"),
        (np.zeros((28, 0), np.uint8), r"An array uint8 \[28, 0\]"),
        (np.zeros((28, 28)), r"An array float64 \[28, 28\]"),
        (io.BytesIO(), "A BytesIO"),
        (3, "A int"),
    ],
)
def test_what_is_no_image(run, image, found):
    with pytest.raises(UsageError, match=rf"{found} is no image. Expected a path, .*an array uint8 \[H, W\] or"):
        longtail.load(run).predict(image)


def test_what_is_scored_is_said_once(run, small_set):
    with pytest.raises(UsageError, match="leave --split out"):
        longtail.evaluate(run, data=small_set, split="train")
    with pytest.raises(UsageError, match="How to read --data is said"):
        longtail.evaluate(run, root="photos")


def test_evaluate_repeats_the_results(run):
    results = json.loads((run / "results.json").read_text())
    evaluated = longtail.evaluate(run, geometry=True)
    assert evaluated["split"] == "test"
    assert evaluated["metrics"]["top1"] == pytest.approx(results["metrics"]["top1"], abs=1e-9)
    assert set(evaluated["geometry"]) == {"train", "test"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "glm"}, "Unknown method 'glm'. Did you mean 'glmc'?"),
        ({"train": {"epochs": 1.5}}, "train.epochs should be a valid integer"),
        ({"trian": {"epochs": 1}}, "Unknown option 'trian'. Did you mean 'train'?"),
        ({"train": {"epohcs": 1, "lr": "x"}}, "Did you mean 'epochs'"),
        ({"options": {"augment": 3}}, "options of ce: augment should be a valid string"),
        ({"data": {"sorce": "x"}}, "Did you mean 'source'"),
        ({"train": {"devices": 2, "accelerator": "cuda"}}, "Cannot use 2 device"),
        ({"train": {"nesterov": True, "momentum": 0.0}}, "nesterov needs a momentum above 0"),
        ({"train": {"clip": float("inf")}}, "train.clip should be a finite number"),
        ({"data": {"mean": [0.5]}}, "mean and std belong together"),
        ({"data": {"mean": [127.0], "std": [0.3]}}, "mean and std are shares of full brightness"),
        ({"data": {"mean": [0.5], "std": [0.0]}}, "mean and std are shares of full brightness"),
        ({"method": "bce3s", "options": {"tau": True}}, "tau should be a valid number"),
        ({"method": "bce3s", "options": {"uniform_weight": float("nan")}}, "should be a finite number"),
        ({"method": "bce3s", "options": {"beta": 1.0}}, "beta should be less than 1"),
        ({"method": "glmc", "options": {"finetune": "maxnorm", "finetune_lr": -1.0}}, "finetune_lr should be greater"),
        ({"method": "bcl", "options": {"dim": 0}}, "dim should be greater than or equal to 1"),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    if torch.cuda.device_count() > 1:
        pytest.skip("has two devices")
    with pytest.raises(UsageError) as found:
        longtail.train(**{"method": "ce", "out": tmp_path / "run", **settings})
    assert message in str(found.value)
    assert not (tmp_path / "run").exists()
