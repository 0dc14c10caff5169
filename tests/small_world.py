"""A folder with a little of everything that the pages speak of: their photographs, lists, archives, CIFAR, faces."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.torch import save_file

from longtail.data.recordio import write_recordio
from longtail.models.torchvision_compat import ensure_torchvision

COUNTS = {"cat": 12, "dog": 8, "hare": 6, "lynx": 5, "owl": 5, "pike": 5}
PEOPLE = {"Ann_Lee": 6, "Bo_Ray": 4, "Cy_Fox": 4}
rng = np.random.default_rng(0)


def make_world(folder: Path) -> None:
    """Fill the empty `folder`."""
    draw(folder / "photos", COUNTS)
    for name in ("more-photos", "labelled-photos"):
        draw(folder / name, dict.fromkeys(COUNTS, 3))
    draw(folder / "other-things", {"shoe": 3})
    draw(folder / "groceries" / "fruit", {"apple": 5, "pear": 4})
    draw(folder / "groceries" / "dairy", {"milk": 5})
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        shutil.copy(folder / "photos/cat/000.jpg", folder / name)
    (folder / "mix.csv").write_text(
        "class,share\n" + "".join(f"{name},{share}\n" for name, share in zip(COUNTS, (2, 2, 2, 1, 1, 1), strict=True))
    )
    draw(folder / "faces", PEOPLE, "{name}_{i:04d}.png", first=1, size=(56, 56))
    draw(folder / "others", {"Di_Poe": 2, "Eve_Roy": 2}, size=(56, 56))
    for name in ("lfw", "ijbc", "probes"):
        shutil.copytree(folder / "faces", folder / name)
    ensure_torchvision()
    import timm

    save_file(timm.create_model("resnet50").state_dict(), folder / "resnet50.safetensors")
    tables(folder)
    archives(folder)
    cifar(folder)
    face_lists(folder)


def draw(folder: Path, counts: dict[str, int], pattern: str = "{i:03d}.jpg", first: int = 0, size=(96, 80)) -> None:
    """Noise around a colour of each class's own."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        colour = 40 + 60 * np.array([k % 4, (k + 1) % 4, (k + 2) % 3])
        for i in range(first, first + count):
            pixels = np.clip(colour + rng.normal(0, 20, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / pattern.format(name=name, i=i))


def photographs(folder: Path) -> Iterator[tuple[str, str, int, bool]]:
    """Path within `photos`, class, its number, and whether the image is for testing: the first two of each class."""
    for k, name in enumerate(COUNTS):
        for file in sorted((folder / "photos" / name).iterdir()):
            yield f"{name}/{file.name}", name, k, file.stem < "002"


def tables(folder: Path) -> None:
    """Lists, CSV and JSON annotations of the photographs."""
    rows = list(photographs(folder))
    for split, wanted in (("train", False), ("test", True)):
        of_split = [row for row in rows if row[3] is wanted]
        lines = "".join(f"{path} {k}\n" for path, _, k, _ in of_split)
        for name in (split, f"ImageNet_LT_{split}"):
            (folder / f"{name}.txt").write_text(lines)
        (folder / f"{split}.csv").write_text(
            "path,label\n" + "".join(f"{path},{name}\n" for path, name, _, _ in of_split)
        )
        annotations = {
            "images": [{"id": i, "file_name": row[0]} for i, row in enumerate(of_split)],
            "annotations": [{"image_id": i, "category_id": row[2]} for i, row in enumerate(of_split)],
            "categories": [{"id": k, "name": name} for k, name in enumerate(COUNTS)],
        }
        (folder / f"{'train' if split == 'train' else 'val'}2018.json").write_text(json.dumps(annotations))
    for name in ("imagenet", "inat"):
        (folder / name).symlink_to("photos")
    (folder / "images").mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", "dx"])
        for i, (path, name, _, _) in enumerate(rows):
            shutil.copy(folder / "photos" / path, folder / "images" / f"ISIC_{i}.jpg")
            table.writerow([f"ISIC_{i}", name])


def archives(folder: Path) -> None:
    """Zip, tar and parquet shards, and arrays, of the photographs."""
    shutil.make_archive(str(folder / "flowers"), "zip", folder / "photos")
    (folder / "shards").mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, name, wanted in (("train", "train", False), ("val", "test", True)):
        rows = [row for row in photographs(folder) if row[3] is wanted]
        with tarfile.open(folder / "shards" / f"{split}-000.tar", "w") as archive:
            for i, (path, _, k, _) in enumerate(rows):
                archive.add(folder / "photos" / path, f"{i:04d}.jpg")
                (folder / "label").write_text(str(k))
                archive.add(folder / "label", f"{i:04d}.cls")
        (folder / "label").unlink()
        images = [{"bytes": (folder / "photos" / path).read_bytes(), "path": None} for path, *_ in rows]
        columns = {"image": pa.array(images, kind), "label": [k for *_, k, _ in rows]}
        pq.write_table(pa.table(columns), folder / "shards" / f"{name}-000.parquet")
    labels = np.repeat(np.arange(3), (8, 6, 4))
    arrays = {
        f"{split}_{what}": part
        for split in ("train", "test")
        for what, part in (("images", rng.integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)), ("labels", labels))
    }
    np.savez(folder / "arrays.npz", **arrays)


def cifar(folder: Path) -> None:
    """Both CIFARs in their official layout: of three classes, and of 22."""

    def part(labels: list[int], key: bytes) -> bytes:
        return pickle.dumps({b"data": rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8), key: labels}, 2)

    ten, hundred = folder / "cifar-10-batches-py", folder / "cifar-100-python"
    for path in (ten, hundred):
        path.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (ten / name).write_bytes(part([0, 1, 2], b"labels"))
    (ten / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"bird", b"car", b"deer"]}, 2))
    for name, repeats in (("train", 3), ("test", 1)):
        (hundred / name).write_bytes(part(list(range(22)) * repeats, b"fine_labels"))
    (hundred / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"thing %d" % i for i in range(22)]}, 2))
    shutil.copytree(hundred, folder / "elsewhere")


def face_lists(folder: Path) -> None:
    """Faces as RecordIO, as .bin sets, and the lists of LFW and IJB-C."""
    files = [sorted((folder / "faces" / name).iterdir()) for name in PEOPLE]
    write_recordio(folder / "train.rec", [(file.read_bytes(), k) for k, of in enumerate(files) for file in of])
    pairs = [(files[0][i], files[j % 2][i + 1 - j % 2], j % 2 == 0) for i in range(3) for j in range(4)]
    encoded = [file.read_bytes() for *pair, _ in pairs for file in pair]
    for name in ("cfp_fp", "agedb_30"):
        (folder / f"{name}.bin").write_bytes(pickle.dumps((encoded, [same for *_, same in pairs])))
    lines = ["2\t2"]
    for first, second in ((1, 2), (3, 4)):
        lines += [f"{name}\t{first}\t{second}" for name in ("Ann_Lee", "Bo_Ray")]
        lines += [f"Ann_Lee\t{first}\t{name}\t{second}" for name in ("Bo_Ray", "Cy_Fox")]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    templates = [
        f"{file.relative_to(folder / 'faces')} {k} {i}" for k, of in enumerate(files) for i, file in enumerate(of)
    ]
    # two templates of the first person, one of each other
    templates = [line.replace(" 0 ", " 9 ") if "0006" in line else line for line in templates]
    (folder / "face_tid_mid.txt").write_text("\n".join(templates) + "\n")
    (folder / "template_pair_label.txt").write_text("0 9 1\n0 1 0\n1 2 0\n")
