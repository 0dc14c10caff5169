"""`longtail calibrate`, and what predicting makes of it."""

from __future__ import annotations

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import longtail as package
from longtail.data.sources import open_source
from longtail.engine.score import open_images
from longtail.errors import LongtailError, UsageError


@pytest.fixture
def run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture(scope="module")
def arrays():
    test = open_source("fashion-mnist-lt").test
    return [np.squeeze(test.read(i)) for i in range(0, 1000, 20)]


def test_probabilities_thresholds_and_rejection(run, arrays):
    """What is saved is what the held-out images give, and what predictions then follow."""
    found = package.calibrate(run, precision=0.7, reject=0.1)
    predictor = package.load(run)
    assert predictor.calibration == found
    assert found.split == "val"
    assert found.nll[1] < found.nll[0]

    images = open_images(run, split="val").images
    squares = [predictor.prepare(images.read(i)) for i in range(len(images))]
    logits = predictor.logits(squares)
    predictions = [p for _, p in predictor.stream(zip(images.labels.tolist(), squares, strict=True), top=10)]
    probabilities = (logits.double() / found.temperature).softmax(1)
    np.testing.assert_allclose([p.probability for p in predictions], probabilities.amax(1), rtol=1e-5)
    assert np.mean([not p.known for p in predictions]) == pytest.approx(found.none_of_these.rejected, abs=1e-3)
    assert 0.08 < found.none_of_these.rejected <= 0.1
    reached = [threshold for threshold in found.thresholds if threshold is not None]
    assert reached
    assert len(reached) < 10
    for name, c, threshold in zip(predictor.classes, range(10), found.thresholds, strict=True):
        accepted = np.array([name in p.accepted for p in predictions])
        if threshold is None:
            assert not accepted.any()
        else:
            right = accepted & (images.labels == c)
            assert threshold.precision >= 0.7
            assert right.sum() / accepted.sum() == pytest.approx(threshold.precision, abs=0.02)
            assert right.sum() / (images.labels == c).sum() == pytest.approx(threshold.recall, abs=0.02)
    assert predictor.predict(arrays[0])[0].known in (True, False)


def test_other_class_mixes(run, arrays, caplog):
    predictor = package.load(run)
    plain = predictor.predict(arrays, top=10)
    uniform = predictor.predict(arrays, top=10, prior="uniform")
    shares = dict(zip(predictor.classes, predictor.description.class_counts, strict=True))
    for before, after in zip(plain, uniform, strict=True):
        expected = {name: p / shares[name] for name, p in zip(before.labels, before.probabilities, strict=True)}
        total = sum(expected.values())
        for name, probability in zip(after.labels, after.probabilities, strict=True):
            assert probability == pytest.approx(expected[name] / total, rel=1e-4, abs=1e-7)
    # plain cross-entropy scores for the training mix
    for same in (predictor.predict(arrays, top=10, prior="train"), predictor.predict(arrays, top=10, prior=shares)):
        np.testing.assert_allclose([p.probabilities for p in same], [p.probabilities for p in plain], rtol=1e-5)
    with caplog.at_level("INFO", "longtail"):
        estimated = predictor.predict(arrays, top=10, prior="estimate")
    assert "Estimated class mix of these 50 images: " in caplog.text
    assert [p.labels for p in estimated] != [p.labels for p in plain]
    assert predictor.predict([], prior="estimate") == []


def test_a_mix_that_is_not_known(run, arrays):
    description = json.loads((run / "model.json").read_text())
    description["options"]["sampler"] = "balanced"
    (run / "model.json").write_text(json.dumps(description))
    with pytest.raises(UsageError, match=r"scores of 'ce' stand for is not known. .*longtail calibrate RUN"):
        package.load(run).predict(arrays, prior="uniform")
    package.calibrate(run)
    assert len(package.load(run).predict(arrays, prior="uniform")) == 50


def test_the_command_line(longtail, run, arrays, tmp_path):
    for i in range(3):
        Image.fromarray(np.full((40, 30), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
    images = [tmp_path / f"{i}.png" for i in range(3)]
    words = ("--recall", "0.5", "--reject", "0.05", "--unknown", images[0], "--prior", "uniform")
    code, out, err = longtail("calibrate", run, *words)
    assert code == 0, err
    assert "held out (val)" in out
    assert "Of 1 unknown images it turns away" in out
    assert "predict, export and serve use it" in out
    code, out, _ = longtail("predict", run, *images)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["path", "label_1", "probability_1", "accepted", "known"]
    assert {row["known"] for row in rows} <= {"yes", "no"}
    code, out, _ = longtail("predict", run, *images, "--format", "jsonl")
    line = json.loads(out.splitlines()[0])
    assert isinstance(line["accepted"], list)
    assert isinstance(line["known"], bool)
    code, out, err = longtail("predict", run, *images, "--prior", "train")
    assert (code, out) == (2, "")
    assert "calibrate RUN --prior MIX" in err
    (run / "calibration.json").unlink()
    code, out, err = longtail("predict", run, *images, "--prior", "estimate")
    assert code == 0
    assert "Estimated class mix of these 3 images" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"Cannot read the class mix '.*mix.csv': No such file"),
        ("class,share\nshirt,3\n", "has no share for 't-shirt/top' and 8 more"),
        ("{all}bird,0.1\n", "has a share for 'bird', which the model does not know"),
        ("{all}shirt,0.2\n", "names the class 'shirt' twice"),
        ("shirt;3\n", "expected lines of a class and its share, such as cat,0.3; found 'shirt;3'"),
        ("{none}", "not numbers from 0 up with a sum above 0"),
    ],
)
def test_mixes_that_cannot_be_read(trained_run, arrays, tmp_path, content, message):
    predictor = package.load(trained_run)
    path = tmp_path / "mix.csv"
    if content is not None:
        every, none = ("".join(f"{name},{share}\n" for name in predictor.classes) for share in (0.1, 0))
        path.write_text(content.replace("{all}", every).replace("{none}", none))
    with pytest.raises(UsageError, match=message):
        predictor.predict(arrays, prior=str(path))


def test_a_mix_from_a_file(trained_run, arrays, tmp_path):
    predictor = package.load(trained_run)
    path = tmp_path / "mix.csv"
    path.write_text("class,count\n" + "".join(f"{name},7\n" for name in predictor.classes))
    assert predictor.predict(arrays, prior=str(path)) == predictor.predict(arrays, prior="uniform")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"precision": 1.5}, "--precision is 1.5; expected a share between 0 and 1"),
        ({"precision": 0.9, "recall": 0.9}, "Give --precision or --recall"),
        ({"unknown": ["x"]}, "give --reject SHARE too"),
        ({"prior": "estimate"}, "give it to `longtail predict`"),
        ({"split": "vall"}, "has no split 'vall'; it has train, val, test"),
    ],
)
def test_requests_that_cannot_be_met(trained_run, words, message):
    with pytest.raises(UsageError, match=message):
        package.calibrate(trained_run, **words)
    assert not (trained_run / "calibration.json").exists()


def test_a_damaged_calibration(run):
    package.calibrate(run)
    found = json.loads((run / "calibration.json").read_text())
    (run / "calibration.json").write_text(json.dumps(found | {"prior": [0.5, 0.5]}))
    with pytest.raises(LongtailError, match="is of a model with 2 classes, not 10"):
        package.load(run)
    (run / "calibration.json").write_text("{")
    with pytest.raises(LongtailError, match=r"calibration.json is damaged: .*longtail calibrate"):
        package.load(run)


def test_a_loaded_run_is_a_module_of_images_alone(trained_run, arrays):
    """uint8 images of any size, and normalised ones, in training mode too: what a loop of one's own needs."""
    predictor = package.load(trained_run)
    assert isinstance(predictor, torch.nn.Module)
    assert not predictor.training
    images = torch.from_numpy(np.stack(arrays[:4]))[:, None]
    scores = predictor(images)
    torch.testing.assert_close(scores, predictor.logits(list(images)))
    torch.testing.assert_close(predictor(predictor.normalise(images)), scores)
    wide = np.asarray(Image.fromarray(arrays[0]).resize((90, 61)))
    found = predictor(torch.tensor(wide)[None, None])
    torch.testing.assert_close(found, predictor.logits([predictor.prepare(wide)]), rtol=0, atol=0.05)
    predictor.train()(images).sum().backward()
    assert all(value.grad is not None for value in predictor.parameters())
