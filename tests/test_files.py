"""No file is ever seen half-written."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from longtail.engine.predictor import Prediction
from longtail.errors import LongtailError
from longtail.files import append_line, open_regular, read_text, write_atomically, write_text
from longtail.predictions import write_predictions


def _full(path):
    path.write_text("half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_for_torch(path):
    path.write_text("half")
    raise RuntimeError("PytorchStreamWriter failed writing file: file write failed")


@pytest.mark.parametrize(("write", "reason"), [(_full, "No space left on device"), (_full_for_torch, "write failed")])
def test_a_full_disk_leaves_the_old_file(tmp_path, write, reason):
    path = tmp_path / "last.ckpt"
    write_atomically(path, lambda temporary: torch.save(1, temporary))
    with pytest.raises(LongtailError, match=f"Cannot write {path}: .*{reason}.* choose another --out") as found:
        write_atomically(path, write)
    assert found.value.exit_code == 1
    assert torch.load(path) == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_what_a_stopped_run_left_is_removed_or_overwritten(tmp_path):
    def killed(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", killed)
    assert not list(tmp_path.iterdir())
    (tmp_path / ".a.tmp").write_text("half")  # kill -9
    write_text(tmp_path / "a", "whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "whole"}


def test_lines_are_added_and_a_refusal_is_told(tmp_path):
    for number in (1, 2):
        append_line(tmp_path / "new" / "lines.jsonl", {"number": number})
    assert (tmp_path / "new" / "lines.jsonl").read_text() == '{"number": 1}\n{"number": 2}\n'
    with pytest.raises(LongtailError, match=r"Cannot write .*Is a directory"):
        append_line(tmp_path / "new", {})


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    for name, reason in (
        ("pipe", "no regular file"),
        ("zero", "no regular file"),
        (".", "directory"),
        ("none", "No such"),
    ):
        with pytest.raises(OSError, match=reason):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="NUL"):
        open_regular("a\0b")
    assert read_text(tmp_path / "link") == "text"


def test_links_are_written_through_and_devices_are_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LongtailError, match=r"Cannot write .*pipe: it is no regular file"):
        write_text(tmp_path / "pipe", "text")
    (tmp_path / "outside").write_text("mine")
    (tmp_path / ".file.tmp").symlink_to("outside")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "outside").read_text() == "mine"


def test_predictions_into_a_fifo_a_device_and_a_link(tmp_path):
    found = [(Path("a.png"), Prediction(("cat",), (1.0,)))]
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        text = pool.submit((tmp_path / "pipe").read_text)
        assert write_predictions(found, "csv", 1, tmp_path / "pipe") == 1
        assert text.result(timeout=20).splitlines()[1] == "a.png,cat,1.000000"
    (tmp_path / "null").symlink_to("/dev/null")
    assert write_predictions(found, "csv", 1, tmp_path / "null") == 1
    assert (tmp_path / "null").is_symlink()
    assert not os.path.isfile("/dev/null")
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]
