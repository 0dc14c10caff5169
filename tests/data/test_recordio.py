from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from longtail.data.decode import CorruptImage
from longtail.data.recordio import RecordIO, write_recordio
from longtail.errors import LongtailError, UsageError

MAGIC = bytes.fromhex("0a23d7ce")
IMAGES = [(b"one", 7), (b"four", 3), (b"a longer one", 7), (b"", 900_000)]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    path = tmp_path / "train.rec"
    write_recordio(path, IMAGES)
    return path


def test_images_come_back_in_any_order_with_identities_as_classes(rec):
    images = RecordIO(rec)
    assert images.class_names == ("3", "7", "900000")
    assert images.labels.tolist() == [1, 0, 1, 2]
    assert images.labels.dtype == np.int64
    for i in (2, 0, 3, 1, 2):
        assert images.read(i) == IMAGES[i][0]
    assert [images.key(i) for i in range(4)] == [f"train.rec#{i}" for i in range(1, 5)]
    assert images.select([2]).read(0) == b"a longer one"


def test_a_file_put_together_by_hand(tmp_path):
    """The bytes that MXNet's documentation of the format describes, without our writer."""
    plain = struct.pack("<IfQQ", 0, 5.0, 0, 0) + b"\xff\xd8jpeg"
    listed = struct.pack("<IfQQ", 2, 0.0, 1, 0) + struct.pack("<ff", 4.0, 1.0) + b"\xff\xd8"
    first = MAGIC + struct.pack("<I", len(plain)) + plain + b"\0\0"
    second = MAGIC + struct.pack("<I", len(listed)) + listed + b"\0\0"
    (tmp_path / "a.rec").write_bytes(first + second)
    (tmp_path / "a.idx").write_text(f"0\t0\n1\t{len(first)}\n")
    images = RecordIO(tmp_path / "a.rec")
    assert images.class_names == ("4", "5")
    assert images.labels.tolist() == [1, 0]
    assert images.read(0) == b"\xff\xd8jpeg"
    assert images.read(1) == b"\xff\xd8"


@pytest.mark.parametrize(
    "data", [MAGIC, b"1234" + MAGIC + b"56", MAGIC * 3 + b"x", b"1" + MAGIC + b"23", b"12345678" + MAGIC]
)
def test_data_that_holds_the_magic_number(tmp_path, data):
    write_recordio(tmp_path / "a.rec", [(data, 0), (b"next", 0)])
    images = RecordIO(tmp_path / "a.rec")
    assert images.read(0) == data
    assert images.read(1) == b"next"


def test_parts_of_a_record_put_together_by_hand(tmp_path):
    head = struct.pack("<IfQQ", 0, 0.0, 0, 0)
    parts = (
        MAGIC + struct.pack("<I", 1 << 29 | 28) + head + b"ab12"
        + MAGIC + struct.pack("<I", 2 << 29 | 4) + b"cd34"
        + MAGIC + struct.pack("<I", 3 << 29 | 3) + b"ef5\0"
    )  # fmt: skip
    (tmp_path / "a.rec").write_bytes(parts)
    (tmp_path / "a.idx").write_text("0\t0\n")
    assert RecordIO(tmp_path / "a.rec").read(0) == b"ab12" + MAGIC + b"cd34" + MAGIC + b"ef5"


def _offsets(rec: Path) -> list[int]:
    return [int(line.split("\t")[1]) for line in rec.with_suffix(".idx").read_text().splitlines()]


def test_a_corrupt_record_is_named(rec):
    write_recordio(rec, [(b"1234" + MAGIC + b"5678", 0), (b"fine", 0)])
    data = bytearray(rec.read_bytes())
    offset = _offsets(rec)[1]
    second_part = offset + 8 + 24 + 4
    data[second_part] ^= 0xFF
    rec.write_bytes(data)
    images = RecordIO(rec)
    with pytest.raises(
        LongtailError, match=f"record 1 at byte {offset} is corrupt: its parts do not follow each other"
    ):
        images.read(0)
    assert images.read(1) == b"fine"


def test_a_record_that_shrank_after_opening_is_named(rec):
    images = RecordIO(rec)
    rec.write_bytes(rec.read_bytes()[: _offsets(rec)[3] + 20])
    with pytest.raises(LongtailError, match=r"record 3 at byte .* the file ends within it"):
        images.read(2)


def test_a_record_shorter_than_its_header(tmp_path):
    record = struct.pack("<IfQQ", 0, 0.0, 0, 0)[:20]
    (tmp_path / "a.rec").write_bytes(MAGIC + struct.pack("<I", 20) + record + bytes(20))
    (tmp_path / "a.idx").write_text("0\t0\n")
    with pytest.raises(LongtailError, match=r"record 0 at byte 0 is corrupt"):
        RecordIO(tmp_path / "a.rec").read(0)


def test_a_record_past_the_end_of_a_file_that_was_cut_short(rec):
    last = _offsets(rec)[4]
    rec.write_bytes(rec.read_bytes()[: last + 10])
    with pytest.raises(UsageError, match=r"puts record 4 at byte .* but the file ends at byte"):
        RecordIO(rec)


def test_a_record_longer_than_the_file(rec):
    data = bytearray(rec.read_bytes())
    offset = _offsets(rec)[2]
    data[offset + 4 : offset + 8] = struct.pack("<I", 10_000)
    rec.write_bytes(data)
    with pytest.raises(UsageError, match=f"record 2 at byte {offset} would end at byte .* copy it again"):
        RecordIO(rec)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0\t0\n1\t4\n", "disagrees with .*record 1 at byte 4, but no record begins there"),
        ("0\t0\n1\t-8\n", "disagrees with .*record 1 at byte -8"),
        ("0\t0\n1\t999999\n", "disagrees with .*record 1 at byte 999,999, but the file ends at byte"),
        (f"0\t0\n1\t{2**63 - 1}\n", "disagrees with .*record 1 at byte 9,223,372,036,854,775,807"),
        (f"0\t0\n1\t{-(2**63)}\n", "disagrees with .*record 1 at byte -9,223,372,036,854,775,808"),
        (f"0\t0\n1\t{2**63}\n", "train.idx: expected lines"),
        (f"0\t0\n1\t{'9' * 5000}\n", "train.idx: expected lines"),
        ("0\t0\n1\tx\n", "train.idx: expected lines 'key<tab>offset'.*'x'.*row 1"),
        ("0\n", "train.idx: expected lines"),
        ("0\t0\n0\t44\n", "key 0 has 2 lines"),
        ("0\t0\n", "record 0 announces 4 images, but .*train.idx lacks 4"),
        ("", "train.idx is missing or empty"),
    ],
)
def test_an_index_that_disagrees(rec, lines, message):
    rec.with_suffix(".idx").write_text(lines)
    with pytest.raises(UsageError, match=message):
        RecordIO(rec)


def test_missing_files_and_labels_that_are_no_identity(tmp_path, rec):
    with pytest.raises(UsageError, match=r"absent.rec is missing"):
        RecordIO(tmp_path / "absent.rec")
    data = bytearray(rec.read_bytes())
    data[_offsets(rec)[2] + 12 : _offsets(rec)[2] + 16] = struct.pack("<f", 0.5)
    rec.write_bytes(data)
    with pytest.raises(UsageError, match=r"record 2 has label 0.5"):
        RecordIO(rec)
    rec.with_suffix(".idx").unlink()
    with pytest.raises(UsageError, match=r"train.idx is missing"):
        RecordIO(rec)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -float("inf"), 0.0, -3.0, 2.5, 1e30])
def test_a_count_of_images_that_is_none(rec, count):
    data = bytearray(rec.read_bytes())
    data[8 + 24 : 8 + 28] = struct.pack("<f", count)
    rec.write_bytes(data)
    with pytest.raises(UsageError, match=r"record 0 announces .* images"):
        RecordIO(rec)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), 1e30, -1.0])
def test_identities_that_are_none(rec, label):
    data = bytearray(rec.read_bytes())
    data[_offsets(rec)[2] + 12 : _offsets(rec)[2] + 16] = struct.pack("<f", label)
    rec.write_bytes(data)
    with pytest.raises(UsageError, match=r"record 2 has label .*Expected an identity's number"):
        RecordIO(rec)


def test_a_record_with_broken_part_flags_can_be_skipped(rec):
    data = bytearray(rec.read_bytes())
    data[_offsets(rec)[1] + 7] |= 2 << 5  # a middle part
    rec.write_bytes(data)
    with pytest.raises(CorruptImage, match=r"cannot read image train.rec#1: record 1 at byte 40 is corrupt: its parts"):
        RecordIO(rec).image(0, 3)
