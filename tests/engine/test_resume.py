"""A run that was stopped, however it was, ends as if it had not been."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import longtail
from longtail.engine.reporter import Reporter
from longtail.engine.run import Run
from longtail.errors import LongtailError, UsageError

# Of one image set, the plainest method; and two streams, two stages and averaged weights.
RUNS = {
    "ce": {"train": {"epochs": 4}},
    "glmc": {
        "train": {"epochs": 3, "ema": 0.9, "clip": 5.0},
        "options": {"finetune": "maxnorm", "finetune_epochs": 2},
    },
}
STEPS = 5  # an epoch's, of 20 images


def settings(method, photos):
    chosen = RUNS[method]
    # Spelt out, for the command lays rates for small sets under what it is not told.
    rates = {"lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine", "warmup_epochs": 0}
    train = {**rates, "batch_size": 4, "precision": "fp32", "accelerator": "cpu", **chosen["train"]}
    return {"data": str(photos), "backbone": "resnet8", "seed": 3, **chosen, "train": train}


@pytest.fixture(params=RUNS)
def uninterrupted(request, photos, tmp_path):
    longtail.train(request.param, out=tmp_path / "whole", **settings(request.param, photos))
    return request.param, tmp_path / "whole"


def assert_same(run, whole):
    weights, expected = load_file(run / "model.safetensors"), load_file(whole / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    records, wanted = ([json.loads(line) for line in (r / "metrics.jsonl").open()] for r in (run, whole))
    assert [(r["stage"], r["epoch"], r["lr"]) for r in records] == [(r["stage"], r["epoch"], r["lr"]) for r in wanted]
    assert [r["loss"] for r in records] == [pytest.approx(r["loss"], rel=1e-6) for r in wanted]
    scores, expected = (json.loads((r / "results.json").read_text()) for r in (run, whole))
    assert scores["metrics"] == expected["metrics"]
    assert not list(run.glob(".*.tmp"))


class StopAt(Reporter):
    """Calls `act` when step `at` of the whole run is done."""

    def __init__(self, at, act):
        self.left, self.act = at, act

    def advance(self, steps=1):
        self.left -= 1
        if self.left == 0:
            self.act()


def start(method, photos, out):
    """`longtail train` in a process of its own."""
    chosen = settings(method, photos)
    options = [f"train.{key}={value}" for key, value in chosen["train"].items()]
    options += [f"options.{key}={value}" for key, value in chosen.get("options", {}).items()]
    command = ["train", method, "--data", photos, "--backbone", "resnet8", "--seed", "3", "--out", out]
    command += [word for option in options for word in ("--set", option)]
    return subprocess.Popen(
        [sys.executable, "-c", "from longtail.cli import main; main()", *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # the order of sums depends on the number of threads
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def test_killed_process(photos, tmp_path):
    longtail.train("glmc", out=tmp_path / "whole", **settings("glmc", photos))
    run, delay = tmp_path / "run", random.uniform(0, 0.1)
    with start("glmc", photos, run) as process:
        wait_for(run / "last.ckpt", process)
        time.sleep(delay)
        process.kill()
    assert not (run / "results.json").exists(), f"too late to kill it: {delay:.3f} s after the first checkpoint"
    longtail.resume(run)
    assert_same(run, tmp_path / "whole")


def test_terminated_process_saves_and_says_how_to_go_on(photos, tmp_path):
    longtail.train("ce", out=tmp_path / "whole", **settings("ce", photos))
    run = tmp_path / "run"
    with start("ce", photos, run) as process:
        wait_for(run / "last.ckpt", process)
        process.terminate()
        message = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert message.count("\n") == 1
    assert f"Stopped by SIGTERM. Continue with: longtail train --resume {run}" in message
    longtail.resume(run)
    assert_same(run, tmp_path / "whole")


# in the middle of an epoch, at the last step of one, and in the second stage of GLMC
@pytest.mark.parametrize(
    ("number", "at"),
    [(signal.SIGINT, STEPS + 2), (signal.SIGTERM, 2 * STEPS), (signal.SIGTERM, 3 * STEPS + 2)],
)
def test_signal(uninterrupted, photos, tmp_path, number, at):
    method, whole = uninterrupted
    stop = StopAt(at, lambda: os.kill(os.getpid(), number))
    with pytest.raises(LongtailError, match=f"Stopped by {number.name}") as stopped:
        longtail.train(method, out=tmp_path / "run", reporter=stop, **settings(method, photos))
    assert stopped.value.exit_code == 128 + number
    longtail.resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)
    # a finished run stays as it is
    longtail.resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def _crash():
    raise RuntimeError("crash")


def test_stopped_again_and_again(uninterrupted, photos, tmp_path):
    method, whole = uninterrupted
    with pytest.raises(RuntimeError, match="crash"):
        longtail.train(method, out=tmp_path / "run", reporter=StopAt(STEPS + 3, _crash), **settings(method, photos))
    with pytest.raises(LongtailError):
        longtail.resume(tmp_path / "run", reporter=StopAt(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    # a line that the killed run wrote after its last checkpoint, and half of the next
    with (tmp_path / "run" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"stage": "train", "epoch": 1}\n{"stage": "tr')
    longtail.resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(("every", "saves"), [(0, 3 + 2 + 2), (math.inf, 1 + 2)])
def test_epochs_that_follow_fast_are_not_each_saved(photos, tmp_path, monkeypatch, every, saves):
    """The first epoch of a run is, and every stage."""
    saved = []
    monkeypatch.setattr("longtail.engine.trainer.SAVE_EVERY", every)
    monkeypatch.setattr(Run, "save_checkpoint", lambda self, state: saved.append(state["progress"]))
    longtail.train("glmc", out=tmp_path / "run", **settings("glmc", photos))
    assert len(saved) == saves
    assert (saved[0]["epoch"], saved[0]["finished"]) == (1, [])
    assert saved[-1]["finished"] == ["train", "maxnorm"]


def test_killed_before_the_first_checkpoint(photos, tmp_path):
    longtail.train("ce", out=tmp_path / "whole", **settings("ce", photos))
    run = Run(tmp_path / "run")
    run.create(Run(tmp_path / "whole").config())
    run.path.joinpath(".last.ckpt.tmp").write_bytes(b"half")
    run.metrics_file.write_text('{"stage": "train"')
    longtail.resume(run.path)
    assert_same(run.path, tmp_path / "whole")


@pytest.fixture
def stopped(photos, tmp_path):
    stop = StopAt(STEPS + 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(LongtailError):
        longtail.train("ce", out=tmp_path / "run", reporter=stop, **settings("ce", photos))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda photos: [(photos / s / "dog").rename(photos / s / "ape") for s in ("train", "test")], "labels hash"),
        (lambda photos: shutil.copytree(photos / "train/dog", photos / "train/emu"), "train images 20 then, 24 now"),
        (lambda photos: (photos / "test/dog/0.png").unlink(), "test images 6 then, 5 now"),
    ],
)
def test_images_that_have_changed_are_not_taken_for_those_trained_on(stopped, photos, tmp_path, change, message):
    longtail.train("ce", out=tmp_path / "whole", **settings("ce", photos))
    change(photos)
    for go_on in (lambda: longtail.resume(stopped), lambda: longtail.evaluate(tmp_path / "whole")):
        with pytest.raises(UsageError, match=rf"photos has changed since .* was begun: .*{message}"):
            go_on()


def test_one_training_at_a_time_in_a_folder(stopped, photos):
    with Run(stopped).claimed():
        for go_on in (lambda: longtail.resume(stopped), lambda: longtail.train("ce", out=stopped, data=photos)):
            with pytest.raises(UsageError, match="Another process is training in"):
                go_on()
    longtail.resume(stopped)
    assert not (stopped / ".lock").exists()


def test_checkpoint_of_another_method(stopped):
    with pytest.raises(UsageError, match=r"run is a run of 'ce', not of 'glmc'"):
        longtail.resume(stopped, method="glmc")
    config = stopped / "config.yaml"
    config.write_text(config.read_text().replace("method: ce", "method: balanced_softmax"))
    with pytest.raises(UsageError, match=r"last.ckpt is a checkpoint of 'ce', not of 'balanced_softmax'"):
        longtail.resume(stopped)


def test_checkpoint_of_another_backbone(stopped):
    config = stopped / "config.yaml"
    config.write_text(config.read_text().replace("resnet8", "resnet14"))
    with pytest.raises(UsageError, match=r"last.ckpt does not fit config.yaml"):
        longtail.resume(stopped)


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.parametrize("by", ["argument", "file"])
def test_a_finished_run_trains_on(photos, tmp_path, method, by):
    """As one epoch after another from the same weights, momentum and draws: only the learning rates are of the longer one."""
    chosen = settings(method, photos)
    chosen["train"] |= {"epochs": 2, "schedule": "constant"}
    chosen["options"] = {}
    longtail.train(method, out=tmp_path / "run", **chosen)
    if by == "argument":
        results = longtail.resume(tmp_path / "run", epochs=4)
    else:
        config = tmp_path / "run" / "config.yaml"
        config.write_text(config.read_text().replace("epochs: 2", "epochs: 4"))
        results = longtail.resume(tmp_path / "run")
    assert results["epochs"] == 4
    assert Run.open(tmp_path / "run").config().train.epochs == 4
    assert [record["epoch"] for record in Run(tmp_path / "run").metrics()] == [0, 1, 2, 3]
    if "ema" not in chosen["train"]:  # which end a stage with the averaged weights
        chosen["train"]["epochs"] = 4
        longtail.train(method, out=tmp_path / "whole", **chosen)
        assert_same(tmp_path / "run", tmp_path / "whole")


def test_training_on_is_stopped_and_resumed_too(photos, tmp_path):
    chosen = settings("ce", photos)
    longtail.train("ce", out=tmp_path / "run", **chosen)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    longtail.resume(tmp_path / "whole", epochs=6)
    with pytest.raises(LongtailError, match="Stopped by SIGTERM"):
        longtail.resume(
            tmp_path / "run", epochs=6, reporter=StopAt(STEPS + 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        )
    assert not (tmp_path / "run" / "results.json").exists()  # of the shorter one
    longtail.resume(tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_training_on_that_cannot_be(photos, tmp_path):
    chosen = settings("glmc", photos)
    longtail.train("glmc", out=tmp_path / "run", **chosen)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(
        UsageError, match=r"asks for 9 epochs of stage train, which ended after 3, and later stages .*--from"
    ):
        longtail.resume(tmp_path / "run", epochs=9)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    longtail.resume(tmp_path / "run")


def test_fewer_epochs_than_are_done(stopped):
    with pytest.raises(UsageError, match="is at epoch 1, step 2 of stage train, which has 1 epochs"):
        longtail.resume(stopped, epochs=1)
    longtail.resume(stopped, epochs=5)
    with pytest.raises(UsageError, match="has trained for 5 epochs in stage train, more than 3"):
        longtail.resume(stopped, epochs=3)
    assert Run(stopped).config().train.epochs == 5


def test_another_number_of_threads(stopped, monkeypatch, caplog):
    noted = json.loads((stopped / "environment.json").read_text())
    (stopped / "environment.json").write_text(json.dumps(noted | {"threads": 777}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with caplog.at_level("WARNING", "longtail"):
        longtail.resume(stopped)
    assert "begun with 777 threads and goes on with 1" in caplog.text
    assert "OMP_NUM_THREADS=777" in caplog.text


def test_the_number_of_threads_is_restored(stopped, monkeypatch):
    noted = json.loads((stopped / "environment.json").read_text())
    (stopped / "environment.json").write_text(json.dumps(noted | {"threads": 2}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("longtail.engine.checkpoint.cores", lambda: 2)
    try:
        longtail.resume(stopped)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# Rank 0 asks to stop; every process then saves its identities.
SHARED_IDENTITIES = """
import os, signal, sys
import longtail
from longtail.engine.reporter import Reporter

class StopAt(Reporter):
    def advance(self, steps=1):
        if sys.argv[1] == "stop":
            os.kill(os.getpid(), signal.SIGTERM)

data, out = sys.argv[2:]
if sys.argv[1] == "resume":
    longtail.resume(out)
else:
    train = {"epochs": 3, "batch_size": 8, "lr": 0.1, "devices": 2, "accelerator": "cpu", "precision": "fp32", "ema": 0.9}
    options = {"start_epoch": 1}
    data = {"source": data, "validation": 0.0}
    longtail.train(
        "cosface_epl", data=data, out=out, backbone="resnet8", train=train, options=options, reporter=StopAt()
    )
"""


@pytest.mark.slow
def test_processes_that_share_the_identities_resume(photos, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SHARED_IDENTITIES)

    def run(what, out):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, what, photos, out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert ("Stopped by SIGTERM" in done.stderr) == (what == "stop"), done.stderr
        assert (done.returncode == 0) == (what != "stop"), done.stderr

    run("whole", tmp_path / "whole")
    run("stop", tmp_path / "run")
    stopped = Run.open(tmp_path / "run").load_checkpoint()
    assert stopped["progress"]["epoch"] < 3
    assert len(stopped["method"]["head.weight"]) == 2
    run("resume", tmp_path / "run")
    assert_same(tmp_path / "run", tmp_path / "whole")
    resumed, whole = (Run.open(tmp_path / name).load_checkpoint()["method"] for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in ("head.weight", "head.prototypes"))
