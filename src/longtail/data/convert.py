"""Writing any source in another's form, so that whatever can be read once can be shared."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import LongtailError, UsageError
from .decode import CorruptImage, open_image
from .images import ImageSet, Splits

FORMS = ("parquet", "folder", "list")

_SHARD = 500 * 2**20  # bytes of images in one parquet file
_GROUP = 64 * 2**20  # and in one of its row groups, which are held in memory
_SUFFIXES = {"JPEG": ".jpg", "JPEG2000": ".jp2", "MPO": ".jpg", "TIFF": ".tif"}  # others are called as their format
_UNSAFE = str.maketrans(dict.fromkeys('/\\:*?"<>|\x00\n\r\t', "_"))


def convert(splits: Splits, form: str, out: Path, progress: Callable[[], object] = lambda: None) -> list[str]:
    """Write the images of `splits` to the new folder `out` as "parquet" (Hugging Face's convention), "folder" (a folder for
    each class) or "list" (text files of `path label` beside the images). Returns what there is to say of it.

    Encoded images keep their bytes; those of arrays become PNG, or TIFF where PNG cannot hold them. `progress` is called
    after each. Raises `UsageError` where `out` is there already, `LongtailError` for an image that cannot be read and where
    the disk refuses; nothing is left of `out` then.
    """
    if form not in FORMS:
        raise UsageError(f"Unknown form '{form}': expected {', '.join(FORMS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists: choose another place.")
    write = {"parquet": _parquet, "folder": _folder, "list": _list}[form]
    temporary = out.with_name(f".{out.name}.tmp")  # always the same, so that what a killed one left is overwritten
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        notes = write(splits, temporary, progress)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
        return notes
    except OSError as error:
        raise LongtailError(
            f"Cannot write {out}: {error.strerror or error}. Free some space or choose another place."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _encoded(images: ImageSet, progress: Callable[[], object]) -> Iterator[tuple[int, bytes, str]]:
    """Number, bytes and file name of each image."""
    for i in range(len(images)):
        try:
            raw = images.read(i)
            content = raw if isinstance(raw, bytes) else _as_file(raw)
            suffix = _suffix(content)
        except CorruptImage as error:
            raise CorruptImage(f"{images.name}: cannot read image {images.key(i)}: {error}.") from error
        stem = images.key(i).rpartition("/")[2].translate(_UNSAFE)
        stem = stem[: -len(Path(stem).suffix)] if Path(stem).suffix.lower() in (suffix, ".jpeg", ".tiff") else stem
        yield i, content, (stem.lstrip(".") or str(i)) + suffix
        progress()


def _as_file(pixels: np.ndarray) -> bytes:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    file = io.BytesIO()
    try:
        image = Image.fromarray(pixels)
        image.save(file, "TIFF" if image.mode in ("F", "I") else "PNG")
    except (TypeError, ValueError, OSError, KeyError) as error:
        raise CorruptImage(f"pixels {pixels.dtype} {list(pixels.shape)}, which no image file holds") from error
    return file.getvalue()


def _suffix(content: bytes) -> str:
    try:
        with open_image(io.BytesIO(content)) as image:
            form = image.format or ""
    except CorruptImage:
        raise
    except Exception as error:  # Pillow's parsers meet damaged headers with errors of every type
        raise CorruptImage("not an image in a format that is read") from error
    return _SUFFIXES.get(form, f".{form.lower()}")


def _parquet(splits: Splits, out: Path, progress: Callable[[], object]) -> list[str]:
    import pyarrow as pa

    features = {"image": {"_type": "Image"}, "label": {"names": list(splits.train.class_names), "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for name, images in splits.named().items():
        writer = _Shards(out, name, schema)
        for i, content, path in _encoded(images, progress):
            writer.add({"image": {"bytes": content, "path": path}, "label": int(images.labels[i])}, len(content))
        writer.close()
    return []


class _Shards:
    """Parquet files of one split, each of about `_SHARD` bytes, written `_GROUP` bytes at a time."""

    def __init__(self, out: Path, split: str, schema: Any) -> None:
        self.out, self.split, self.schema = out, split, schema
        self.files: list[Path] = []
        self.writer: Any = None
        self.rows: list[dict[str, Any]] = []
        self.size = self.written = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        self.rows.append(row)
        self.size += size
        if self.size >= _GROUP:
            self._flush()
            if self.written >= _SHARD:
                self._finish()

    def close(self) -> None:
        if self.rows:
            self._flush()
        self._finish()
        for number, file in enumerate(self.files):
            file.rename(self.out / f"{self.split}-{number:05}-of-{len(self.files):05}.parquet")

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.writer is None:
            self.files.append(self.out / f"{self.split}-{len(self.files):05}.parquet")
            self.writer = pq.ParquetWriter(self.files[-1], self.schema)
        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows, self.written, self.size = [], self.written + self.size, 0

    def _finish(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.written = None, 0


def _folder(splits: Splits, out: Path, progress: Callable[[], object]) -> list[str]:
    folders = [name.translate(_UNSAFE).lstrip(".").strip() or "class" for name in splits.train.class_names]
    if len({folder.casefold() for folder in folders}) < len(folders):
        raise UsageError(
            "Two classes would have the same folder, as some signs and cases cannot be told apart there. Use --to parquet."
        )
    renamed = [(a, b) for a, b in zip(splits.train.class_names, folders, strict=True) if a != b]
    for name, images in splits.named().items():
        taken: set[str] = set()
        for folder in folders:
            (out / name / folder).mkdir(parents=True)
        for i, content, file in _encoded(images, progress):
            folder = folders[int(images.labels[i])]
            (out / name / folder / _free(file, f"{folder}/", taken)).write_bytes(content)
    return [f"{len(renamed):,} classes have another name as a folder: '{a}' is '{b}'." for a, b in renamed[:1]]


def _list(splits: Splits, out: Path, progress: Callable[[], object]) -> list[str]:
    for name, images in splits.named().items():
        taken: set[str] = set()
        (out / name).mkdir()
        with (out / f"{name}.txt").open("w", encoding="utf-8", newline="\n") as lines:
            for i, content, file in _encoded(images, progress):
                free = _free(file, "", taken)
                (out / name / free).write_bytes(content)
                lines.write(f"{name}/{free} {images.labels[i]}\n")
    (out / "classes.tsv").write_text(
        "".join(f"{c}\t{name}\n" for c, name in enumerate(splits.train.class_names)), "utf-8"
    )
    return ["A list holds class numbers only: the names are in classes.tsv."]


def _free(file: str, prefix: str, taken: set[str]) -> str:
    """The name, or where another image has it already (in any case of letters), with a number behind it."""
    stem, dot, suffix = file.rpartition(".")
    names = (file if n == 0 else f"{stem}-{n}{dot}{suffix}" for n in count())
    name = next(name for name in names if (prefix + name).casefold() not in taken)
    taken.add((prefix + name).casefold())
    return name
