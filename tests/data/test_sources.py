import io
import json
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from longtail.data.decode import CorruptImage
from longtail.data.images import ImageSet
from longtail.data.longtail import check_labels
from longtail.data.sources import open_source
from longtail.data.values import find_range
from longtail.errors import UsageError

rng = np.random.default_rng(0)


def pixels() -> np.ndarray:
    return rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_images(root: Path, names: list[str]) -> list[np.ndarray]:
    arrays = [pixels() for _ in names]
    for name, array in zip(names, arrays, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(array))
    return arrays


def check(images: ImageSet, arrays: list[np.ndarray], labels: list[int], names: list[str]) -> None:
    assert images.class_names == tuple(names)
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == labels
    assert len({images.key(i) for i in range(len(images))}) == len(images)
    for copy in (images, pickle.loads(pickle.dumps(images))):
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(copy.image(i, 3), array)


# folder


def test_folder_of_classes(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["cat/2.png", "cat/deep/1.PNG", "dog/a b.png"])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    splits = open_source(str(tmp_path))
    check(splits.train, arrays, [0, 0, 1], ["cat", "dog"])
    assert splits.test is None
    assert splits.train.key(1) == "cat/deep/1.PNG"


def test_folder_with_splits(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["train/cat/1.png", "train/dog/1.png", "train/eel/1.png", "test/eel/2.png"])
    splits = open_source(f"folder:{tmp_path}")
    check(splits.train, arrays[:3], [0, 1, 2], ["cat", "dog", "eel"])
    assert splits.test is not None
    check(splits.test, arrays[3:], [2], ["cat", "dog", "eel"])


def test_folder_with_a_class_called_train(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["bus/1.png", "train/1.png"])
    check(open_source(str(tmp_path)).train, arrays, [0, 1], ["bus", "train"])


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UsageError, match=r"No images in .*: expected one sub-folder per class"):
        open_source(str(tmp_path))


def test_folder_with_an_empty_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/1.png", "dog/1.png"])
    (tmp_path / "bat").mkdir()
    assert open_source(str(tmp_path)).train.class_names == ("cat", "dog")


def test_truncated_file_in_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat/1.png", "dog/1.png"])
    raw = (tmp_path / "dog/1.png").read_bytes()
    (tmp_path / "dog/1.png").write_bytes(raw[: len(raw) // 2])
    images = open_source(str(tmp_path)).train
    with pytest.raises(CorruptImage, match=r"folder:.* \(train\): cannot read image dog/1.png: .*truncated") as caught:
        images.image(1, 3)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("photos/cat/1\udcff.png", r"cat/1\\xff\.png"),
        ("photos/cat\udcff/1.png", r"cat\\xff/1\.png"),
        ("photos\udcff/cat/1.png", r"folder:.*photos\\xff \(train\)"),
    ],
)
def test_names_that_are_not_utf8(tmp_path: Path, image: str, name: str) -> None:
    write_images(tmp_path, [image])
    with pytest.raises(UsageError, match=f"The name b'{name}' is not UTF-8: rename it"):
        open_source(f"folder:{tmp_path}/{image.partition('/')[0]}")


# lists


def test_list(tmp_path: Path) -> None:
    arrays = write_images(tmp_path / "images", ["a/one.png", "with space/two .png", "b.png"])
    text = "a/one.png 1\r\n\nwith space/two .png\t0\nb.png   2\n"
    (tmp_path / "train.txt").write_text(text)
    images = open_source(str(tmp_path / "train.txt"), root=str(tmp_path / "images")).train
    check(images, arrays, [1, 0, 2], ["0", "1", "2"])
    (tmp_path / "images" / "train.txt").write_text(text)
    check(open_source(f"list:{tmp_path}/images/train.txt").train, arrays, [1, 0, 2], ["0", "1", "2"])


def test_list_with_a_test_list_of_fewer_classes(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, [f"{i}.png" for i in range(12)])
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {i}\n" for i in range(12)))
    (tmp_path / "test.txt").write_text("3.png 3\n11.png 10\n")
    splits = open_source(str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    assert splits.test is not None
    check(splits.test, [arrays[3], arrays[11]], [3, 10], [str(i) for i in range(12)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 0\na.png\n", r"train\.txt: line 2: no label in 'a\.png'; expected 'relative/path label'"),
        ("a.png 0\n7\n", "line 2: no label in '7'"),
        ("a.png 0\nmy file.png\n", "line 2: no label in 'my file.png'"),
        ("a.png 0\na.png -2\n", "line 2: label -2 is out of range"),
        ("a.png -1\n", "none of its 1 images has a label"),
        ("b.png 0\n", r"its first image 'b\.png' is not under .*--root"),
        ("\n", "names no image"),
    ],
)
def test_bad_list(tmp_path: Path, text: str, message: str) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / "train.txt"))


def test_an_image_that_a_list_names_and_is_missing(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "train.txt").write_text("a.png 0\nb.png 1\n")
    with pytest.raises(CorruptImage, match=r"cannot read image b\.png: No such file"):
        open_source(str(tmp_path / "train.txt")).train.image(1, 3)


# CSV


def test_csv_with_names(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["a, b.png", "c.png", "d.png"])
    (tmp_path / "t.csv").write_text(
        '\ufeffid,path,label\n1,"a, b.png",dog\n2,c.png,cat\n3,d.png,dog\n', encoding="utf-8"
    )
    check(open_source(str(tmp_path / "t.csv")).train, arrays, [1, 0, 1], ["cat", "dog"])


def test_csv_with_numbers(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["a.png", "c.png", "d.png"])
    (tmp_path / "t.csv").write_text("label,image\n10,a.png\n9,c.png\n0,d.png\n")
    check(open_source(str(tmp_path / "t.csv")).train, arrays, [2, 1, 0], ["0", "9", "10"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "what,label\na.png,1\n",
            r"expected columns 'image' \(or 'path'\) and 'label'; found what, label.*--image-column",
        ),
        ("", "found none"),
        ("path,label\na.png,1\na.png,\n", "line 3: no label"),
        ("path,label\na.png,1\na.png\n", "line 3: 1 fields where the header has 2: 'a.png'"),
        ("path,label\na.png,1\n,2\n", "line 3: no path"),
        ("path,label\na.png,-2\n", r"line 2: label -2 is out of range"),
        ("path,label\na.png,-1\n", r"none of its 1 images has a label"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / "t.csv"))


# parquet


def write_parquet(path: Path, rows: list[dict], labels: list, names: list[str] | None, **columns: str) -> None:
    image, label = columns.get("image", "image"), columns.get("label", "label")
    table = pa.table(
        {image: pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), label: pa.array(labels)}
    )
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def embedded(arrays: list[np.ndarray]) -> list[dict]:
    return [{"bytes": png(array), "path": None} for array in arrays]


@pytest.mark.parametrize("folder", ["", "data/"])
def test_parquet_shards_and_splits(tmp_path: Path, folder: str) -> None:
    arrays = [pixels() for _ in range(8)]
    names = ["dog", "cat"]
    write_parquet(tmp_path / f"{folder}train-00000-of-00002.parquet", embedded(arrays[:5]), [1, 0, 1, 1, 0], names)
    write_parquet(tmp_path / f"{folder}train-00001-of-00002.parquet", embedded(arrays[5:7]), [0, 1], names)
    write_parquet(tmp_path / f"{folder}test-00000-of-00001.parquet", embedded(arrays[7:]), [1], names)
    splits = open_source(str(tmp_path))
    check(splits.train, arrays[:7], [1, 0, 1, 1, 0, 0, 1], names)
    assert splits.train.key(6) == "train-00001-of-00002.parquet#1"
    assert splits.test is not None
    check(splits.test, arrays[7:], [1], names)
    pattern = open_source(f"{tmp_path}/{folder}train-*.parquet")
    check(pattern.train, arrays[:7], [1, 0, 1, 1, 0, 0, 1], names)
    assert len(pickle.dumps(splits.train)) < 1500  # no pixels


def test_parquet_with_other_column_names_and_images_in_files(tmp_path: Path) -> None:
    arrays = [*write_images(tmp_path, ["pictures/a.png"]), pixels()]
    rows = [{"bytes": None, "path": "pictures/a.png"}, *embedded(arrays[1:])]
    write_parquet(tmp_path / "t.parquet", rows, [0, 1], ["x", "y"], image="img", label="fine_label")
    check(open_source(str(tmp_path / "t.parquet")).train, arrays, [0, 1], ["x", "y"])


def test_parquet_without_metadata(tmp_path: Path) -> None:
    arrays = [pixels() for _ in range(3)]
    write_parquet(tmp_path / "a.parquet", embedded(arrays), [2, 0, 1], None)
    check(open_source(str(tmp_path / "a.parquet")).train, arrays, [2, 0, 1], ["0", "1", "2"])
    write_parquet(tmp_path / "b.parquet", embedded(arrays), ["eel", "cat", "eel"], None)
    check(open_source(str(tmp_path / "b.parquet")).train, arrays, [1, 0, 1], ["cat", "eel"])


def test_test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    arrays = [pixels() for _ in range(3)]
    write_parquet(tmp_path / "train.parquet", embedded(arrays), [0, 1, 2], ["cat", "dog", "eel"])
    write_images(tmp_path / "other", ["cat/1.png", "eel/1.png"])
    splits = open_source(str(tmp_path / "train.parquet"), test=f"folder:{tmp_path}/other")
    assert splits.test is not None
    assert splits.test.class_names == ("cat", "dog", "eel")
    assert splits.test.labels.tolist() == [0, 2]


def test_test_classes_that_are_not_training_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ["a/cat/1.png", "a/dog/1.png", "b/cat/1.png", "b/fox/1.png"])
    with pytest.raises(
        UsageError, match=r"Class 'fox' of folder:.*b \(train\) is not a class of .*\(fox/1\.png; 1 of 2 classes"
    ):
        open_source(str(tmp_path / "a"), test=str(tmp_path / "b"))


def test_bad_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "range.parquet", embedded([pixels(), pixels()]), [0, 2], ["a", "b"])
    with pytest.raises(UsageError, match=r"label 2 of image range\.parquet row 1 is out of range; expected 0 to 1"):
        open_source(str(tmp_path / "range.parquet"))
    write_parquet(tmp_path / "null.parquet", embedded([pixels(), pixels()]), [0, None], ["a", "b"])
    with pytest.raises(UsageError, match=r"null\.parquet row 1: no label"):
        open_source(str(tmp_path / "null.parquet"))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "columns.parquet")
    with pytest.raises(UsageError, match=r"expected columns 'image' .*found x"):
        open_source(str(tmp_path / "columns.parquet"))
    pq.write_table(pa.table({"image": [1], "label": [1]}), tmp_path / "type.parquet")
    with pytest.raises(UsageError, match=r"column 'image' is int64; expected a struct of bytes and path"):
        open_source(str(tmp_path / "type.parquet"))
    (tmp_path / "text.parquet").write_text("hello, this is no parquet file")
    with pytest.raises(UsageError, match=r"Cannot read .*text\.parquet as parquet"):
        open_source(str(tmp_path / "text.parquet"))
    with pytest.raises(UsageError, match="No parquet file"):
        open_source(f"parquet:{tmp_path}/nothing*.parquet")
    write_parquet(tmp_path / "list.parquet", embedded([pixels()]), [[0]], None)
    with pytest.raises(
        UsageError,
        match=r"list\.parquet: column 'label' is list<.*>, several labels .*Multi-label.*expected one number or class name",
    ):
        open_source(str(tmp_path / "list.parquet"))
    write_parquet(tmp_path / "empty.parquet", [], [], ["a", "b"])
    with pytest.raises(UsageError, match=r"empty\.parquet holds no images"):
        open_source(str(tmp_path / "empty.parquet"))


@pytest.mark.parametrize(
    "metadata",
    ["{", "[]", '{"info": null}', '{"info": {"features": []}}', '{"info": {"features": {"label": {"names": 5}}}}'],
)
def test_malformed_parquet_metadata(tmp_path: Path, metadata: str) -> None:
    write_parquet(tmp_path / "a.parquet", embedded([pixels()]), [0], None)
    table = pq.read_table(tmp_path / "a.parquet").replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=r"a\.parquet: its metadata 'huggingface' is malformed"):
        open_source(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("column", [0, 2], ids=["image", "label"])
def test_damaged_parquet_page(tmp_path: Path, column: int) -> None:
    write_parquet(tmp_path / "a.parquet", embedded([pixels()]), [0], None)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        part = file.metadata.row_group(0).column(column)
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    start, size = part.dictionary_page_offset, part.total_compressed_size
    raw[start : start + size] = bytes(size)
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(UsageError, match=r"Cannot read .*a\.parquet as parquet: "):
        open_source(str(tmp_path / "a.parquet"))


# npz and the embedded set


def test_npz(tmp_path: Path) -> None:
    arrays = rng.integers(0, 256, (4, 3, 3, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz", train_images=arrays[:3], train_labels=[1, 0, 1], test_images=arrays[3:], test_labels=[0]
    )
    splits = open_source(str(tmp_path / "a.npz"))
    check(splits.train, list(arrays[:3]), [1, 0, 1], ["0", "1"])
    assert splits.test is not None
    check(splits.test, [arrays[3]], [0], ["0", "1"])


def test_npz_of_deep_pixels_is_scaled_by_what_it_holds(tmp_path: Path) -> None:
    arrays = np.arange(0, 4096, 256, dtype=np.uint16).reshape(1, 4, 4)
    np.savez(tmp_path / "a.npz", train_images=arrays, train_labels=[0])
    images = open_source(str(tmp_path / "a.npz")).train
    images.value_range = find_range(images)
    assert images.value_range == (0, 3840)
    np.testing.assert_array_equal(images.image(0, 1)[..., 0], arrays[0] // 256 * 17)


def rewrite_zip(path: Path, change) -> None:
    """Write the members of a zip file anew, each as `change(name, content)` gives it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_npz_with_arrays_that_nobody_needs(tmp_path: Path) -> None:
    """Neither their size nor what is wrong with them matters."""
    np.savez_compressed(
        tmp_path / "a.npz", train_images=np.zeros((1, 2, 2), np.uint8), train_labels=[0], z=np.zeros(2**28, np.uint8)
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("bad.npy", b"no array")
    tracemalloc.start()
    assert len(open_source(str(tmp_path / "a.npz")).train) == 1
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "shape", ["(1, 1125899906842624)", "(3000000000,)", "(-1, 2, 2)", "(" + "9" * 4000 + ",)", "(" * 3000]
)
def test_npz_that_announces_more_than_it_holds(tmp_path: Path, shape: str) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.zeros((1, 2, 2), np.uint8), train_labels=[0])
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    member = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(4)
    rewrite_zip(tmp_path / "a.npz", lambda name, content: member if "images" in name else content)
    tracemalloc.start()
    with pytest.raises(UsageError, match="array train_images: it is not an npz file of plain arrays, or damaged"):
        open_source(str(tmp_path / "a.npz"))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("field", ["version", "method", "data"])
def test_npz_with_a_damaged_member(tmp_path: Path, field: str) -> None:
    np.savez_compressed(
        tmp_path / "a.npz", train_images=rng.integers(0, 255, (9, 9, 9), dtype=np.uint8), train_labels=[0] * 9
    )
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    central = raw.index(b"PK\x01\x02")
    at, value = {"version": (central + 6, 99), "method": (central + 10, 77), "data": (300, raw[300] ^ 0xFF)}[field]
    raw[at] = value
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(UsageError, match=r"Cannot read .*a\.npz.*or damaged"):
        open_source(str(tmp_path / "a.npz"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros(1)}, "expected arrays train_images and train_labels; found images"),
        (
            {"train_images": np.zeros((1, 2)), "train_labels": [0]},
            r"train_images is float64 \[1, 2\]; expected numbers, best uint8, \[N, H, W\]",
        ),
        ({"train_images": np.zeros((1, 2, 2), np.uint8), "train_labels": [0, 1]}, r"expected integers \[1\]"),
        ({"train_images": np.array([{}]), "train_labels": [0]}, "not an npz file of plain arrays"),
        (
            {"train_images": np.zeros((1, 2, 2), np.uint8), "train_labels": [0], "class_names": "cat"},
            r"class_names has shape \[\]",
        ),
        ({"train_images": np.zeros((1, 2, 2, 5), np.uint8), "train_labels": [0]}, "of up to 4 channels"),
        ({"train_images": np.zeros((1, 0, 2), np.uint8), "train_labels": [0]}, r"uint8 \[1, 0, 2\]"),
        (
            {"train_images": np.zeros((1, 2, 2), np.uint8), "train_labels": [3], "class_names": ["a", "b"]},
            "label 3 of image train#0 is out of range",
        ),
        ({"train_images": np.zeros((0, 2, 2), np.uint8), "train_labels": np.zeros(0, int)}, "holds no images"),
    ],
)
def test_bad_npz(tmp_path: Path, content: dict, message: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(UsageError, match=message):
        open_source(str(tmp_path / "a.npz"))


def test_embedded_set() -> None:
    splits = open_source("fashion-mnist-lt")
    check_labels(splits.train)
    assert np.bincount(splits.train.labels).tolist() == [600, 359, 215, 129, 77, 46, 27, 16, 10, 6]
    assert splits.test is not None
    assert np.bincount(splits.test.labels).tolist() == [100] * 10
    assert splits.train.image(0, 1).shape == (28, 28, 1)


# CIFAR


def write_cifar10(root: Path, protocol: int, order: str = "C") -> np.ndarray:
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    flat = images.transpose(0, 3, 1, 2).reshape(12, 3072)
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for k, file in enumerate(files):
        batch = {
            b"data": np.array(flat[2 * k : 2 * k + 2], order=order),
            b"labels": [k % 2, 1],
            b"batch_label": b"part",
            b"filenames": [b"a", b"b"],
        }
        (root / file).write_bytes(pickle.dumps(batch, protocol))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"], b"num_vis": 3072}, protocol))
    return images


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cifar10(tmp_path: Path, protocol: int, order: str) -> None:
    images = write_cifar10(tmp_path, protocol, order)
    splits = open_source(str(tmp_path))
    check(splits.train, list(images[:10]), [0, 1, 1, 1, 0, 1, 1, 1, 0, 1], ["cat", "dog"])
    assert splits.test is not None
    check(splits.test, list(images[10:]), [1, 1], ["cat", "dog"])


def test_cifar10_as_python_2_pickled_it(tmp_path: Path) -> None:
    """The official files hold byte strings under the opcodes of Python 2, and numpy's old module name."""
    write_cifar10(tmp_path, 2)
    raw = bytes(range(256)) * 12
    state = b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    state += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR" + state
    array += b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    (tmp_path / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x01eu.")
    splits = open_source(str(tmp_path))
    assert splits.test is not None
    expected = np.frombuffer(raw, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
    check(splits.test, [expected], [1], ["cat", "dog"])


def test_cifar100(tmp_path: Path) -> None:
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    flat = images.transpose(0, 3, 1, 2).reshape(3, 3072)
    for file, part in (("train", slice(0, 2)), ("test", slice(2, 3))):
        labels = [1, 0, 0][part]
        batch = {b"data": flat[part], b"fine_labels": labels, b"coarse_labels": [0] * len(labels)}
        (tmp_path / file).write_bytes(pickle.dumps(batch, 2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"apple", b"bear"]}, 2))
    splits = open_source(str(tmp_path))
    check(splits.train, list(images[:2]), [1, 0], ["apple", "bear"])
    assert splits.test is not None
    check(splits.test, list(images[2:]), [0], ["apple", "bear"])


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    write_cifar10(tmp_path, 2)
    touched = tmp_path / "touched"
    for call in (
        (exec, f"open({str(touched)!r}, 'w')"),
        (Path.touch, touched),
        (subprocess.call, ["touch", str(touched)]),
    ):
        (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Hostile(*call)}, protocol))
        with pytest.raises(UsageError, match=r"Cannot read .*data_batch_3 .*it asks for .*refused"):
            open_source(f"cifar10:{tmp_path}")
    assert not touched.exists()


def test_numpy_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    """numpy would take the bytes of such an array for pointers."""
    write_cifar10(tmp_path, 2)
    for data in (np.array([{}, []], dtype=object), np.zeros((2, 3072), np.float32)):
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": data, b"labels": [0, 1]}, 2))
        with pytest.raises(UsageError, match=r"where bytes or whole numbers are expected|expected .data. of 3,072"):
            open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Cannot read"),
        (b"no pickle", "Cannot read"),
        (pickle.dumps([1]), "Cannot read"),
        (pickle.dumps({b"data": b"x", b"labels": [1]}), "expected 'data' of 3,072 bytes an image"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}, 2), "as many 'labels'"),
    ],
)
def test_bad_cifar_batch(tmp_path: Path, content: bytes, message: str) -> None:
    write_cifar10(tmp_path, 2)
    (tmp_path / "data_batch_2").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        open_source(str(tmp_path))
    assert "data_batch_2" in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_cifar_pickled_anew_by_python_3(tmp_path: Path, protocol: int) -> None:
    """With bytes, arrays and numbers as each protocol writes them; Fortran order and labels in an array too."""
    write_cifar10(tmp_path, 2)
    expected = open_source(str(tmp_path)).train
    for i in range(1, 6):
        path = tmp_path / f"data_batch_{i}"
        images = pickle.loads(path.read_bytes(), encoding="bytes")
        images[b"data"] = np.asfortranarray(images[b"data"])
        images[b"labels"] = [np.int64(label) for label in images[b"labels"]] if i % 2 else np.array(images[b"labels"])
        path.write_bytes(pickle.dumps(images, protocol))
    meta = tmp_path / "batches.meta"
    meta.write_bytes(pickle.dumps(pickle.loads(meta.read_bytes(), encoding="bytes"), protocol))
    found = open_source(str(tmp_path)).train
    assert found.class_names == expected.class_names
    assert np.array_equal(found.labels, expected.labels)
    assert all(np.array_equal(found.read(i), expected.read(i)) for i in range(len(expected)))


class Stateless:
    def __reduce__(self):
        return np.array(0, np.uint8).__reduce__()[:2]


BYTES = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("batches.meta", {b"label_names": [b"\xff", b"cat"]}, r"the class name b'\\xff' is not UTF-8"),
        ("batches.meta", {b"label_names": [["cat"], 5]}, "has no list of names 'label_names'"),
        ("data_batch_4", {b"data": Stateless(), b"labels": [0, 1]}, "expected 'data' of 3,072 bytes"),
        ("data_batch_4", {b"data": BYTES, b"labels": ["a", 0]}, "'labels' holds 'a'; expected class numbers"),
        ("data_batch_4", {b"data": BYTES, b"labels": [10**30, 0]}, "'labels' holds something of type int"),
        ("data_batch_4", {b"data": BYTES, b"labels": [[0], [1]]}, "'labels' holds something of type list"),
        ("data_batch_4", {b"data": BYTES, b"labels": [-1, 0]}, "'labels' holds -1"),
        ("data_batch_4", {b"data": BYTES, b"labels": [0.5, 0]}, "'labels' holds 0.5"),
    ],
)
def test_cifar_files_of_something_else(tmp_path: Path, file: str, content: dict, message: str) -> None:
    write_cifar10(tmp_path, 2)
    (tmp_path / file).write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UsageError, match=message) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_pickle_that_would_number_more_objects_than_memory_holds(tmp_path: Path) -> None:
    write_cifar10(tmp_path, 2)
    (tmp_path / "data_batch_2").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(UsageError, match="data_batch_2: expected 'data' of 3,072 bytes an image"):
        open_source(str(tmp_path))


def test_cifar_with_a_missing_file(tmp_path: Path) -> None:
    write_cifar10(tmp_path, 2)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(UsageError, match=r"data_batch_5 is missing"):
        open_source(str(tmp_path))


# Hugging Face hub


class FakeRows(list):
    """As much of datasets.Dataset as is used."""

    features: dict

    def __getitem__(self, at):
        return [row[at] for row in self] if isinstance(at, str) else super().__getitem__(at)

    def cast_column(self, name, feature):
        assert feature.decode is False
        return self


def fake_datasets(splits: dict[str, FakeRows]) -> SimpleNamespace:
    class Image:
        def __init__(self, decode=True):
            self.decode = decode

    class ClassLabel:
        names = ("cat", "dog")

    for rows in splits.values():
        rows.features = {"img": Image(), "label": ClassLabel()}
    return SimpleNamespace(Image=Image, ClassLabel=ClassLabel, load_dataset={"someone/pets": splits}.__getitem__)


def test_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = [*write_images(tmp_path, ["a.png"]), pixels()]
    train = FakeRows([{"img": {"bytes": None, "path": str(tmp_path / "a.png")}, "label": 0}])
    test = FakeRows([{"img": {"bytes": png(arrays[1]), "path": None}, "label": 0}])
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets({"train": train, "validation": test}))
    monkeypatch.setenv("HOME", "someone")
    splits = open_source("hf:~/pets")
    np.testing.assert_array_equal(splits.train.image(0, 3), arrays[0])
    assert splits.train.class_names == ("cat",)
    assert "1 of its 2 classes have no image and are left out: dog" in splits.notes[0]
    assert splits.train.labels.tolist() == [0]
    assert splits.test is None
    assert splits.val is not None
    np.testing.assert_array_equal(splits.val.image(0, 3), arrays[1])
    assert splits.val.key(0) == "validation#0"


def test_hub_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'longtail\[hf\]'"):
        open_source("hf:someone/pets")


# naming a source


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("foldr:/x", "Unknown source kind 'foldr'. Did you mean 'folder'"),
        ("fashion-mnist", "Did you mean 'fashion-mnist-lt'"),
        ("/no/such/place", "'/no/such/place' is neither a file nor a folder. Give a path"),
        ("folder:/no/such/place", "Folder /no/such/place does not exist"),
        ("list:/no/such.txt", "Cannot read /no/such.txt: No such file"),
        ("csv:/no/such.csv", "Cannot read /no/such.csv: No such file"),
        ("npz:/no/such.npz", "Cannot read /no/such.npz: No such file"),
        ("cifar10:/no/such", "/no/such/batches.meta is missing"),
        ("parquet:/no/such", "No parquet file at /no/such"),
    ],
)
def test_missing_and_unknown_sources(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_source(spec)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "csv", "folder", "list", "npz", "parquet", "rec"])
def test_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"{tmp_path}/none"):
        open_source(f"{kind}:~/none")


def test_root_without_a_list() -> None:
    with pytest.raises(UsageError, match="--root is for coco: and csv: and list: sources; 'fashion-mnist-lt' is none"):
        open_source("fashion-mnist-lt", root="/data")


def test_file_of_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(UsageError, match=r"Cannot tell what kind of source .*a\.bin is. Write kind:"):
        open_source(str(tmp_path / "a.bin"))


def test_selection_reads_the_chosen_images(tmp_path: Path) -> None:
    arrays = write_images(tmp_path, ["cat/1.png", "cat/2.png", "dog/1.png"])
    images = open_source(str(tmp_path)).train.select([2, 1, 0]).select([1, 0])
    check(images, [arrays[1], arrays[2]], [0, 1], ["cat", "dog"])
    assert images.key(0) == "cat/2.png"


def test_hub_folders_that_were_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(pixels()), "path": None}] * 3, "label": [1, 0, -1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    saved = datasets.Dataset.from_dict(rows, features=features)
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=saved, test=saved).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        splits = open_source(f"hf:{tmp_path / name}")
        assert splits.train.labels.tolist() == [1, 0]
        assert (splits.test is None) == (name == "one")


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("uint8", [1, 2, 1], ["1", "2", "1"]),
        ("int8", [-1, 2, 5], ["2", "5"]),
        ("float32", [1.0, 2.0, 1.0], ["1", "2", "1"]),
        ("string", ["ash", "7", "ash"], ["ash", "7", "ash"]),
        ("float32", [1.0, 1.5, 1.0], "train row 1: label 1.5 is no class number"),
        ("string", ["ash", None, "ash"], "train row 1: no label"),
    ],
)
def test_hub_labels_without_class_names(tmp_path: Path, kind: str, labels: list, classes: list[str] | str) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    rows = {"image": [{"bytes": png(pixels()), "path": None}] * 3, "label": labels}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    if isinstance(classes, str):
        with pytest.raises(UsageError, match=classes):
            open_source(f"hf:{tmp_path / 'd'}")
    else:
        train = open_source(f"hf:{tmp_path / 'd'}").train
        assert [train.class_names[c] for c in train.labels] == classes
