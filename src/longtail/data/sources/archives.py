"""Images inside tar and zip files, read where they are: WebDataset's shards, and archives of class folders as downloaded."""

from __future__ import annotations

import glob
import json
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, brief
from ...files import open_regular
from ..decode import CorruptImage
from ..images import ImageSet, Strings
from .columns import in_folders
from .folder import is_hidden, read_tree, suffixes
from .labels import from_strings, rows_named
from .splits import Reading, of_role, roles_of, split_name, titled
from .tree import Path_

LARGEST = 2**30  # bytes of one image, beyond which it is taken for a mistake or an attack
_LABELS = ("label", "class", "cls", "category", "class_name")  # in a sample's JSON
_DEFLATE = 8
_LOCAL_HEADER = 30  # bytes, of which the last two words are the lengths of what follows before the data


class ArchiveSet(ImageSet):
    """Images inside `files`. Of each, `paths` is its name in the archive, `places` int64 [N, 5]: the number of its file, the
    byte it begins at, its bytes there, its bytes unpacked (0: as many, not packed), and its checksum."""

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        labels: np.ndarray,
        files: Sequence[Path],
        paths: Strings,
        places: np.ndarray,
    ) -> None:
        super().__init__(name, class_names, labels)
        self.files, self.paths, self.places = files, paths, places

    def key(self, i: int) -> str:
        return f"{self.files[int(self.places[i, 0])].name}/{self.paths[i]}"

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        return np.where(self.places[positions, 3] > 0, self.places[positions, 3], self.places[positions, 2])

    def read(self, i: int) -> bytes:
        which, start, size, unpacked, checksum = map(int, self.places[i])
        zipped = self.files[which].suffix.lower() == ".zip"
        if max(size, unpacked) > LARGEST:
            raise CorruptImage(f"{max(size, unpacked):,} bytes, more than the {LARGEST:,} that an image may have")
        try:
            # opened anew: worker processes share no file position
            with open_regular(self.files[which]) as file:
                file.seek(start)
                if zipped:
                    header = file.read(_LOCAL_HEADER)
                    file.seek(
                        start
                        + _LOCAL_HEADER
                        + int.from_bytes(header[26:28], "little")
                        + int.from_bytes(header[28:30], "little")
                    )
                raw = file.read(size)
        except OSError as error:
            raise CorruptImage(f"{error.strerror or error} ({self.files[which]})") from error
        if len(raw) < size:
            raise CorruptImage("its archive ends before it does; copy the archive again")
        if unpacked:
            try:
                raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, unpacked)
            except zlib.error as error:
                raise CorruptImage(f"its archive is damaged there ({error})") from error
        if zipped and zlib.crc32(raw) != checksum:
            raise CorruptImage("its checksum is another: its archive is damaged there")
        return raw


def open_zip(location: str, how: Reading) -> dict[str, ImageSet]:
    """A zip file of class folders, read as `folder:` would what is in it."""
    file = Path(location)
    try:
        with open_regular(file) as handle, zipfile.ZipFile(handle) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            folders = [member.filename for member in archive.infolist() if member.is_dir()]
    except Exception as error:  # bytes that are no zip file fail in many ways
        raise _unreadable(file, "a zip file", error) from error
    if odd := next(
        (m for m in members if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, _DEFLATE)), None
    ):
        kind = "encrypted" if odd.flag_bits & 1 else "packed in a way that is not read"
        raise UsageError(f"{file}: {brief(odd.filename)} is {kind}. Unpack the file, and give the folder.")
    names = [member.filename for member in members]
    if not any("/" in name for name in names):  # packed by a program that writes Windows's way
        names = [name.replace("\\", "/") for name in names]
    places = {
        name.lstrip("/"): (
            0, member.header_offset, member.compress_size,
            member.file_size if member.compress_type == _DEFLATE else 0, member.CRC,
        )
        for name, member in zip(names, members, strict=True)
    }  # fmt: skip
    return _tree(f"zip:{file}", [file], places, how, folders)


def open_tar(location: str, how: Reading) -> dict[str, ImageSet]:
    """WebDataset's shards: a tar file, a pattern or a folder, of samples `key.jpg` with `key.cls` (a class number or name)
    or `key.json` (with a field `label`). Tar files without any label are read as `folder:` would what is in them."""
    path = Path(location)
    files = sorted(path.rglob("*.tar") if path.is_dir() else map(Path, glob.glob(str(path))))
    if not files:
        raise UsageError(f"No tar file at {path}.")
    where = f"tar:{path}"
    samples = _Samples()
    for number, file in enumerate(files):
        for name, start, size, text in _members(file):
            samples.add(number, name, (number, start, size, 0, 0), text)
    if not samples.labels:
        # of several files, each is a folder: train.tar, test.tar
        prefixes = [f"{file.stem}/" if len(files) > 1 else "" for file in files]
        found = {prefixes[n] + name: place for (n, name), place in (samples.images | samples.others).items()}
        return _tree(where, files, found, how)
    unlabelled = [key for key in samples.keys.values() if key not in samples.labels]
    if unlabelled:
        raise UsageError(
            f"{where}: {len(unlabelled):,} of its {len(samples.images):,} images have no label beside them, first "
            f"{files[unlabelled[0][0]].name}/{brief(unlabelled[0][1])}. Expected a .cls or .json of the same name."
        )
    named = [split_name(file, path) for file in files]
    roles = roles_of(named, how, where) if len(files) > 1 else {}
    parts: dict[str, ImageSet] = {}
    for role in dict.fromkeys(roles.values()) if roles else ("train",):
        chosen = [
            (image, key) for image, key in samples.keys.items() if not roles or roles.get(named[image[0]]) == role
        ]
        title = titled(where, role, of_role(roles, role)) if roles else where
        rows = rows_named(lambda row, chosen=chosen: f"{files[chosen[row][0][0]].name}/{chosen[row][0][1]}")  # type: ignore[misc]
        labels, class_names = from_strings([samples.labels[key] for _, key in chosen], title, rows, how)
        places = np.array([samples.images[image] for image, _ in chosen], np.int64).reshape(-1, 5)
        parts[role] = ArchiveSet(
            title, class_names, labels, files, Strings.of([image[1] for image, _ in chosen]), places
        )
    if not roles:
        return in_folders(parts["train"], Strings.of([image[1] for image in samples.keys]).array, where, how)
    return parts


class _Samples:
    """What WebDataset's shards hold. A sample's key is its shard's number and its name up to the first dot behind a slash;
    an image's, its shard's number and its whole name."""

    def __init__(self) -> None:
        self.images: dict[tuple[int, str], tuple[int, int, int, int, int]] = {}
        self.keys: dict[tuple[int, str], tuple[int, str]] = {}
        self.labels: dict[tuple[int, str], str] = {}
        self.others: dict[tuple[int, str], tuple[int, int, int, int, int]] = {}
        self.known = suffixes()

    def add(self, shard: int, name: str, place: tuple[int, int, int, int, int], text: bytes | None) -> None:
        folder, _, base = name.rpartition("/")
        key = (shard, f"{folder}/{base.partition('.')[0]}".lstrip("/"))
        if text is not None:
            label = _label(text, name)
            if label is not None:
                self.labels[key] = label
        elif name.lower().endswith(self.known):
            self.images[shard, name], self.keys[shard, name] = place, key
        else:
            self.others[shard, name] = place


def _members(file: Path) -> Iterator[tuple[str, int, int, bytes | None]]:
    """Of each file in a tar file: its name, where it begins, its bytes, and what it says where it holds a label."""
    try:
        with open_regular(file) as handle, tarfile.open(fileobj=handle, mode="r:") as archive:
            for member in archive:
                if not member.isreg() or any(is_hidden(part) for part in member.name.split("/")):
                    continue
                text = None
                if member.name.lower().endswith((".cls", ".cls.txt", ".json")):
                    if member.size > 2**20:
                        raise UsageError(f"{file}: {brief(member.name)} of {member.size:,} bytes is no label.")
                    extracted = archive.extractfile(member)
                    text = extracted.read() if extracted else b""
                yield member.name.removeprefix("./"), member.offset_data, member.size, text
    except UsageError:
        raise
    except Exception as error:  # bytes that are no tar file fail in many ways
        raise _unreadable(file, "a tar file (not a compressed one)", error) from error


def _label(text: bytes, name: str) -> str | None:
    """The label in a `.cls` or `.json` file, None where the latter says none."""
    try:
        if not name.lower().endswith(".json"):
            return text.decode().strip()
        content: Any = json.loads(text)
        value = next((content[field] for field in _LABELS if field in content), None)
    except (ValueError, TypeError, RecursionError):
        raise UsageError(
            f"{brief(name)}: expected a label, or JSON with a field 'label'; found {brief(repr(text))}."
        ) from None
    if isinstance(value, list | dict):
        raise UsageError(f"{brief(name)}: several labels, {brief(repr(value))}. Multi-label data is not supported.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)


def _tree(
    where: str,
    files: list[Path],
    places: Mapping[str, tuple[int, ...]],
    how: Reading,
    folder_names: Iterable[str] = (),
) -> dict[str, ImageSet]:
    """The splits of class folders in archives, of whose files `places` says by name where they are. `folder_names`: of
    folders that the archive lists as such."""
    passed: Counter[str] = Counter()
    known = suffixes()
    folders: dict[Path_, list[str]] = {}
    bare = {tuple(name.strip("/").split("/")) for name in folder_names}
    bare = {path for path in bare if not any(map(is_hidden, path))}
    for name in sorted(places):
        *parents, base = name.split("/")
        if is_hidden(base) or any(is_hidden(part) for part in parents):
            continue
        if base.lower().endswith(known):
            folders.setdefault(tuple(parents), []).append(base)
        else:
            passed[Path(base).suffix.lower()] += 1
            bare.add(tuple(parents))

    def make(name: str, class_names: Sequence[str], labels: np.ndarray, paths: Strings) -> ImageSet:
        return ArchiveSet(name, class_names, labels, files, paths, np.array([places[path] for path in paths], np.int64))

    return read_tree(folders, passed, how, where, make, bare - set(folders))


def _unreadable(file: Path, kind: str, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or f"it is not {kind}, or a damaged one ({brief(str(error), 120)})"
    return UsageError(f"Cannot read {file}: {reason}.")
