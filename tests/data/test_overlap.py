"""What a training says of held-out images that are training images too."""

from pathlib import Path

import numpy as np
import pytest
from source_files import png, write_images, write_parquet

from longtail.data import overlap
from longtail.data.images import ArraySet
from longtail.data.overlap import look_alikes, warn_of_overlap
from longtail.data.sources import open_source


def told(splits, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    caplog.set_level("INFO", "longtail")
    warn_of_overlap(splits.train, {"test": splits.test})
    (record,) = caplog.records
    return f"{record.levelname}: {record.message}"


def test_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(3)))
    assert told(open_source(str(tmp_path)), caplog) == (
        "INFO: no test image is a training image too, byte for byte (6 of 6 test images compared with 6 of 6)"
    )
    (tmp_path / "test/b/1.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    text = told(open_source(str(tmp_path)), caplog)
    assert text.startswith(f"WARNING: folder:{tmp_path} (test): 1 of its images are training images too, byte for byte")
    assert "first test/b/1.png, which is train/a/2.png" in text


def test_arrays_and_parquet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    arrays = {"train_images": images[:20], "train_labels": np.arange(20) % 2}
    np.savez(tmp_path / "a.npz", **arrays, test_images=images[18:], test_labels=np.arange(12) % 2)
    assert "2 of its images are training images too" in told(open_source(str(tmp_path / "a.npz")), caplog)
    write_parquet(tmp_path / "p" / "train.parquet", [0, 1, 0, 1])
    write_parquet(tmp_path / "p" / "test.parquet", [0, 1])
    assert told(open_source(str(tmp_path / "p")), caplog).startswith("INFO: no test image is a training image")
    assert "4 of 4 images have" not in caplog.text


def test_what_is_looked_at_is_bounded_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SAMPLE", 20), ("CANDIDATES", 500), ("BYTES", 1600)):
        monkeypatch.setattr(overlap, name, value)
    images = np.arange(2000 * 16, dtype=np.uint32).view(np.uint8).reshape(8000, 4, 4)
    reads: list[int] = []

    class Counted(ArraySet):
        def read(self, i: int) -> np.ndarray:
            reads.append(i)
            return super().read(i)

    train = Counted("train", "ab", np.arange(4000) % 2, images[:4000], "train")
    test = Counted("test", "ab", np.arange(4000) % 2, images[4000:], "test")
    caplog.set_level("INFO", "longtail")
    warn_of_overlap(train, {"test": test})
    assert "(20 of 4,000 test images compared with 100 of 4,000)" in caplog.text
    assert len(reads) == 120


def test_only_training_files_of_a_test_files_size_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
    for i in range(50):
        (tmp_path / f"train/a/{i + 1}.png").write_bytes(png() + bytes(1000 + i))
    splits = open_source(str(tmp_path))
    reads: list[int] = []
    read = type(splits.train).read
    monkeypatch.setattr(type(splits.train), "read", lambda self, i: reads.append(i) or read(self, i))
    assert "2 of 2 test images compared with 52 of 52" in told(splits, caplog)
    assert len(reads) <= 4


def test_look_alikes_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2100, 256)).astype(np.float32)
    first -= first.mean(axis=1, keepdims=True)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.concatenate([rng.normal(size=(30, 256)), first[[5, 2000]] + 0.01 * rng.normal(size=(2, 256))])
    second -= second.mean(axis=1, keepdims=True)
    second = (second / np.linalg.norm(second, axis=1, keepdims=True)).astype(np.float32)
    assert look_alikes(first, second).tolist() == [[5, 30], [2000, 31]]
    assert look_alikes(first).tolist() == []
    assert look_alikes(np.concatenate([first, second[30:]])).tolist() == [[5, 2100], [2000, 2101]]
    assert look_alikes(np.zeros((20, 256), np.float32)).tolist() == []  # blank images are not told apart
