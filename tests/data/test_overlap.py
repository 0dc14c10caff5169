"""What a training says of held-out images that are training images too."""

import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from source_files import png, write_images, write_parquet

from longtail.data import leaks
from longtail.data.images import ArraySet, Splits
from longtail.data.leaks import warn_of_overlap
from longtail.data.overlap import look_alikes
from longtail.data.sources import open_source


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SECONDS", 60)


def told(splits, caplog: pytest.LogCaptureFixture, channels: int = 3) -> list[str]:
    """What is said of copies byte for byte, and of copies to the eye."""
    caplog.clear()
    caplog.set_level("INFO", "longtail")
    warn_of_overlap(splits.train, {"test": splits.test}, channels)
    return [f"{record.levelname}: {record.message}" for record in caplog.records]


def test_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, *(f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(3)))
    assert told(open_source(str(tmp_path)), caplog) == [
        "INFO: no test image is a training image too, byte for byte (6 of 6 test images compared with 6 of 6)",
        "INFO: no test image looks like a training image (6 of 6 test images compared with 6 of 6)",
    ]
    (tmp_path / "test/b/1.png").write_bytes((tmp_path / "train/a/2.png").read_bytes())
    text, looks = told(open_source(str(tmp_path)), caplog)
    assert looks.startswith("INFO: no test image looks like")  # what is the same is said once
    assert text.startswith(f"WARNING: folder:{tmp_path} (test): 1 of its images are training images too, byte for byte")
    assert "first test/b/1.png, which is train/a/2.png" in text


def test_arrays_and_parquet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    arrays = {"train_images": images[:20], "train_labels": np.arange(20) % 2}
    np.savez(tmp_path / "a.npz", **arrays, test_images=images[18:], test_labels=np.arange(12) % 2)
    assert "2 of its images are training images too" in told(open_source(str(tmp_path / "a.npz")), caplog)[0]
    write_parquet(tmp_path / "p" / "train.parquet", [0, 1, 0, 1])
    write_parquet(tmp_path / "p" / "test.parquet", [0, 1])
    assert told(open_source(str(tmp_path / "p")), caplog)[0].startswith("INFO: no test image is a training image")
    assert "4 of 4 images have" not in caplog.text


def test_what_is_looked_at_is_bounded_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SAMPLE", 20), ("CANDIDATES", 500), ("BYTES", 1600), ("SECONDS", 0)):
        monkeypatch.setattr(leaks, name, value)
    images = np.arange(2000 * 16, dtype=np.uint32).view(np.uint8).reshape(8000, 4, 4)
    reads: list[int] = []

    class Counted(ArraySet):
        def read(self, i: int) -> np.ndarray:
            reads.append(i)
            return super().read(i)

    train = Counted("train", "ab", np.arange(4000) % 2, images[:4000], "train")
    test = Counted("test", "ab", np.arange(4000) % 2, images[4000:], "test")
    caplog.set_level("INFO", "longtail")
    warn_of_overlap(train, {"test": test}, 1)
    assert "(20 of 4,000 test images compared with 100 of 4,000)" in caplog.text
    assert len(reads) == 120


def test_only_training_files_of_a_test_files_size_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png")
    for i in range(50):
        (tmp_path / f"train/a/{i + 1}.png").write_bytes(png() + bytes(1000 + i))
    splits = open_source(str(tmp_path))
    monkeypatch.setattr(leaks, "SECONDS", 0)
    reads: list[int] = []
    read = type(splits.train).read
    monkeypatch.setattr(type(splits.train), "read", lambda self, i: reads.append(i) or read(self, i))
    assert "2 of 2 test images compared with 52 of 52" in told(splits, caplog)[0]
    assert len(reads) <= 4


@pytest.mark.parametrize("how", ["saved anew", "halved", "brighter", "PNG"])
def test_copies_to_the_eye(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Photographs of which three test images are training images in another file."""
    shutil.copytree(Path(__file__).parent / "clothing", tmp_path / "set")
    folder = tmp_path / "set" / "test" / "hat"
    for n, path in enumerate(sorted((tmp_path / "set" / "train" / "hat").iterdir())[:3]):
        with Image.open(path) as image:
            image.load()
        if how == "halved":
            image = image.resize((image.width // 2, image.height // 2))
        elif how == "brighter":
            image = image.point(lambda value: min(255, value + 20))
        image.save(folder / f"copy{n}.{'png' if how == 'PNG' else 'jpg'}", **({} if how == "PNG" else {"quality": 40}))
    same, looks = told(open_source(str(tmp_path / "set")), caplog)
    assert same.startswith("INFO")
    assert looks.startswith(f"WARNING: folder:{tmp_path}/set (test): 3 of its images look like training images")
    assert "first test/hat/copy" in looks


def test_garments_and_photographs_cry_no_wolf(caplog: pytest.LogCaptureFixture) -> None:
    for source, channels in (("fashion-mnist-lt", 1), (str(Path(__file__).parent / "clothing"), 3)):
        assert "INFO: no test image looks like a training image" in told(open_source(source), caplog, channels)[1]


def test_few_copies_among_many_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    splits = open_source("fashion-mnist-lt")
    test = ArraySet("test", splits.test.class_names, splits.test.labels, splits.test.images.copy(), "test")
    test.images[7] = splits.train.images[np.flatnonzero(splits.train.labels == test.labels[7])[0]] // 8 * 8
    looks = told(Splits(splits.train, test), caplog, 1)[1]
    assert looks.startswith("INFO: test: 1 of its images looks like training images (1,000 of 1,000")
    assert "first test#7 and train#" in looks


def test_looking_ends_in_time(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(leaks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(leaks, "SECONDS", 20)  # looks at the clock, between which 32 images are decoded
    images = np.random.default_rng(0).integers(0, 256, (3000, 4, 4), dtype=np.uint8)
    train, test = (
        ArraySet(name, "ab", np.arange(3000) % 2, images[::step], name) for name, step in (("x", 1), ("y", -1))
    )
    assert "(200 of 3,000 test images compared with 416 of 3,000)" in told(Splits(train, test), caplog)[1]


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
