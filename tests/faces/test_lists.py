from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from longtail.errors import LongtailError, UsageError
from longtail.faces.lists import check_disjoint, read_bin, read_ijb, read_lfw_pairs

NAMES = ["Ann_Lee_0001", "Ann_Lee_0002", "Bo_0001", "Bo_0011", "Cy_0001"]
LINES = ["2\t1", "Ann_Lee\t1\t2", "Ann_Lee\t1\tBo\t1", "Bo\t1\t11", "Cy\t1\tAnn_Lee\t2"]


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_lfw_pairs(tmp_path):
    pairs = read_lfw_pairs(_write(tmp_path / "pairs.txt", LINES), NAMES)
    ends = [(NAMES[a], NAMES[b]) for a, b in zip(pairs.left, pairs.right, strict=True)]
    assert ends == [
        ("Ann_Lee_0001", "Ann_Lee_0002"),
        ("Ann_Lee_0001", "Bo_0001"),
        ("Bo_0001", "Bo_0011"),
        ("Cy_0001", "Ann_Lee_0002"),
    ]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert len(pairs) == 4


def test_lfw_pairs_of_one_fold_without_a_number_of_folds(tmp_path):
    """As in pairsDevTrain.txt."""
    pairs = read_lfw_pairs(_write(tmp_path / "pairs.txt", ["2", LINES[1], LINES[3], LINES[2], LINES[4]]), NAMES)
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.folds.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("row", "line", "message"),
    [
        (0, "ten 300", r"pairs.txt:1: expected the number of folds.*'ten 300'"),
        (0, "1 2 3", r"pairs.txt:1: expected the number of folds"),
        (0, "2 0", r"pairs.txt:1: expected the number of folds"),
        (0, "3 1", r"announces 3 folds of 1 same and 1 different pairs, so 6 lines, but 4 follow"),
        (1, "Ann_Lee\t1", r"pairs.txt:2: expected 'name i j', found"),
        (1, "Ann_Lee\t1\tx", r"pairs.txt:2: expected 'name i j'"),
        (2, "Ann_Lee\t1\t2", r"pairs.txt:3: expected 'name1 i name2 j', found"),
        (3, "Bo\t1\t2", r"pairs.txt:4: image 'Bo_0002' is not among the 5 images"),
        (4, "Cy\t1\tDi\t2", r"pairs.txt:5: image 'Di_0002' is not among"),
    ],
)
def test_malformed_lfw_pairs_name_the_line(tmp_path, row, line, message):
    lines = [*LINES[:row], line, *LINES[row + 1 :]]
    with pytest.raises(UsageError, match=message):
        read_lfw_pairs(_write(tmp_path / "pairs.txt", lines), NAMES)


@pytest.mark.parametrize("form", ["{}_{}", "{}_{:03}", "{} {}", "{}-{:02}"])
def test_pairs_of_images_whose_numbers_are_written_otherwise(tmp_path, form):
    names = [form.format("Bo", i) for i in (1, 12, 2)]
    lines = ["1", "Bo 1 12", "Bo 2 Bo 12"]
    pairs = read_lfw_pairs(_write(tmp_path / "pairs.txt", lines), names)
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 2], [1, 1])
    with pytest.raises(UsageError, match=r"pairs.txt:2: several images are number 1 of 'Bo'"):
        read_lfw_pairs(tmp_path / "pairs.txt", [*names, "Bo_00001"])
    assert read_lfw_pairs(tmp_path / "pairs.txt", [*names, "Bo_0001"]).left.tolist() == [3, 2]


@pytest.mark.parametrize("row", range(5))
def test_numbers_of_thousands_of_digits(tmp_path, row):
    lines = [*LINES[:row], LINES[row].replace("1", "9" * 5000), *LINES[row + 1 :]]
    with pytest.raises(UsageError, match=rf"pairs.txt:{row + 1}: expected .*characters") as caught:
        read_lfw_pairs(_write(tmp_path / "pairs.txt", lines), NAMES)
    assert len(str(caught.value)) < 300
    for images, pairs in ((["a.jpg " + "9" * 5000 + " 1"], ["1 1 0"]), (["a.jpg 1 1"], ["1 " + "9" * 5000 + " 0"])):
        with pytest.raises(UsageError) as caught:
            read_ijb(_write(tmp_path / "tid", images), _write(tmp_path / "pairs", pairs))
        assert len(str(caught.value)) < 400


def test_files_that_are_no_list(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UsageError, match=r"binary: it is not UTF-8 text"):
        read_lfw_pairs(tmp_path / "binary", NAMES)
    with pytest.raises(UsageError, match=r"empty:1: .* found an empty file"):
        read_lfw_pairs(tmp_path / "empty", NAMES)
    with pytest.raises(UsageError, match="absent does not exist"):
        read_lfw_pairs(tmp_path / "absent", NAMES)


def _bin(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_bin(tmp_path):
    images = [bytes([i]) * 3 for i in range(46)]
    read, pairs = read_bin(_bin(tmp_path / "lfw.bin", (images, [i % 2 == 0 for i in range(23)])))
    assert [read.read(i) for i in range(len(read))] == images
    assert read.key(3) == "lfw.bin#3"
    assert [(int(a), int(b)) for a, b in zip(pairs.left, pairs.right, strict=True)][-1] == (44, 45)
    assert pairs.same.dtype == bool
    assert pairs.same.tolist()[:3] == [True, False, True]
    # 23 pairs in 10 folds, as scikit-learn's KFold without shuffling divides them
    assert np.bincount(pairs.folds).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert (np.diff(pairs.folds) >= 0).all()


def test_bin_as_python_2_wrote_it(tmp_path):
    """Protocol 2 with Python 2's byte strings: what the sets that go around are."""
    content = b"\x80\x02]q\x00(U\x03\xff\xd8aq\x01U\x03\xff\xd8bq\x02e]q\x03\x88a\x86q\x04."
    (tmp_path / "old.bin").write_bytes(content)
    images, pairs = read_bin(tmp_path / "old.bin")
    assert [images.read(0), images.read(1)] == [b"\xff\xd8a", b"\xff\xd8b"]
    assert pairs.same.tolist() == [True]


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_without_running_anything(tmp_path, protocol):
    marker = tmp_path / "was-run"
    path = _bin(tmp_path / "x.bin", ([b"a", b"b"], [True], _Hostile(marker)), protocol)
    with pytest.raises(UsageError, match=r"x.bin is no verification set: it asks for \w+\.\w+"):
        read_bin(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # so the file was dangerous


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("same", [[1, 0], [np.bool_(True), np.bool_(False)], [np.int64(1), 0], np.array([True, False])])
def test_bins_as_python_3_writes_them_for_python_2(tmp_path, protocol, same):
    images = [b"\xff\xd8one", b"", np.frombuffer(b"\xff\xd8three", np.uint8), b"four"]
    read, pairs = read_bin(_bin(tmp_path / "lfw.bin", (images, same), protocol))
    assert [read.read(i) for i in range(4)] == [bytes(image) for image in images]
    assert pairs.same.tolist() == [True, False]
    assert pairs.same.dtype == bool


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([b"a", b"b", b"c"], [True]), "3 images for 1 pairs"),
        (([], []), "0 images for 0 pairs"),
        (([b"a", "b"], [True]), "a str where bytes belongs"),
        (([b"a", b"b"], [2]), "an? int where bool belongs"),
        (([b"a", b"b"], np.array([7])), "an? int where bool belongs"),
        (([b"a", b"b"], [np.float64(1)]), "an array of 'f8'"),
        ([b"a", b"b"], "something else"),
        (b"a", "something else"),
    ],
)
def test_bins_that_hold_something_else(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        read_bin(_bin(tmp_path / "x.bin", content))


@pytest.mark.parametrize(
    "data", [b"", b"not a pickle", pickle.dumps(([b"a", b"b"], [True]))[:-9], b"\x80\x04R.", b"h\x05."]
)
def test_damaged_bins(tmp_path, data):
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(UsageError, match=r"x.bin is no verification set"):
        read_bin(tmp_path / "x.bin")


def test_missing_bin(tmp_path):
    with pytest.raises(UsageError, match=r"x.bin does not exist"):
        read_bin(tmp_path / "x.bin")


IMAGES = ["1.jpg 10 100", "2.jpg 10 101", "3.jpg 11 102"]


def test_ijb_lists(tmp_path):
    lists = read_ijb(_write(tmp_path / "tid", IMAGES), _write(tmp_path / "pairs", ["10 11 0", "11 11 1"]))
    assert lists.images == ("1.jpg", "2.jpg", "3.jpg")
    assert lists.templates.tolist() == [10, 10, 11]
    assert lists.media.tolist() == [100, 101, 102]
    assert lists.left.tolist() == [10, 11]
    assert lists.right.tolist() == [11, 11]
    assert lists.same.tolist() == [False, True]


@pytest.mark.parametrize(
    ("images", "pairs", "message"),
    [
        (["1.jpg 10"], ["10 10 1"], "tid:1: expected 'file template medium', found '1.jpg 10'"),
        ([*IMAGES, "4.jpg x 1"], ["10 11 0"], "tid:4: expected"),
        ([], ["10 11 0"], "tid: no images in this list"),
        (IMAGES, ["10 11 0", "10 x 1"], "pairs: expected lines.*'x'.*row"),
        (IMAGES, ["10 11"], "pairs: expected lines"),
        (IMAGES, ["10 11 2"], "with label 0 or 1"),
        (IMAGES, ["10 11 0", "10 12 1"], "pairs:2: templates 10 and 12: at least one has no image"),
    ],
)
def test_malformed_ijb_lists(tmp_path, images, pairs, message):
    with pytest.raises(UsageError, match=message):
        read_ijb(_write(tmp_path / "tid", images), _write(tmp_path / "pairs", pairs))


def test_people_in_training_and_test_are_named():
    check_disjoint(["a", "b"], ["c"])
    with pytest.raises(LongtailError, match="2 people are in the training set and in the pairs, first 'b'"):
        check_disjoint(["a", "b", "c"], ["c", "c", "b"])
