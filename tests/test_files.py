"""No file is ever seen half-written."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from longtail.errors import LongtailError
from longtail.files import append_line, write_atomically, write_text


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
