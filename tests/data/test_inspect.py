import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from longtail.data.images import ArraySet, Splits
from longtail.data.inspect import Inspection, inspect_source
from longtail.data.sources import open_source
from longtail.report.inspection import render, save_curve

rng = np.random.default_rng(0)


def write(path: Path, height: int, width: int, kind: str = "PNG") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, kind)
    path.write_bytes(file.getvalue())
    return file.getvalue()


@pytest.fixture
def inspection(tmp_path: Path) -> Inspection:
    """21 + 4 training images, 4 test images, with every kind of problem."""
    for i in range(20):
        first = write(tmp_path / f"train/cat[1]/{i:02}.png", 8, 6)
    (tmp_path / "train/cat[1]/copy.png").write_bytes(first)
    whole = write(tmp_path / "train/dog/whole.jpg", 40, 30, "JPEG")
    (tmp_path / "train/dog/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/dog/copy.png").write_bytes(first)
    (tmp_path / "train/dog/text.png").write_text("hello")
    (tmp_path / "test/dog").mkdir(parents=True)
    (tmp_path / "test/dog/leak.png").write_bytes(first)
    (tmp_path / "test/dog/leak2.png").write_bytes(first)
    write(tmp_path / "test/dog/own.png", 8, 6)
    write(tmp_path / "test/cat[1]/own.png", 8, 6)
    steps: list[int] = []
    result = inspect_source(open_source(str(tmp_path)), lambda: steps.append(1))
    assert len(steps) == 25 + 4
    return result


def test_what_is_counted(inspection: Inspection) -> None:
    train, test = inspection.train, inspection.test
    assert train.counts == [21, 4]
    assert train.imbalance == 21 / 4
    assert inspection.shots == {"many": (0, 0), "medium": (1, 21), "few": (1, 4)}
    assert inspection.channels == 3
    assert (train.heights, train.widths) == ((8, 8, 40), (6, 6, 30))
    assert train.common_sizes == [(8, 6, 22), (40, 30, 1)]
    assert (train.duplicates, train.contradictions) == (2, 1)
    assert train.duplicate_examples[:2] == [
        ("train/cat[1]/19.png", "train/cat[1]/copy.png", "the same bytes as"),
        ("train/cat[1]/19.png", "train/dog/copy.png", "the same bytes as"),
    ]
    assert train.similar == 0
    assert train.values is not None
    assert (train.values[0], train.values[1]) == (0, 255)
    assert len(train.means) == len(train.deviations) == 3
    assert all(0.4 < mean < 0.6 for mean in train.means)  # noise of 0 to 255
    assert train.unreadable == 2
    assert train.unreadable_examples[0].startswith("train/dog/cut.jpg: ")
    assert train.unreadable_examples[1] == "train/dog/text.png: not an image in a known format"
    assert test is not None
    assert (test.counts, test.duplicates, test.unreadable) == ([1, 3], 1, 0)
    (overlap,) = inspection.overlaps
    assert (overlap.first, overlap.second, overlap.same, overlap.similar) == ("train", "test", 2, 0)
    assert overlap.examples[0] == ("train/cat[1]/19.png", "test/dog/leak.png", "the same bytes as")


def test_it_is_json(inspection: Inspection) -> None:
    assert json.loads(json.dumps(inspection.to_dict()))["train"]["counts"] == [21, 4]


def test_rendering_fits_80_columns(inspection: Inspection) -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(inspection))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for expected in ("5.2", "8 to 40, median 8", "2 (1 with another label)", "train/dog/text.png", "test in train"):
        assert expected in text
    bars = {line.split()[0]: line.count("█") for line in lines if line.strip().startswith(("cat[1]", "dog "))}
    assert bars["cat[1]"] > 50
    assert abs(bars["dog"] - bars["cat[1]"] * 4 / 21) <= 1


def test_missing_pixels_and_missing_classes_are_reported_not_fatal() -> None:
    bad = ArraySet("bad", ["a", "b"], [0, 0], np.full((2, 3, 3), np.nan), "train")
    result = inspect_source(Splits(bad))
    assert (result.train.unreadable, result.train.heights, result.train.imbalance) == (2, None, None)
    Console(file=io.StringIO()).print(render(result))


def test_missing_files_are_not_duplicates_of_each_other(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 8, 6)
    (tmp_path / "list.txt").write_text("a.png 0\nb.png 1\nc.png 1\n")
    train = inspect_source(open_source(str(tmp_path / "list.txt"))).train
    assert (train.unreadable, train.duplicates) == (2, 0)


@pytest.mark.filterwarnings("error:Glyph")
def test_curve_with_any_class_name(tmp_path: Path) -> None:
    images = np.zeros((2, 2, 2), np.uint8)
    result = inspect_source(Splits(ArraySet(r"$\foo$", [r"$\foo$", "猫"], [0, 1], images, "train")))
    save_curve(result, tmp_path / "curve.png")


@pytest.mark.parametrize("classes", [3, 70])
def test_curve_is_a_png_whose_bars_fall(tmp_path: Path, classes: int) -> None:
    labels = np.repeat(np.arange(classes), np.linspace(1, 150, classes).astype(int))
    images = np.broadcast_to(np.zeros((1, 2, 2), np.uint8), (len(labels), 2, 2))
    result = inspect_source(Splits(ArraySet("set", [f"class {c}" for c in range(classes)], labels, images, "train")))
    assert result.train.duplicates == len(labels) - 1
    save_curve(result, tmp_path / "curve.tmp")
    with Image.open(tmp_path / "curve.tmp") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    coloured = (pixels.max(axis=2) - pixels.min(axis=2) > 60).sum(axis=0)
    inside = np.flatnonzero(coloured > 20)
    left, right = coloured[inside[len(inside) // 20]], coloured[inside[-len(inside) // 20]]
    assert left > 2 * right


def test_rare_classes_are_named_however_many_there_are() -> None:
    labels = np.repeat(np.arange(300), np.linspace(200, 1, 300).astype(int))
    images = np.broadcast_to(np.zeros((1, 2, 2), np.uint8), (len(labels), 2, 2))
    result = inspect_source(Splits(ArraySet("set", [f"class {c}" for c in range(300)], labels, images, "train")))
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    named = [line for line in text.splitlines() if line.strip().startswith("class ")]
    assert [line.split()[1] for line in named[1:]] == [*map(str, range(8)), *map(str, range(292, 300))]
    assert "284" not in text  # the classes between share eight bars
    assert text.count("36: class 8 ... class 43") == 1


def test_values_of_more_than_8_bits(tmp_path: Path) -> None:
    for name, pixels in (("a", [[0, 4095]]), ("b", [[7, 900]])):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array(pixels, np.uint16)).save(tmp_path / name / "1.png")
    train = inspect_source(open_source(str(tmp_path))).train
    assert train.values == (0, 4095)
    assert train.unreadable == 0


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth random picture, as photographs are and noise is not."""
    coarse = np.random.default_rng(seed).integers(0, 220, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


COPIES = {
    "saved.jpg": lambda image: image,
    "half.png": lambda image: image.resize((48, 48)),
    "double.png": lambda image: image.resize((192, 192)),
    "brighter.png": lambda image: image.point(lambda value: min(255, int(1.15 * value))),
    "grey.png": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_that_were_saved_anew_are_found(tmp_path: Path, copy: str) -> None:
    for seed in range(40):
        for split, first in (("train", 0), ("val", 100), ("test", 200)):
            path = tmp_path / split / f"{seed % 2}" / f"{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scene(first + seed).save(path)
    for split, folder in (("train", "0"), ("test", "1")):  # a copy within training, and one of it in the test split
        COPIES[copy](scene(7)).save(tmp_path / split / folder / copy, quality=60)
    result = inspect_source(open_source(str(tmp_path)))
    assert result.train.similar == 1
    assert result.train.duplicate_examples[0][2] == "looks like"
    assert {*result.train.duplicate_examples[0][:2]} == {"train/1/7.png", f"train/0/{copy}"}
    found = {(overlap.first, overlap.second): overlap.similar + overlap.same for overlap in result.overlaps}
    assert found == {("train", "val"): 0, ("train", "test"): 1, ("val", "test"): 0}
