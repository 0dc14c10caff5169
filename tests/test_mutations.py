"""Files with some bytes changed, cut or repeated, in every reader: an error of ours or an answer, soon, and no other file."""

from __future__ import annotations

import pickle
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from longtail.config import Config, validate
from longtail.data.decode import decode, image_size
from longtail.data.recordio import RecordIO, write_recordio
from longtail.data.sources import open_source
from longtail.data.values import find_channels, find_range
from longtail.engine.description import read_description
from longtail.engine.run import Run
from longtail.errors import LongtailError
from longtail.faces.lists import read_bin
from longtail.plain_yaml import load_yaml

TRIES = 150
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's and numpy's remarks on what they read


def mutated(raw: bytes, random: np.random.Generator) -> bytes:
    out = bytearray(raw)
    kind = random.integers(4)
    at = int(random.integers(len(out)))
    if kind == 0:
        for place in random.integers(0, len(out), random.integers(1, 9)):
            out[place] = random.integers(256)
    elif kind == 1:
        del out[at:]
    elif kind == 2:
        out[at:at] = out[: int(random.integers(64))]
    else:
        out[at : at + 8] = random.choice([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])
    return bytes(out)


def images(folder: Path, kind: str) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    array = PIXELS[0] if kind != "TIFF" else PIXELS[0, ..., 0].astype(np.uint16) * 257
    Image.fromarray(array).save(folder / "image", kind, exif=exif)
    return folder / "image"


def read_image(path: Path) -> None:
    raw = path.read_bytes()
    for call in (lambda: decode(raw, 3), lambda: decode(raw, 1, (8, 8), (0, 99)), lambda: image_size(raw)):
        with suppress(LongtailError):
            call()


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", train_images=PIXELS, train_labels=np.arange(8) % 2, class_names=["a", "b"])
    return folder / "a.npz"


def cifar(folder: Path) -> Path:
    for i, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        content = {b"data": PIXELS.reshape(8, 3072), b"labels": [0, 1] * 4}
        (folder / name).write_bytes(pickle.dumps(content, i % 5))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, 2))
    return folder / "data_batch_3"


def read_source(path: Path) -> None:
    splits = open_source(str(path.parent if path.name.startswith("data_batch") else path))
    find_channels(splits.train)
    find_range(splits.train)
    splits.train.image(0, 3)


def bins(folder: Path) -> Path:
    (folder / "a.bin").write_bytes(pickle.dumps(([b"x" * 40] * 4, [np.bool_(True), False]), 2))
    return folder / "a.bin"


def records(folder: Path) -> Path:
    write_recordio(folder / "a.rec", [(bytes(30), i % 2) for i in range(6)])
    return folder / "a.rec"


def read_records(path: Path) -> None:
    found = RecordIO(path.with_suffix(".rec"))
    for i in range(len(found)):
        found.read(i)


def record_index(folder: Path) -> Path:
    return records(folder).with_suffix(".idx")


def config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(
        "method: ce\nseed: 3\ndata: {source: photos, mean: [0.5], std: [0.2]}\ntrain:\n  lr: 1e-1\n"
    )
    return folder / "config.yaml"


def model(folder: Path) -> Path:
    (folder / "model.json").write_text(
        '{"format": 1, "method": "ce", "options": {}, "backbone": "resnet8", "classes": ["a", "b"], "class_counts": [3, 2],'
        '"preprocessing": {"resize": 8, "image_size": 8, "channels": 1, "mean": [0.5], "std": [0.2]}, "parameters": 9}'
    )
    return folder / "model.json"


def checkpoint(folder: Path) -> Path:
    state = {"method_name": "ce", "method": {"w": torch.arange(64.0)}, "progress": {"epoch": 1}}
    Run(folder).save_checkpoint(state)
    return folder / "last.ckpt"


def read_checkpoint(path: Path) -> None:
    assert torch.equal(Run(path.parent).load_checkpoint()["method"]["w"], torch.arange(64.0))


READERS = {
    **{
        kind: (lambda folder, kind=kind: images(folder, kind), read_image)
        for kind in ("JPEG", "PNG", "TIFF", "WEBP", "GIF")
    },
    "npz": (npz, read_source),
    "cifar": (cifar, read_source),
    "bin": (bins, read_bin),
    "RecordIO": (records, read_records),
    "RecordIO index": (record_index, read_records),
    "YAML": (config, lambda path: validate(Config, load_yaml(path), "config")),
    "model.json": (model, lambda path: read_description(path.parent)),
    "checkpoint": (checkpoint, read_checkpoint),
    "metrics": (
        lambda folder: _write(folder / "metrics.jsonl", b'{"epoch": 0}\n{"epoch": 1}\n'),
        lambda p: Run(p.parent).metrics(),
    ),
    "environment": (
        lambda folder: _write(folder / "environment.json", b'{"data": {"a": 1}}'),
        lambda p: Run(p.parent).environment(),
    ),
}


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("reader", READERS)
def test_mutations(reader, tmp_path, monkeypatch):
    make, read = READERS[reader]
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path / "inside")
    raw, files = path.read_bytes(), sorted(tmp_path.rglob("*"))
    read(path)
    random = np.random.default_rng(list(READERS).index(reader))
    refused = 0
    for _ in range(TRIES):
        content = mutated(raw, random)
        path.write_bytes(content)
        began = time.process_time()
        try:
            read(path)
        except LongtailError:
            refused += 1
        assert time.process_time() - began < 5
    assert sorted(tmp_path.rglob("*")) == files
    assert refused or read is read_image  # the mutations do reach what is read
