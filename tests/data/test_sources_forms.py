"""JSON annotations, archives, and writing any source in another's form."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_files import classes_of, png, sizes, write_images, write_parquet

from longtail.data import convert as conversion
from longtail.data.convert import convert
from longtail.data.decode import CorruptImage
from longtail.data.sources import open_source
from longtail.errors import LongtailError, UsageError

# JSON


def coco(**changes) -> dict:
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}, {"id": 11, "file_name": "c.png"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 30},
            {"id": 2, "image_id": 7, "category_id": 4},
            {"id": 3, "image_id": 11, "category_id": 30},
            {"id": 4, "image_id": 11, "category_id": 30},  # a second animal of one kind
        ],
        "categories": [{"id": 30, "name": "wolf"}, {"id": 4, "name": "lynx"}, {"id": 5, "name": "bear"}],
    } | changes


def test_coco(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"images/{name}.png" for name in "abc"))
    (tmp_path / "train.json").write_text(json.dumps(coco()))
    splits = open_source(str(tmp_path / "train.json"), root=str(tmp_path / "images"))
    assert classes_of(splits.train) == ["lynx", "wolf", "wolf"]
    assert splits.train.key(1) == "b.png"
    assert "1 of its 3 classes have no image and are left out: bear" in splits.notes[0]


def test_coco_without_categories_and_labels(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    content = coco()
    del content["categories"]
    content["annotations"].pop(1)
    (tmp_path / "t.json").write_text(json.dumps(content))
    splits = open_source(str(tmp_path / "t.json"))
    assert classes_of(splits.train) == ["30", "30"]
    assert "1 of 3 images have label -1, unlabelled, and are left out: a.png." in splits.notes[0]


IMAGES = coco()["images"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list; expected COCO's 'images'"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"images": [], "annotations": ' + "9" * 5000 + "}", "is not valid JSON|expected a list"),
        ({"images": IMAGES}, "expected a list 'annotations'"),
        (coco(annotations=[{"image_id": 1, "category_id": 4}]), "of image 1, which is not in 'images'"),
        (coco(annotations=[{"image_id": 7, "category_id": 6}]), "category 6, which is not in 'categories'"),
        (coco(annotations=[{"image_id": 7, "category_id": True}]), "category_id True; expected a whole number"),
        (coco(images=[{"id": 7, "file_name": 5}]), "is not in 'images'|file_name 5; expected a text"),
        (coco(images=[*IMAGES, IMAGES[0]]), "two of its images have the same id"),
        (
            coco(annotations=[{"image_id": 7, "category_id": c} for c in (4, 30)]),
            r"1 images are of several categories, first a\.png. Multi-label data and detection are not supported",
        ),
        (coco(categories=[{"id": c, "name": "wolf"} for c in (4, 30)]), "'wolf' twice"),
    ],
    ids=range(12),
)
def test_bad_json(tmp_path: Path, content: object, message: str) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "t.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match=message) as caught:
        open_source(str(tmp_path / "t.json"))
    assert len(str(caught.value)) < 500


# archives


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards(tmp_path: Path) -> None:
    images = [png() for _ in range(4)]
    write_tar(
        tmp_path / "train-000000.tar", {"a/0.png": images[0], "a/0.cls": b"2", "1.png": images[1], "1.cls": b"0\n"}
    )
    write_tar(tmp_path / "train-000001.tar", {"1.v2.PNG": images[2], "1.json": b'{"label": 2, "text": "x"}'})
    write_tar(tmp_path / "val-000000.tar", {"0.cls": b"0", "0.png": images[3]})
    splits = open_source(str(tmp_path))
    assert sizes(splits) == {"train": 3, "val": 1}
    assert classes_of(splits.train) == ["2", "0", "2"]
    assert [splits.train.read(i) for i in range(3)] == images[:3]
    assert splits.train.key(2) == "train-000001.tar/1.v2.PNG"
    assert splits.val is not None
    assert splits.val.read(0) == images[3]
    assert sizes(open_source(f"tar:{tmp_path}/train-*.tar")) == {"train": 3}


def test_webdataset_as_the_package_writes_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    images = [png() for _ in range(6)]
    with webdataset.TarWriter(str(tmp_path / "s.tar")) as sink:
        for i, image in enumerate(images):
            sink.write({"__key__": f"sample{i:04}", "png": image, "cls": i % 2})
    train = open_source(str(tmp_path / "s.tar")).train
    assert [train.read(i) for i in range(6)] == images
    assert classes_of(train) == list("010101")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"0.png": b"x", "1.png": b"y", "1.cls": b"3"},
            r"1 of its 2 images have no label beside them, first a\.tar//?0",
        ),
        ({"0.png": b"x", "0.json": b"{"}, r"0\.json: expected a label, or JSON with a field 'label'"),
        ({"0.png": b"x", "0.json": b'{"label": [1, 2]}'}, "several labels.*Multi-label"),
        ({"0.png": b"x", "0.cls": b"\xff"}, "expected a label"),
        ({"0.png": b"x", "0.cls": bytes(2**21)}, "is no label"),
        ({"notes.txt": b""}, "No images in tar:"),
    ],
)
def test_bad_tar(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "a.tar", files)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / "a.tar"))


def class_folders() -> dict[str, bytes]:
    names = [f"pets/{s}/{c}/{i}.png" for s, n in (("Train", 3), ("Test", 1)) for c in ("cat", "dog") for i in range(n)]
    return {name: png() for name in names} | {"pets/readme.txt": b"hello", "__MACOSX/pets/._x.png": b""}


@pytest.mark.parametrize("kind", ["tar", "stored.zip", "deflated.ZIP"])
def test_class_folders_in_an_archive(tmp_path: Path, kind: str) -> None:
    files = class_folders()
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        write_tar(path, files)
    else:
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_STORED if kind == "stored.zip" else zipfile.ZIP_DEFLATED
        ) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    splits = open_source(str(path))
    assert sizes(splits) == {"train": 6, "test": 2}
    assert classes_of(splits.train) == ["cat"] * 3 + ["dog"] * 3
    assert splits.test is not None
    for images in (splits.train, splits.test):
        for i in range(len(images)):
            assert images.read(i) == files[images.key(i).partition("/")[2]]
    assert "1 .txt" in splits.notes[0]


def test_two_tar_files_of_class_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        write_tar(tmp_path / f"{split}.tar", {f"{c}/{i}.png": png() for c in ("cat", "dog") for i in range(count)})
    assert sizes(open_source(str(tmp_path))) == {"train": 6, "test": 4}


def test_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for c in ("cat", "dog"):
            archive.writestr(f"{c}/1.png", png())
    raw = bytearray(path.read_bytes())
    raw[60] ^= 255
    path.write_bytes(raw)
    with pytest.raises(CorruptImage, match=r"cat/1\.png: (its archive is damaged there|its checksum)"):
        open_source(str(path)).train.image(0, 3)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UsageError, match="it is not a zip file, or a damaged one"):
        open_source(str(path))


# writing


def source_of(kind: str, root: Path) -> str:
    """A source of every kind, with two classes, three splits where it can have them."""
    names = [
        f"{s}/{c}/{i}.png" for s, n in (("train", 3), ("val", 1), ("test", 2)) for c in ("cat", "dog") for i in range(n)
    ]
    if kind == "npz":
        rng = np.random.default_rng(0)
        arrays = {"class_names": ["cat", "dog"]}
        for split, count in (("train", 6), ("val", 2), ("test", 4)):
            arrays |= {f"{split}_images": rng.integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)}
            arrays |= {f"{split}_labels": np.arange(count) % 2}
        np.savez(root / "a.npz", **arrays)
        return str(root / "a.npz")
    if kind == "parquet":
        for split, count in (("train", 3), ("val", 1), ("test", 2)):
            write_parquet(root / "p" / f"{split}.parquet", [0, 1] * count, ["cat", "dog"])
        return str(root / "p")
    write_images(root / "f", *names)
    if kind == "csv":
        rows = "".join(f"f/{name},{name.split('/')[1]},{name.split('/')[0]}\n" for name in names)
        (root / "a.csv").write_text("image,label,split\n" + rows)
        return str(root / "a.csv")
    return str(root / "f")


@pytest.mark.parametrize("form", ["parquet", "folder", "list"])
@pytest.mark.parametrize("kind", ["folder", "csv", "parquet", "npz"])
def test_what_is_written_is_what_was_read(tmp_path: Path, kind: str, form: str) -> None:
    before = open_source(source_of(kind, tmp_path))
    notes = convert(before, form, tmp_path / "out")
    if form == "list":
        splits = {
            s: open_source(str(tmp_path / "out/train.txt"), test=str(tmp_path / f"out/{s}.txt"))
            for s in ("val", "test")
        }
        after = {"train": splits["val"].train, "val": splits["val"].test, "test": splits["test"].test}
        names = dict(line.split("\t") for line in (tmp_path / "out/classes.tsv").read_text().splitlines())
        assert notes == ["A list holds class numbers only: the names are in classes.tsv."]
    else:
        after = open_source(str(tmp_path / "out")).named()
        names = {name: name for name in ("cat", "dog")}
    assert {role: len(images) for role, images in after.items()} == {"train": 6, "val": 2, "test": 4} == sizes(before)

    def content(images, name_of):
        return sorted(
            (name_of[images.class_names[images.labels[i]]], images.image(i, 3).tobytes()) for i in range(len(images))
        )

    for role, images in before.named().items():
        same = {name: name for name in ("cat", "dog")}
        assert content(images, same) == content(after[role], names)
        if kind != "npz":
            assert sorted(images.read(i) for i in range(len(images))) == sorted(
                after[role].read(i) for i in range(len(images))
            )


def test_arrays_of_more_than_8_bits(tmp_path: Path) -> None:
    arrays = {"train_labels": np.array([0, 1])}
    for dtype in (np.uint16, np.float32):
        images = np.linspace(0, 4000, 2 * 6).reshape(2, 2, 3).astype(dtype)
        np.savez(tmp_path / "a.npz", train_images=images, **arrays)
        convert(open_source(str(tmp_path / "a.npz")), "folder", tmp_path / f"{dtype.__name__}")
        for i, file in enumerate(sorted((tmp_path / dtype.__name__).rglob("*.*"))):
            with Image.open(file) as image:
                np.testing.assert_array_equal(np.asarray(image), images[i])


def test_names_that_folders_cannot_have(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["t-shirt/top", "bag", "bag"])
    notes = convert(open_source(str(tmp_path / "a.parquet")), "folder", tmp_path / "out")
    assert notes == ["1 classes have another name as a folder: 't-shirt/top' is 't-shirt_top'."]
    assert classes_of(open_source(str(tmp_path / "out")).train) == ["bag", "bag", "t-shirt_top"]
    write_parquet(tmp_path / "b.parquet", ["a/b", "a_b"])
    with pytest.raises(UsageError, match=r"Two classes would have the same folder.*Use --to parquet"):
        convert(open_source(str(tmp_path / "b.parquet")), "folder", tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "out"]


def test_equal_file_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    write_images(tmp_path / "f", "cat/x/1.png", "cat/y/1.PNG", "dog/1.png")
    for form in ("folder", "list"):
        convert(open_source(str(tmp_path / "f")), form, tmp_path / form)
        assert len(list((tmp_path / form).rglob("*.png"))) == 3


def test_parquet_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_GROUP", 400)
    monkeypatch.setattr(conversion, "_SHARD", 450)
    before = open_source(source_of("folder", tmp_path))
    convert(before, "parquet", tmp_path / "out")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "train-00000-of-00002.parquet" in files
    after = open_source(str(tmp_path / "out"))
    assert sizes(after) == sizes(before)
    assert [after.train.read(i) for i in range(6)] == [before.train.read(i) for i in range(6)]


@pytest.mark.parametrize("form", ["parquet", "folder", "list"])
def test_nothing_half_written_is_left(tmp_path: Path, form: str) -> None:
    write_images(tmp_path / "f", "cat/1.png", "dog/1.png")
    (tmp_path / "f/dog/2.png").write_text("no image")
    with pytest.raises(LongtailError, match=r"cannot read image dog/2\.png: not an image"):
        convert(open_source(str(tmp_path / "f")), form, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    (tmp_path / "f/dog/2.png").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(UsageError, match="out already exists"):
        convert(open_source(str(tmp_path / "f")), form, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
