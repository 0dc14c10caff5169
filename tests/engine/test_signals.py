"""Signals to a whole group of processes, and processes that end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import longtail
from longtail.engine.reporter import Reporter
from longtail.engine.signals import StopRequest
from longtail.errors import LongtailError

STREAMING = {"loader": "streaming", "workers": 2, "image_size": 16}
TRAIN = {"epochs": 500, "batch_size": 4, "precision": "fp32", "accelerator": "cpu"}
SCRIPT = """
import sys, longtail
from longtail.cli import run
data = {"source": sys.argv[1], "loader": "streaming", "workers": 2, "image_size": 16}
train = {"epochs": 500, "batch_size": 4, "precision": "fp32", "accelerator": "cpu"}
run(lambda: longtail.train("ce", data=data, out=sys.argv[2], backbone="resnet8", train=train))
"""


def test_sigterm_to_all_processes_of_a_run(photos, tmp_path):
    """As `timeout`, systemd and SLURM send it: the workers live until the state is saved."""
    command = [sys.executable, "-c", SCRIPT, str(photos), str(tmp_path / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        while not (tmp_path / "run" / "last.ckpt").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGTERM)
        message = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    assert message.count("\n") == 2, "beside the warning of images that are in both splits"
    assert "Stopped by SIGTERM. Continue with: longtail train --resume" in message
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left


class At(Reporter):
    def __init__(self, step, act):
        self.left, self.act = step, act

    def advance(self, steps=1):
        self.left -= 1
        if self.left == 0:
            self.act()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_other_signals_that_stop_a_run(photos, tmp_path, name):
    number = getattr(signal, name)
    stop = At(7, lambda: os.kill(os.getpid(), number))
    with pytest.raises(LongtailError, match=f"Stopped by {name}") as stopped:
        longtail.train("ce", data=str(photos), out=tmp_path / "run", backbone="resnet8", train=TRAIN, reporter=stop)
    assert stopped.value.exit_code == 128 + number
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_a_worker_that_ends_by_itself(photos, tmp_path):
    def kill_one():
        with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
            os.kill(int(children.read().split()[-1]), signal.SIGKILL)

    if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        pytest.skip("needs Linux")
    data = STREAMING | {"source": str(photos)}
    with pytest.raises(
        LongtailError, match=r"A process that reads images ended by itself: .*fewer data.workers.*--resume"
    ):
        longtail.train("ce", data=data, out=tmp_path / "run", backbone="resnet8", train=TRAIN, reporter=At(7, kill_one))


LONG_CALL = """
import hashlib, os, signal, sys
from longtail.engine.signals import StopRequest
with StopRequest():
    print("in", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in which Python does not look at signals
"""


def test_ctrl_c_in_a_long_step_is_answered_and_the_second_ends_it():
    with subprocess.Popen(
        [sys.executable, "-c", LONG_CALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "in\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        assert process.stderr.readline().startswith("Stopping after this step, to save. Ctrl-C again ends at once")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 128 + signal.SIGINT


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1
