"""Run folders in which something came to harm: one line and exit code 1 or 2, or the checkpoint before, and said so."""

from __future__ import annotations

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import longtail
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import LongtailError

STEPS = 5
TRAIN = {"epochs": 3, "batch_size": 4, "precision": "fp32", "accelerator": "cpu"}


class StopAt(Reporter):
    def __init__(self, at):
        self.left = at

    def advance(self, steps=1):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that was stopped in its second epoch, with the checkpoint of the first before it, and what it would come to."""
    from PIL import Image

    root = tmp_path_factory.mktemp("damaged")
    for split in ("train", "test"):
        for name, colour, count in (("cat", (200, 60, 60), 16), ("dog", (60, 60, 200), 4)):
            (root / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = tuple(part + i for part in colour)
                Image.new("RGB", (8, 8), pixels).save(root / "photos" / split / name / f"{i}.png")
    settings = {"data": str(root / "photos"), "backbone": "resnet8", "train": TRAIN}
    longtail.train("ce", out=root / "whole", **settings)
    with pytest.raises(LongtailError, match="Stopped by SIGTERM"):
        longtail.train("ce", out=root / "stopped", reporter=StopAt(STEPS + 2), **settings)
    return root


@pytest.fixture
def stopped(runs, tmp_path):
    return shutil.copytree(runs / "stopped", tmp_path / "run")


@pytest.fixture
def finished(runs, tmp_path):
    return shutil.copytree(runs / "whole", tmp_path / "finished")


def same_as_whole(run, runs):
    return (run / "model.safetensors").read_bytes() == (runs / "whole" / "model.safetensors").read_bytes()


def flip(path, place, bit=0):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)


def test_a_flipped_bit_never_gives_other_weights(runs, stopped, caplog):
    """Anywhere in the file: the last checkpoint is as it was, or the one before it is taken, which is said."""
    last = stopped / "last.ckpt"
    whole, state = last.read_bytes(), Run(stopped).load_checkpoint()
    random = np.random.default_rng(0)
    taken = 0
    for place in random.integers(0, len(whole), 60).tolist():
        last.write_bytes(whole)
        flip(last, place, int(random.integers(8)))
        caplog.clear()
        found = Run(stopped).load_checkpoint()
        if found["progress"] != state["progress"]:
            assert (found["progress"]["epoch"], found["progress"]["step"]) == (1, 0)
            assert "last.ckpt is damaged and cannot be read" in caplog.text
            assert "The checkpoint before it is taken instead, previous.ckpt" in caplog.text
            taken += 1
        else:
            assert all(torch.equal(found["method"][name], value) for name, value in state["method"].items())
    assert taken > 40


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(runs, stopped):
    flip(stopped / "last.ckpt", (stopped / "last.ckpt").stat().st_size // 2)
    longtail.resume(stopped)
    assert same_as_whole(stopped, runs)
    assert len(Run(stopped).metrics()) == 3


def test_the_good_checkpoint_outlives_saving_over_a_damaged_one(stopped):
    (stopped / "last.ckpt").write_bytes(b"")
    with pytest.raises(LongtailError, match="Stopped by SIGTERM"):
        longtail.resume(stopped, reporter=StopAt(1))
    for name in ("last.ckpt", "previous.ckpt"):
        assert torch.load(stopped / name, weights_only=True)["progress"]["epoch"] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), r"last.ckpt is damaged and cannot be read: .+\."),
        (lambda path: path.write_bytes(b""), "last.ckpt is damaged.* Restore it, or train anew"),
        (
            lambda path: flip(path, path.stat().st_size // 2),
            "last.ckpt is damaged and cannot be read: its part .* does not have its checksum",
        ),
        (lambda path: torch.save({"weights": torch.ones(2)}, path), "last.ckpt is not a checkpoint of this version"),
        (lambda path: torch.save([1], path), "last.ckpt is not a checkpoint of this version"),
    ],
)
def test_damaged_checkpoint_with_none_before_it(stopped, damage, message):
    (stopped / "previous.ckpt").unlink()
    damage(stopped / "last.ckpt")
    refused(stopped, message)


def refused(run, message, code=1, call=longtail.resume):
    with pytest.raises(LongtailError, match=message) as found:
        call(run)
    assert found.value.exit_code == code
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        ({"method": 5}, "its 'method' holds no weights", 1),
        ({"method": {"backbone": 5}}, "its 'method' holds no weights", 1),
        ({"method": {}}, "last.ckpt does not fit config.yaml", 2),
        ({"method": {"classifier.weight": torch.ones(3, 3)}}, "last.ckpt does not fit config.yaml", 2),
        ({"method_name": 7}, "is a checkpoint of '7'", 2),
        (
            {"progress": {"epoch": 99}},
            "is at epoch 99, step 0 of stage train, which has 3 epochs: was config.yaml changed",
            2,
        ),
        ({"progress": {"epoch": 3, "step": 1}}, "is at epoch 3, step 1", 2),
        ({"progress": {"step": 6}}, "is at epoch 0, step 6", 2),
        ({"progress": {"epoch": -5}}, "its 'progress' is none that a run can have made", 1),
        ({"progress": {"epoch": "x"}}, "its 'progress' is none", 1),
        ({"progress": {"epoch": 2**70}}, "its 'progress' is none", 1),
        ({"progress": {"finished": 5}}, "its 'progress' is none", 1),
        ({"progress": {"finished": [5]}}, "its 'progress' is none", 1),
        ({"progress": {"seconds": float("nan")}}, "its 'progress' is none", 1),
        ({"progress": {"totals": {"ce": "x"}}}, "its 'progress' is none", 1),
        ({"progress": {"best": {"test": 1}}}, "its 'progress' is none", 1),
        ({"progress": {"more": 1}}, "was written by another version", 2),
        ({"progress": 5}, "was written by another version", 2),
        ({"optimizer": {}}, "what it says of the optimiser does not fit", 1),
        ({"optimizer": 5}, "what it says of the optimiser does not fit", 1),
    ],
)
def test_checkpoints_that_nobody_wrote(stopped, change, message, code):
    path = stopped / "last.ckpt"
    (stopped / "previous.ckpt").unlink()
    torch.save(torch.load(path, weights_only=True) | change, path)
    refused(stopped, message, code)


def test_an_optimiser_of_other_weights(stopped):
    path = stopped / "last.ckpt"
    (stopped / "previous.ckpt").unlink()
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.ones(7)
    torch.save(state, path)
    refused(stopped, "what it says of the optimiser does not fit")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"data": 5}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"]
)
def test_environment(stopped, finished, text):
    for run, call in ((stopped, longtail.resume), (finished, longtail.evaluate)):
        (run / "environment.json").write_bytes(text.encode(errors="surrogateescape"))
        refused(run, r"environment.json is damaged.* Restore it, or remove it", call=call)


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b"{\n"])
def test_metrics(runs, stopped, line):
    (stopped / "metrics.jsonl").write_bytes(line)
    with pytest.raises(LongtailError, match=r"metrics.jsonl line 1 is damaged"):
        Run(stopped).metrics()
    longtail.resume(stopped)  # which only adds lines
    assert same_as_whole(stopped, runs)


@pytest.mark.parametrize(
    "text", ["method: 2020-99-99", "[]", "method: [ce]", "method: ce\ntrain: 5", "a: &a [*a]", "\0", "method: !!bool x"]
)
def test_config(stopped, text):
    (stopped / "config.yaml").write_text(text)
    refused(stopped, r"config.yaml|Unknown method '2020-99-99'", code=2)


def preprocessing(**changes):
    def rewrite(content):
        content["preprocessing"] |= changes
        return content

    return rewrite


@pytest.mark.parametrize(
    "rewrite",
    [
        preprocessing(std=[0.0, 0.1, 0.1]),
        preprocessing(std=[-0.1, 0.1, 0.1]),
        preprocessing(mean=[1e300, 0.5, 0.5]),
        preprocessing(mean=["NaN", 0.5, 0.5]),
        preprocessing(resize=200_000),
        preprocessing(image_size=2**70),
        preprocessing(value_range=[1]),
        lambda content: content | {"class_counts": [2**70, 1]},
        lambda content: content | {"class_counts": [-1, 1]},
        lambda content: content | {"format": "1" * 10_000},
        lambda content: content | {"preprocessing": []},
        lambda content: [content],
        lambda content: 5,
    ],
)
def test_model_description(finished, rewrite):
    path = finished / "model.json"
    path.write_text(json.dumps(rewrite(json.loads(path.read_text()))))
    refused(finished, r"model.json|The model in .* is damaged", call=longtail.load)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "", "\0"])
def test_model_description_that_is_no_json(finished, text):
    (finished / "model.json").write_text(text)
    refused(finished, r"model.json is damaged and cannot be read", call=longtail.load)


def test_weights_that_are_not_finite(finished):
    from safetensors.torch import load_file, save_file

    weights = load_file(finished / "model.safetensors")
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, finished / "model.safetensors")
    refused(finished, f"The model in .* is damaged: its weight '{name}' is not finite", call=longtail.load)


@pytest.mark.parametrize("content", ["{}", '{"data": {}}'])
def test_results_without_results(finished, content):
    (finished / "results.json").write_text(content)
    with pytest.raises(LongtailError, match=r"results.json is damaged: it holds no results\. .*--resume"):
        Run(finished).results()


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 5_000])
@pytest.mark.parametrize("name", ["environment.json", "evaluation-1.json"])
def test_reports_of_damaged_facts_end_in_one_line(finished, name, content):
    from longtail.report.run_report import write_report

    (finished / name).write_bytes(content)
    with pytest.raises(LongtailError, match=f"{name} is damaged"):
        write_report(finished)
