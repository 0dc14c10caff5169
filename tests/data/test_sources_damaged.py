"""Damaged files of every kind end in one line, in bounded time and memory: seeded mutations of small good ones."""

import random
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_files import png, write_images, write_parquet
from test_sources_forms import coco, write_tar

from longtail.data.recordio import RecordIO
from longtail.data.sources import open_source
from longtail.errors import LongtailError, UsageError
from longtail.faces.lists import read_bin, read_ijb, read_lfw_pairs

SECONDS = 0.8  # of mutations, of each kind

# what is put into texts: signs that mean something to a reader, and what is none
_SNIPPETS = [
    b",", b";", b"\t", b'"', b"\n", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"-", b"--5", b"nan",
    b"9" * 5000, b"1e999", b"0x10", b"|", b"\\", b"/", b"../", b"[", b"{", b"]", b"}", b"null", b"true", b"[" * 3000, b":", b" ",
    b"\x1b[31m", b"1_0", b"-1", b"-2", b"9223372036854775808", b"label", b"split", b"train", b"x" * 300_000,
]  # fmt: skip


def mutate(raw: bytes, rng: random.Random) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del data[at : at + rng.choice((1, 4, 40, len(data)))]
        elif kind == 3:
            data[at:at] = rng.choice(_SNIPPETS)
        elif kind == 4:
            data[at : at + rng.randrange(1, 5)] = rng.choice(_SNIPPETS)
        else:
            data[at:at] = data[at : at + rng.randrange(1, 60)]
    return bytes(data)


def _csv(root: Path) -> Path:
    (root / "t.csv").write_text("image,label,split\n" + "".join(f"{i}.png,c{i % 2},train\n" for i in range(4)))
    return root / "t.csv"


def _numbered_csv(root: Path) -> Path:
    (root / "t.csv").write_text("id;x;y\n" + "".join(f"{i}.png;{i % 2};{1 - i % 2}\n" for i in range(4)))
    return root / "t.csv"


def _list(root: Path) -> Path:
    (root / "t.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(4)))
    return root / "t.txt"


def _comma_list(root: Path) -> Path:
    (root / "t.txt").write_text("".join(f"{i}.png, {i % 2}, 0\n" for i in range(4)))
    return root / "t.txt"


def _coco(root: Path) -> Path:
    import json

    write_images(root, "a.png", "b.png", "c.png")
    (root / "t.json").write_text(json.dumps(coco()))
    return root / "t.json"


def _npz(root: Path) -> Path:
    images = np.zeros((4, 3, 3), np.uint8)
    arrays = {"train_images": images, "train_labels": [0, 1, 0, 1], "class_names": ["a", "b"]}
    np.savez(root / "a.npz", **arrays, test_images=images, test_labels=[[0], [1], [0], [1]])
    return root / "a.npz"


def _parquet(root: Path) -> Path:
    write_parquet(root / "a.parquet", [0, 1, 0, 1], ["a", "b"], split=["train", "train", "test", "test"])
    return root / "a.parquet"


def _text_parquet(root: Path) -> Path:
    write_parquet(root / "a.parquet", ["a", "b", "a", "c"])
    return root / "a.parquet"


def _tar(root: Path) -> Path:
    write_tar(root / "a.tar", {f"{i}.{s}": c for i in range(3) for s, c in (("png", png()), ("cls", b"%d" % (i % 2)))})
    return root / "a.tar"


def _zip(root: Path) -> Path:
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png"):
            archive.writestr(name, png())
    return root / "a.zip"


MAKERS: list[Callable[[Path], Path]] = [
    _csv, _numbered_csv, _list, _comma_list, _coco, _npz, _parquet, _text_parquet, _tar, _zip
]  # fmt: skip


def survive(path: Path, use: Callable[[], object], seed: int) -> None:
    """Damage `path` in many ways; `use` must end well or in one clear message, each time."""
    raw, rng = path.read_bytes(), random.Random(seed)
    use()
    tracemalloc.start()
    try:
        end = time.perf_counter() + SECONDS
        tried = refused = 0
        while time.perf_counter() < end:
            path.write_bytes(mutate(raw, rng))
            tried += 1
            start = time.perf_counter()
            try:
                use()
                message = "read to the end"
            except LongtailError as error:
                refused += 1
                message = str(error)
            assert 10 < len(message) < 1200, message[:2000]
            assert time.perf_counter() - start < 20
        assert tracemalloc.get_traced_memory()[1] < 300e6
        assert tried > 10
        assert refused > 0
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_sources(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    write_images(tmp_path, *(f"{i}.png" for i in range(4)))
    path = make(tmp_path)

    def use() -> None:
        for images in open_source(str(path)).named().values():
            for i in range(len(images)):
                images.key(i)
                images.image(i, 3)

    survive(path, use, seed=1)


def test_recordio_index(tmp_path: Path) -> None:
    import struct

    records, index = b"", ""
    for key in range(3):
        data = struct.pack("<IfQQ", 0, key % 2, key, 0) + png()
        index += f"{key}\t{len(records)}\n"
        records += struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)
    (tmp_path / "a.rec").write_bytes(records)
    (tmp_path / "a.idx").write_text(index)

    def use() -> None:
        images = RecordIO(tmp_path / "a.rec")
        for i in range(len(images)):
            images.image(i, 3)

    survive(tmp_path / "a.rec", use, seed=2)
    (tmp_path / "a.rec").write_bytes(records)
    survive(tmp_path / "a.idx", use, seed=3)


def test_lists_of_pairs(tmp_path: Path) -> None:
    import pickle

    names = ["Ann_0001", "Ann_0002", "Bo_0001"]
    (tmp_path / "pairs.txt").write_text("1 1\nAnn\t1\t2\nAnn\t1\tBo\t1\n")
    survive(tmp_path / "pairs.txt", lambda: read_lfw_pairs(tmp_path / "pairs.txt", names), seed=4)
    (tmp_path / "tid").write_text("1.jpg 1 1\n2.jpg 2 1\n")
    (tmp_path / "pair").write_text("1 2 0\n1 1 1\n")
    survive(tmp_path / "tid", lambda: read_ijb(tmp_path / "tid", tmp_path / "pair"), seed=5)
    (tmp_path / "tid").write_text("1.jpg 1 1\n2.jpg 2 1\n")
    survive(tmp_path / "pair", lambda: read_ijb(tmp_path / "tid", tmp_path / "pair"), seed=6)
    (tmp_path / "a.bin").write_bytes(pickle.dumps(([png()] * 40, [True, False] * 10), 2))
    survive(tmp_path / "a.bin", lambda: read_bin(tmp_path / "a.bin"), seed=7)


@pytest.mark.parametrize("what", ["deep key", "shared key", "set"])
def test_pickles_that_would_overflow_the_stack_or_never_end(tmp_path: Path, what: str) -> None:
    """What Python hashes, it descends into: 200,000 tuples in each other, or 60 of which each holds the last twice."""
    key = {
        "deep key": b")" + b"\x85" * 200_000,
        "shared key": b")" + b"2\x86" * 60,
        "set": b"\x8f(" + b")" + b"\x85" * 9 + b"\x90",
    }
    raw = b"\x80\x04" + (key["set"] if what == "set" else b"}" + key[what] + b"K\x01s") + b"."
    (tmp_path / "batches.meta").write_bytes(raw)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"a key of type tuple, not a name|it holds a set"):
        open_source(f"cifar10:{tmp_path}")
    assert time.monotonic() - began < 10
