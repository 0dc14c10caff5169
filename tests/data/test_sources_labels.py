"""From labels as sources write them to classes: numbers and names, those that are none, and the same classes in all splits."""

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from source_files import classes_of, write_images, write_parquet

from longtail.data.sources import open_source
from longtail.errors import UsageError


def csv(tmp_path: Path, labels: list[str], name: str = "t.csv") -> str:
    """A CSV of these labels, an image for each."""
    write_images(tmp_path, *(f"{i}.png" for i in range(len(labels))))
    quoted = ('"' + label.replace('"', '""') + '"' for label in labels)
    (tmp_path / name).write_text("image,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(quoted)))
    return str(tmp_path / name)


# names and numbers


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["2", "10", "0"], ["0", "2", "10"]),
        (["0", "1", "2", "0_1", "0_2"], ["0", "0_1", "0_2", "1", "2"]),
        (["001", "1"], ["001", "1"]),
        (["00", "01"], ["00", "01"]),
        (["+1", "1"], ["+1", "1"]),
        (["1.0", "1"], ["1", "1.0"]),
        (["\uff11", "1"], ["1", "\uff11"]),  # full-width digits
        (["1e3", "1000"], ["1000", "1e3"]),
        (["9" * 20, "1"], ["1", "9" * 20]),  # beyond int64
        (["9999999", "5"], ["5", "9999999"]),
        (["0x10", "16"], ["0x10", "16"]),
    ],
)
def test_only_canonical_decimals_are_numbers(tmp_path: Path, labels: list[str], names: list[str]) -> None:
    images = open_source(csv(tmp_path, labels)).train
    assert list(images.class_names) == names
    assert classes_of(images) == labels
    write_parquet(tmp_path / "t.parquet", labels)
    assert classes_of(open_source(str(tmp_path / "t.parquet")).train) == labels


def test_zeros_before_a_number_are_part_of_the_name(tmp_path: Path) -> None:
    write_images(tmp_path / "folder", "00016/1.png", "00017/1.png")
    splits = open_source(csv(tmp_path, ["00016", "00017"]), test=str(tmp_path / "folder"))
    assert splits.train.class_names == ("00016", "00017")
    assert classes_of(splits.test) == ["00016", "00017"]
    assert splits.notes == ()


def test_numbers_with_zeros_before_them_in_one_split_only(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"train/{c:04}/1.png" for c in range(8, 12)), *(f"test/{c}/1.png" for c in (9, 11)))
    splits = open_source(str(tmp_path))
    assert classes_of(splits.test) == ["0011", "0009"]  # folders 11, 9
    assert [splits.test.key(i) for i in range(2)] == ["test/11/1.png", "test/9/1.png"]
    assert "('11' is class '0011') and matched by value" in splits.notes[0]


@pytest.mark.parametrize("first", [0, 1])
def test_lists_beside_folders(tmp_path: Path, first: int) -> None:
    """Classes are matched by the number, whichever the first is: none is made up."""
    numbers = range(first, first + 4)
    write_images(tmp_path, *(f"photos/{c}/1.png" for c in numbers), *(f"{c}.png" for c in numbers))
    (tmp_path / "test.txt").write_text("".join(f"{c}.png {c}\n" for c in numbers))
    names = [str(c) for c in numbers]
    for train, test in (("photos", "test.txt"), ("test.txt", "photos"), ("test.txt", "test.txt")):
        splits = open_source(str(tmp_path / train), test=str(tmp_path / test))
        assert list(splits.train.class_names) == names
        assert classes_of(splits.train) == classes_of(splits.test) == names


def test_a_test_list_that_counts_otherwise_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"photos/{c}/1.png" for c in range(1, 5)), *(f"{c}.png" for c in range(4)))
    (tmp_path / "test.txt").write_text("".join(f"{c}.png {c}\n" for c in range(4)))
    with pytest.raises(UsageError, match="Class '0' of list:"):
        open_source(str(tmp_path / "photos"), test=str(tmp_path / "test.txt"))


@pytest.mark.parametrize(
    ("dtype", "count"),
    [(np.uint8, 256), (np.int8, 128), (np.uint16, 300), (np.int64, 300), (np.uint64, 300), (np.float32, 300)],
)
def test_every_width_of_number(tmp_path: Path, dtype: type, count: int) -> None:
    labels = np.arange(count).astype(dtype)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((count, 2, 2), np.uint8), train_labels=labels)
    images = open_source(str(tmp_path / "a.npz")).train
    assert images.labels.tolist() == list(range(count))
    assert images.class_names == tuple(map(str, range(count)))
    write_parquet(tmp_path / "a.parquet", pa.array(labels))
    assert open_source(str(tmp_path / "a.parquet")).train.labels.tolist() == list(range(count))
    write_parquet(tmp_path / "b.parquet", pa.array(labels), [f"class {c}" for c in range(count)])
    assert open_source(str(tmp_path / "b.parquet")).train.class_names == tuple(f"class {c}" for c in range(count))


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_labels_in_a_column(tmp_path: Path, shape: tuple[int, ...]) -> None:
    labels = np.array([2, 0, 1, 2]).reshape(shape)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((4, 2, 2), np.uint8), train_labels=labels)
    assert open_source(str(tmp_path / "a.npz")).train.labels.tolist() == [2, 0, 1, 2]


def test_zeros_and_ones_for_each_class(tmp_path: Path) -> None:
    arrays = {"train_images": np.zeros((4, 2, 2), np.uint8), "train_labels": np.eye(3, dtype=int)[[2, 0, 1, 2]]}
    np.savez(tmp_path / "a.npz", **arrays)
    assert open_source(str(tmp_path / "a.npz")).train.labels.tolist() == [2, 0, 1, 2]
    arrays["train_labels"][1, 1] = 1
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(
        UsageError, match=r"1 images have several labels \(train#1\). Multi-label data is not supported"
    ):
        open_source(str(tmp_path / "a.npz"))


def test_float_labels_keep_the_names_in_the_metadata(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [1.0, 0.0, 1.0], ["ash", "birch"])
    assert classes_of(open_source(str(tmp_path / "a.parquet")).train) == ["birch", "ash", "birch"]
    write_parquet(tmp_path / "a.parquet", [1.0, 0.5], ["ash", "birch"])
    with pytest.raises(UsageError, match=r"a\.parquet row 1: label 0\.5 is no class number"):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_names_that_no_image_uses_are_left_out_and_told(tmp_path: Path, kind: str) -> None:
    names = ["ash", "birch", "cedar", "elm"]
    if kind == "npz":
        images = np.zeros((3, 2, 2), np.uint8)
        np.savez(tmp_path / "a.npz", train_images=images, train_labels=[3, 1, 3], class_names=names)
    else:
        write_parquet(tmp_path / "a.parquet", [3, 1, 3], names)
    splits = open_source(str(tmp_path / f"a.{kind}"))
    assert splits.train.class_names == ("birch", "elm")
    assert classes_of(splits.train) == ["elm", "birch", "elm"]
    assert "2 of its 4 classes have no image and are left out: ash, cedar" in splits.notes[0]


def test_gaps_between_numbers_are_told(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["1", "2", "5"]))
    assert (
        "class numbers from 1 to 5 of which 2 have no image (3, 4): its classes are the 3 that occur" in splits.notes[0]
    )
    assert open_source(csv(tmp_path, ["1", "2", "3"])).notes == ()


@pytest.mark.parametrize("kind", ["csv", "list", "npz", "parquet"])
def test_unlabelled_images_are_left_out_and_told(tmp_path: Path, kind: str) -> None:
    labels = [1, -1, 0, -1]
    if kind == "csv":
        csv(tmp_path, [str(label) for label in labels], "a.csv")
    elif kind == "list":
        write_images(tmp_path, *(f"{i}.png" for i in range(4)))
        (tmp_path / "a.txt").write_text("".join(f"{i}.png {label}\n" for i, label in enumerate(labels)))
    elif kind == "npz":
        np.savez(tmp_path / "a.npz", train_images=np.zeros((4, 2, 2), np.uint8), train_labels=labels)
    else:
        write_parquet(tmp_path / "a.parquet", labels, ["ash", "birch"])
    splits = open_source(str(tmp_path / ("a.txt" if kind == "list" else f"a.{kind}")))
    assert splits.train.labels.tolist() == [1, 0]
    rows = {
        "csv": "line 3, line 5",
        "list": "line 2, line 4",
        "npz": "train#1, train#3",
        "parquet": "a.parquet row 1, a.parquet row 3",
    }
    assert f"2 of 4 images have label -1, unlabelled, and are left out: {rows[kind]}." in splits.notes[0]


def test_a_test_split_without_labels_is_left_out_and_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], ["ash", "birch"])
    write_parquet(tmp_path / "test.parquet", [-1, -1, -1], ["ash", "birch"])
    splits = open_source(str(tmp_path))
    assert splits.test is None
    assert "(test): its 3 images have no labels and are left out" in splits.notes[0]


# names that are one


@pytest.mark.parametrize("kind", ["npz", "parquet"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["crane", "dog", "crane"], r"'crane' twice \(classes 0 and 2\)"),
        (["crane", "dog", "crane "], r"'crane' and 'crane ', which are one name in two forms"),
        (["caf\u00e9", "dog", "cafe\u0301"], r"one name in two forms \(classes 0 and 2\)"),
    ],
)
def test_class_names_that_are_the_same(tmp_path: Path, kind: str, names: list[str], message: str) -> None:
    if kind == "npz":
        np.savez(
            tmp_path / "a.npz", train_images=np.zeros((3, 2, 2), np.uint8), train_labels=[0, 1, 2], class_names=names
        )
    else:
        write_parquet(tmp_path / "a.parquet", [0, 1, 2], names)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / f"a.{kind}"))


def test_two_forms_of_one_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png")
    with pytest.raises(UsageError, match="one name in two forms"):
        open_source(str(tmp_path))


def test_white_space_and_unicode_forms_in_tables(tmp_path: Path) -> None:
    labels = ["dog", " dog", "caf\u00e9", "cafe\u0301"]
    splits = open_source(csv(tmp_path, labels))
    assert classes_of(splits.train) == ["dog", "dog", "caf\u00e9", "caf\u00e9"]
    assert "white space around 2 labels" in splits.notes[0]
    assert "(line 3, line 5)" in splits.notes[0]
    write_parquet(tmp_path / "a.parquet", labels)
    splits = open_source(str(tmp_path / "a.parquet"))
    assert classes_of(splits.train) == ["dog", "dog", "caf\u00e9", "caf\u00e9"]
    assert "(a.parquet row 1, a.parquet row 3)" in splits.notes[0]


def test_unicode_forms_in_two_splits(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("test", "NFD")):
        write_images(tmp_path, f"{split}/{unicodedata.normalize(form, 'Käfer')}/1.png", f"{split}/dog/1.png")
    splits = open_source(str(tmp_path))
    assert sorted(classes_of(splits.test)) == ["Käfer", "dog"]


def test_names_that_differ_in_case_are_two_classes_and_told(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["Cat", "cat", "dog", "cat"]))
    assert splits.train.class_names == ("Cat", "cat", "dog")
    assert "'Cat' (line 2) and 'cat' (line 3, line 5) differ in upper and lower case only" in splits.notes[0]
    csv(tmp_path, [f"{form}{k}" for k in range(5) for form in "aA"])
    notes = open_source(str(tmp_path / "t.csv")).notes
    assert len(notes) == 4
    assert "so do 2 further pairs" in notes[3]
    write_images(tmp_path, "f/train/cat/1.png", "f/train/dog/1.png", "f/test/Cat/1.png")
    with pytest.raises(UsageError, match="'cat' is, which differs in upper and lower case"):
        open_source(str(tmp_path / "f"))


# labels that are none


@pytest.mark.parametrize("label", ["", " ", "nan", "NaN", "NA", "N/A", "null", "NULL", "<NA>"])
def test_labels_that_are_none(tmp_path: Path, label: str) -> None:
    with pytest.raises(UsageError, match=r"line 3, line 5: no label"):
        open_source(csv(tmp_path, ["dog", label, "cat", label]))
    write_parquet(tmp_path / "a.parquet", ["dog", label, "cat"])
    with pytest.raises(UsageError, match=r"a\.parquet row 1: no label"):
        open_source(str(tmp_path / "a.parquet"))


def test_missing_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [0.0, float("nan"), 1.0, None], ["ash", "birch"])
    with pytest.raises(UsageError, match=r"a\.parquet row 3: no label"):
        open_source(str(tmp_path / "a.parquet"))
    write_parquet(tmp_path / "a.parquet", [0.0, float("nan"), 1.0], ["ash", "birch"])
    with pytest.raises(UsageError, match=r"a\.parquet row 1: no label but 'nan'"):
        open_source(str(tmp_path / "a.parquet"))


def test_the_class_none_is_told(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["scratch", "none", "None"]))
    assert splits.train.class_names == ("None", "none", "scratch")
    assert "the label 'None' (line 4) is taken for a class of that name" in splits.notes[0]


@pytest.mark.parametrize("labels", [["a|b", "c"], ["a", "b", "a;b"], ["a", "b", "a, b"], ["a", "b", "b+a"]])
def test_several_labels_in_one(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(UsageError, match=r"looks like several. Multi-label data is not supported"):
        open_source(csv(tmp_path, labels))


def test_names_with_such_signs_are_names(tmp_path: Path) -> None:
    names = ["T-shirt, red", "black & white", "c++", "a/b"]
    assert classes_of(open_source(csv(tmp_path, names)).train) == names


@pytest.mark.parametrize("label", ["5" * 5000, "x" * 5000])
def test_a_label_of_thousands_of_characters(tmp_path: Path, label: str) -> None:
    with pytest.raises(UsageError, match=r"line 3: .*5,000 characters\)' is no class name") as caught:
        open_source(csv(tmp_path, ["1", label]))
    assert len(str(caught.value)) < 400


def test_a_number_of_millions_makes_no_million_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a.png 0\nb.png 9999999\n")
    splits = open_source(str(tmp_path / "a.txt"))
    assert splits.train.class_names == ("0", "9999999")
    assert "from 0 to 9999999 of which 9,999,998 have no image" in splits.notes[0]


def test_rows_are_named_as_the_source_counts_them(tmp_path: Path) -> None:
    """Lines of a file below its header, blank lines and fields of several lines, in every split; rows of a table."""
    write_images(tmp_path, *(f"{i}.png" for i in range(4)))
    (tmp_path / "t.csv").write_text(
        'image,label,split,remark\n0.png,cat,train,"two\nlines"\n\n1.png,Cat,train,\n2.png,fox,test,\n3.png,-,test,\n'
    )
    with pytest.raises(UsageError, match=r"Class '-' of csv:.*\(line 7; 2 of 2 classes are not\)"):
        open_source(str(tmp_path / "t.csv"))
    (tmp_path / "t.txt").write_text("0.png 3\n\n1.png 4\n")
    (tmp_path / "u.txt").write_text("\n\n2.png 3\n3.png 5\n")
    with pytest.raises(UsageError, match=r"Class '5' of list:.*\(line 4; 1 of 2 classes are not\)"):
        open_source(str(tmp_path / "t.txt"), test=str(tmp_path / "u.txt"))
    write_parquet(tmp_path / "p/train-0.parquet", ["cat", "dog"])
    write_parquet(tmp_path / "p/train-1.parquet", ["dog", "Dog"])
    notes = open_source(str(tmp_path / "p")).notes
    assert "'Dog' (train-1.parquet row 1) and 'dog' (train-0.parquet row 1, train-1.parquet row 0) differ" in notes[0]
    loaded = pickle.loads(pickle.dumps(open_source(str(tmp_path / "t.txt")).train))  # as worker processes get it
    assert [loaded.place(i) for i in range(2)] == ["line 1", "line 3"]


def test_unlabelled_beside_names(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["cat", "-1", "dog"]))
    assert classes_of(splits.train) == ["cat", "dog"]
    assert "1 of 3 images have label -1, unlabelled, and are left out: line 3" in splits.notes[0]


@pytest.mark.parametrize("labels", [["['x', 'y']", "['x']"], ["{1}", "{2}"], ["x y", "x", "y"], ["x/y", "x", "y"]])
def test_lists_are_several_labels(tmp_path: Path, labels: list[str]) -> None:
    with pytest.raises(UsageError, match=r"\(line 2\).*Multi-label data is not supported"):
        open_source(csv(tmp_path, labels))


def test_names_of_several_words_are_names(tmp_path: Path) -> None:
    assert classes_of(open_source(csv(tmp_path, ["red fox", "fox", "sea/lake"])).train) == [
        "red fox",
        "fox",
        "sea/lake",
    ]


def test_spaces_of_no_width(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["cat\u200b", "\ufeffcat", "dog"]))
    assert classes_of(splits.train) == ["cat", "cat", "dog"]
    assert "put right (line 2, line 3)" in splits.notes[0]


def test_classes_called_as_if_they_were_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [0, 1, 1], ["", "dog"])
    with pytest.raises(UsageError, match=r"a class has no name \(a.parquet row 0\)"):
        open_source(str(tmp_path / "a.parquet"))
    write_images(tmp_path, "f/NA/1.png", "f/dog/1.png")
    assert "'NA' (NA/1.png) is taken for a class of that name" in open_source(str(tmp_path / "f")).notes[0]


def test_a_class_called_unlabelled_is_told(tmp_path: Path) -> None:
    for name in ("unlabeled", "Unlabelled_data", "no-label"):
        write_images(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png", f"{name}/{name}/1.png")
        (note,) = open_source(str(tmp_path / name)).notes
        assert f"'{name}' ({name}/1.png) is taken for a class of that name. If its images have no label, move" in note
    write_images(tmp_path, "f/cat/1.png", "f/unlabelledness/1.png")
    assert not open_source(str(tmp_path / "f")).notes


def test_labels_with_a_decimal_point_are_told(tmp_path: Path) -> None:
    splits = open_source(csv(tmp_path, ["1.5", "2.0", "1.5"]))
    assert splits.train.class_names == ("1.5", "2.0")
    assert "numbers with a decimal point ('1.5'), and taken for names of 2 classes" in splits.notes[0]
    assert not open_source(csv(tmp_path, ["1.5", "v2", "1.5"])).notes
