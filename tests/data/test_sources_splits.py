"""Which part of a source is for training, validation and testing, by its name, in every kind of source."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from source_files import classes_of, png, sizes, write_images, write_parquet

from longtail.data.sources import open_source
from longtail.data.sources.splits import role_of
from longtail.errors import UsageError

# names of a training part and of others, with the role each must get
SPELLINGS = [
    {"train": "train", "test": "test"},
    {"Train": "train", "Test": "test"},
    {"Training": "train", "Testing": "test"},
    {"TRAINING": "train", "TESTING": "test"},
    {"training": "train", "testing": "test"},
    {"training-0": "train", "testing-0": "test"},
    {"partial-train": "train", "partial-test": "test"},
    {"cifar_train": "train", "cifar_test": "test"},
    {"TrainSet": "train", "TestSet": "test"},
    {"train_images": "train", "test_images": "test"},
    {"train2017": "train", "val2017": "val"},
    {"Train": "train", "Valid": "val"},
    {"train": "train", "valid": "val"},
    {"train": "train", "validation": "val"},
    {"train": "train", "dev": "val"},
    {"train": "train", "eval": "val"},
    {"train": "train", "val": "val", "test": "test"},
    {"trainval": "train", "test": "test"},
]


@pytest.mark.parametrize("names", SPELLINGS, ids=" ".join)
def test_folders(tmp_path: Path, names: dict[str, str]) -> None:
    for name in names:
        write_images(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png", f"{name}/dog/2.png")
    splits = open_source(str(tmp_path))
    assert sizes(splits) == dict.fromkeys(names.values(), 3)
    for role, images in splits.named().items():
        name = next(name for name, its in names.items() if its == role)
        assert classes_of(images) == ["cat", "dog", "dog"]
        assert images.key(0) == f"{name}/cat/1.png"


@pytest.mark.parametrize("names", SPELLINGS, ids=" ".join)
@pytest.mark.parametrize("form", ["{}.parquet", "{}-00000-of-00001.parquet", "data/{}/0.parquet"])
def test_parquet_files(tmp_path: Path, names: dict[str, str], form: str) -> None:
    for count, name in enumerate(names, 2):
        write_parquet(tmp_path / form.format(name), [0, 1] * count, ["cat", "dog"])
    expected = {role: 2 * count for count, role in enumerate(names.values(), 2)}
    assert sizes(open_source(f"parquet:{tmp_path}")) == expected


@pytest.mark.parametrize("names", SPELLINGS, ids=" ".join)
def test_a_split_column(tmp_path: Path, names: dict[str, str]) -> None:
    values = [name for name in names for _ in range(2)]
    write_images(tmp_path, *(f"{i}.png" for i in range(len(values))))
    rows = "".join(f"{i}.png,{'xy'[i % 2]},{value}\n" for i, value in enumerate(values))
    (tmp_path / "t.csv").write_text("image,label,split\n" + rows)
    splits = open_source(str(tmp_path / "t.csv"))
    assert sizes(splits) == dict.fromkeys(names.values(), 2)
    for role, images in splits.named().items():
        first = 2 * list(names.values()).index(role)
        assert [images.key(i) for i in range(2)] == [f"{first}.png", f"{first + 1}.png"]
        assert classes_of(images) == ["x", "y"]
    write_parquet(tmp_path / "t.parquet", ["xy"[i % 2] for i in range(len(values))], split=values)
    assert sizes(open_source(str(tmp_path / "t.parquet"))) == dict.fromkeys(names.values(), 2)


@pytest.mark.parametrize("form", ["{}_images {}_labels", "x_{} y_{}"])
@pytest.mark.parametrize(
    "names", [{"train": "train", "val": "val", "test": "test"}, {"train": "train", "valid": "val"}]
)
def test_arrays(tmp_path: Path, names: dict[str, str], form: str) -> None:
    arrays = {}
    for name in names:
        images, labels = form.format(name, name).split()
        arrays |= {images: np.zeros((3, 4, 4), np.uint8), labels: np.array([0, 1, 1])}
    np.savez(tmp_path / "a.npz", **arrays)
    assert sizes(open_source(str(tmp_path / "a.npz"))) == dict.fromkeys(names.values(), 3)


@pytest.mark.parametrize(
    ("name", "role"),
    [("invalid", None), ("latest", None), ("strain", None), ("contest", None), ("devil", None), ("train_test", None)],
)
def test_words_that_only_contain_one(name: str, role: str | None) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize(
    "names", [["test_tube", "beaker"], ["bus", "train"], ["steam train", "tram"], ["eel", "trainer"]]
)
def test_classes_named_after_things_are_classes(tmp_path: Path, names: list[str]) -> None:
    write_images(tmp_path, *(f"{name}/1.png" for name in names))
    splits = open_source(str(tmp_path))
    assert sizes(splits) == {"train": 2}
    assert splits.train.class_names == tuple(sorted(names))


def test_what_is_read_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, *(f"{s}/{c}/1.png" for s in ("Training", "Testing") for c in ("cat", "dog")))
    caplog.set_level("INFO", "longtail")
    open_source(str(tmp_path))
    line = f"data: train 2 images of folder:{tmp_path} (train: Training); test 2 images of folder:{tmp_path} (test: Testing)"
    assert [record.message for record in caplog.records] == [f"{line}; no val split"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["cat/1.png", "dog/1.png", "test/1.png"],
            "test looks like a split, but cat, dog beside it look like classes",
        ),
        (["train/a/1.png", "train/b/1.png", "bus/c/1.png"], "train looks like a split, but bus beside it"),
        (["val/a/1.png", "test/a/1.png"], "val, test|test, val.* none is for training"),
        (["train/1.png", "test/1.png"], "test looks like a split, but train beside it"),
        (["cat/train/1.png", "cat/test/1.png", "dog/1.png"], "class folders hold splits .*but dog does not fit"),
    ],
)
def test_folders_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, files: list[str], message: str) -> None:
    write_images(tmp_path, *files)
    with pytest.raises(UsageError, match=message) as caught:
        open_source(str(tmp_path))
    assert "--splits none" in str(caught.value)
    names = sorted({file.partition("/")[0] for file in files})
    assert open_source(str(tmp_path), splits="none").train.class_names == tuple(names)


def test_splits_can_be_said(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{s}/{c}/1.png" for s in ("old", "new", "other") for c in ("cat", "dog")))
    splits = open_source(str(tmp_path), splits="train=old,test=new")
    assert sizes(splits) == {"train": 2, "test": 2}
    assert splits.test is not None
    assert splits.test.key(0) == "new/cat/1.png"
    assert "other left out" in splits.notes[0]
    assert sizes(open_source(str(tmp_path), splits="train=old+other,val=new")) == {"train": 4, "val": 2}
    for wrong, message in (
        ("test=new", "say which part is for training"),
        ("train=odl", "has no part 'odl'"),
        ("all", "--splits takes 'train=NAME"),
    ):
        with pytest.raises(UsageError, match=message):
            open_source(str(tmp_path), splits=wrong)


def test_unlabelled_test_images_are_left_out_and_told(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png")
    splits = open_source(str(tmp_path))
    assert sizes(splits) == {"train": 2}
    assert "test (2 images) has no class folders" in splits.notes[0]


def test_splits_within_the_classes(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{c}/{s}/1.png" for s in ("train", "test") for c in ("cat", "dog")))
    splits = open_source(str(tmp_path))
    assert sizes(splits) == {"train": 2, "test": 2}
    assert classes_of(splits.test) == ["cat", "dog"]
    assert splits.train.key(0) == "cat/train/1.png"


def test_a_folder_that_wraps_all(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"archive/pets/{s}/{c}/1.png" for s in ("train", "test") for c in ("cat", "dog")))
    splits = open_source(str(tmp_path))
    assert sizes(splits) == {"train": 2, "test": 2}
    assert splits.notes == (f"folder:{tmp_path}: its only folder archive/pets holds all images, and is looked into.",)


def test_files_that_fit_no_split_are_refused(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        write_parquet(tmp_path / f"{name}.parquet", [0, 1])
    with pytest.raises(UsageError, match=r"train look like splits, but extra fits none.*--splits"):
        open_source(str(tmp_path))
    assert sizes(open_source(str(tmp_path), splits="train=train+extra,test=test")) == {"train": 4, "test": 2}
    assert sizes(open_source(str(tmp_path), splits="none")) == {"train": 6}


def test_a_split_column_that_holds_something_else(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    for column, values, refused in (("split", "xy", True), ("set", "xy", False), ("phase", ["day", "night"], False)):
        rows = "".join(
            f"{image},{label},{value}\n" for image, label, value in zip(("a.png", "b.png"), "12", values, strict=True)
        )
        (tmp_path / "t.csv").write_text(f"image,label,{column}\n{rows}")
        if refused:
            with pytest.raises(UsageError, match=r"holds x, y, which are no splits' names.*--splits none"):
                open_source(str(tmp_path / "t.csv"))
            assert sizes(open_source(str(tmp_path / "t.csv"), splits="none")) == {"train": 2}
        else:
            assert sizes(open_source(str(tmp_path / "t.csv"))) == {"train": 2}


def test_a_test_source_beside_a_split_of_the_source(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{s}/{c}/1.png" for s in ("a/train", "a/val", "a/test", "b") for c in ("cat", "dog")))
    splits = open_source(str(tmp_path / "a"), test=str(tmp_path / "b"))
    assert sizes(splits) == {"train": 2, "val": 2, "test": 2}
    assert splits.test is not None
    assert splits.test.name.startswith(f"folder:{tmp_path}/b")
    assert "left aside" in splits.notes[0]


# nested folders


def test_the_level_of_classes_in_nested_folders(tmp_path: Path) -> None:
    write_images(
        tmp_path,
        *(f"{s}/Fruit/Apple/{a}/1.png" for s in ("train", "test") for a in ("Royal-Gala", "Golden")),
        *(f"{s}/Fruit/Banana/1.png" for s in ("train", "test")),
        *(f"{s}/Vegetables/Carrot/1.png" for s in ("train", "test")),
    )
    splits = open_source(str(tmp_path))
    assert splits.train.class_names == ("Fruit", "Vegetables")
    assert "2 uppermost (Fruit, Vegetables)" in splits.notes[0]
    assert "--classes-at 2 would take 3 (Apple, Banana, Carrot)" in splits.notes[0]
    assert "--classes-at 3 would take 4 (Banana, Carrot, Golden, Royal-Gala)" in splits.notes[0]
    for level, names in (
        (1, ("Fruit", "Vegetables")),
        (2, ("Apple", "Banana", "Carrot")),
        (3, ("Banana", "Carrot", "Golden", "Royal-Gala")),
        ("leaf", ("Banana", "Carrot", "Golden", "Royal-Gala")),
    ):
        splits = open_source(str(tmp_path), classes_at=level)
        assert splits.train.class_names == names
        assert len(splits.train) == 4
        assert splits.test is not None
        assert splits.test.class_names == names


def test_classes_in_two_folders(tmp_path: Path) -> None:
    write_images(tmp_path, "n/A/cat/1.png", "n/A/dog/1.png", "n/B/cat/1.png", "n/B/dog/1.png", "n/B/eel/1.png")
    splits = open_source(str(tmp_path / "n"))
    assert splits.train.class_names == ("A", "B")
    assert "--classes-at 2 would take 3 (cat, dog, eel)" in splits.notes[0]
    splits = open_source(str(tmp_path / "n"), classes_at=2)
    assert classes_of(splits.train) == ["cat", "cat", "dog", "dog", "eel"]
    assert "'cat' is A/cat, B/cat" in splits.notes[0]


def test_a_single_folder_within_each_class_is_no_other_reading(tmp_path: Path) -> None:
    write_images(tmp_path, "train/n01/images/1.png", "train/n02/images/1.png", "val/n01/images/1.png")
    splits = open_source(str(tmp_path))
    assert splits.train.class_names == ("n01", "n02")
    assert splits.notes == ()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".avif", ".jp2", ".webp", ".tif"])
def test_every_image_that_can_be_read_is(tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG"}.get(suffix)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / name / f"1{suffix}", kind)
    images = open_source(str(tmp_path)).train
    assert images.image(1, 3).shape == (8, 8, 3)


def test_photographs_of_telephones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    pixels = np.full((32, 48, 3), (200, 60, 30), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        heif.from_bytes("RGB", (48, 32), pixels.tobytes()).save(tmp_path / name / "1.HEIC", quality=90)
    read = open_source(str(tmp_path)).train.image(1, 3)
    assert read.shape == (32, 48, 3)
    assert np.abs(read.astype(int) - pixels).max() < 8
    from longtail.data import heic

    monkeypatch.setattr(heic, "is_read", lambda: False)
    with pytest.raises(UsageError, match=r"2 \.heic.*pip install 'longtail\[heic\]'"):
        open_source(str(tmp_path))


def test_files_passed_over_are_counted_by_suffix(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("cat/a.dcm", "cat/b.DCM", "dog/Thumbs.db", "dog/.hidden", "README"):
        (tmp_path / name).write_text("no image")
    (note,) = open_source(str(tmp_path)).notes
    assert note.endswith("4 files are no images by their names and were passed over: 2 .dcm, 1 without suffix, 1 .db.")


# the same names wherever they are written


ROLES_OF_FOUR = {"train": 2, "val": 1, "test": 1}
FOLDERS = ("Train", "train", "VAL", "TeSt")


def test_folders_at_the_head_of_paths(tmp_path: Path) -> None:
    paths = [f"{folder}/{i}.png" for i, folder in enumerate(FOLDERS)]
    write_images(tmp_path, *paths)
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{path},0\n" for path in paths))
    (tmp_path / "t.txt").write_text("".join(f"{path} 0\n" for path in paths))
    records = [{"id": i, "file_name": path} for i, path in enumerate(paths)]
    (tmp_path / "t.json").write_text(
        json.dumps({"images": records, "annotations": [{"image_id": i, "category_id": 0} for i in range(4)]})
    )
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for path in paths:
            for name, content in ((path, png()), (path.replace(".png", ".cls"), b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for name in ("t.csv", "t.txt", "t.json", "t.tar"):
        splits = open_source(str(tmp_path / name))
        assert sizes(splits) == ROLES_OF_FOUR, name
        assert splits.test.name.endswith("(test: TeSt)")
        assert sizes(open_source(str(tmp_path / name), splits="none")) == {"train": 4}
        assert sizes(open_source(str(tmp_path / name), splits="train=Train+VAL,test=train")) == {"train": 2, "test": 1}


def test_other_folders_at_the_head_of_paths_are_none(tmp_path: Path) -> None:
    for folders in (("train", "bus"), ("train", "train"), ("val", "test"), ("a", "b")):
        write_images(tmp_path, *(f"{folder}/{i}.png" for i, folder in enumerate(folders)))
        (tmp_path / "t.txt").write_text("".join(f"{folder}/{i}.png 0\n" for i, folder in enumerate(folders)))
        assert sizes(open_source(str(tmp_path / "t.txt"))) == {"train": 2}


def test_a_field_split_of_json(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{i}.png" for i in range(4)))
    images = [{"id": i, "file_name": f"{i}.png", "split": split} for i, split in enumerate(FOLDERS)]
    annotations = [{"image_id": i, "category_id": 0} for i in range(4)]
    (tmp_path / "t.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    assert sizes(open_source(str(tmp_path / "t.json"))) == ROLES_OF_FOUR


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "values", "found"),
    [
        ("is_test", [0, 0, 1, 1], {"train": 2, "test": 2}),
        ("is_valid", [True, False, False, False], {"train": 3, "val": 1}),
        ("is_training_image", [1, 1, 1, 0], {"train": 3, "test": 1}),
        ("test", [7, 8, 9, 10], {"train": 4}),
        ("fold", ["train", "train", "dev", "test"], ROLES_OF_FOUR),
        ("split", [0, 0, 0, 1], "which are no splits' names"),
        ("partition", ["train", "train", "query", "gallery"], "query, gallery fits none"),
        ("split", ["train", "train", "", "test"], r"(line 4|row 2): of no split"),
        ("is_test", [1, 1, 1, 1], "leaves no row for training"),
    ],
)
def test_columns_that_say_the_split(tmp_path: Path, kind: str, column: str, values: list, found: dict | str) -> None:
    if kind == "parquet":
        write_parquet(tmp_path / "t.parquet", [0, 0, 0, 0], **{column: values})
    else:
        write_images(tmp_path, *(f"{i}.png" for i in range(4)))
        rows = "".join(f"{i}.png,0,{value}\n" for i, value in enumerate(values))
        (tmp_path / "t.csv").write_text(f"image,label,{column}\n{rows}")
    if isinstance(found, dict):
        assert sizes(open_source(str(tmp_path / f"t.{kind}"))) == found
    else:
        with pytest.raises(UsageError, match=found):
            open_source(str(tmp_path / f"t.{kind}"))


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_files_in_folders_of_splits(tmp_path: Path, kind: str) -> None:
    for folder in ("train", "validation"):
        if kind == "parquet":
            write_parquet(tmp_path / folder / "0.parquet", [0, 1])
            continue
        (tmp_path / folder).mkdir()
        with tarfile.open(tmp_path / folder / "0.tar", "w") as archive:
            for name, content in (("0.png", png()), ("0.CLS", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert list(sizes(open_source(str(tmp_path)))) == ["train", "val"]


def test_a_zip_file_with_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("train\\cat\\1.png", "train\\dog\\1.png", "test\\cat\\1.png"):
            archive.writestr(name, png())
    splits = open_source(str(tmp_path / "a.zip"))
    assert sizes(splits) == {"train": 2, "test": 1}
    assert splits.train.image(0, 3).shape == (6, 5, 3)


def test_folders_without_an_image_are_told(tmp_path: Path) -> None:
    """On disk and in a zip file alike: a class that the user thinks is there is not."""
    import shutil

    write_images(tmp_path / "c", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    (tmp_path / "c/test/dog").mkdir()
    (tmp_path / "c/train/owl/notes").mkdir(parents=True)
    (tmp_path / "c/train/owl/notes/a.txt").write_text("none")
    shutil.make_archive(str(tmp_path / "c"), "zip", tmp_path / "c")
    for source in ("c", "c.zip"):
        notes = " ".join(open_source(str(tmp_path / source)).notes)
        assert "folders that hold no image are no classes" in notes
        assert "test/dog, train/owl" in notes, notes


def test_folders_that_hold_the_same_folders_may_be_splits(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{a}/{b}/{c}/1.png" for a in ("s", "n") for b in ("tr", "te") for c in (a, a + b, "y")))
    write_images(tmp_path, *(f"same/{b}/{c}/1.png" for b in ("tr", "te") for c in ("cat", "dog")))
    (note,) = open_source(str(tmp_path / "same")).notes
    assert note.endswith("All 2 hold the same folders: if they are splits, say --splits train=NAME,test=NAME.")
    splits = open_source(str(tmp_path / "same"), splits="train=tr,test=te")
    assert splits.test is not None
    (note,) = open_source(str(tmp_path / "s")).notes
    assert "same folders" not in note
