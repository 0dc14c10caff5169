"""Which columns of a table hold the images, the labels and the splits, by their usual names; and a table's splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import UsageError, unknown_name
from ..images import ImageSet
from .labels import rows_named
from .splits import HOW_TO_SAY, NONE, ROLES, Reading, affix, chosen_roles, listing, of_role, role_of, roles_of, titled

IMAGE = (
    "image", "path", "file", "filename", "file_name", "filepath", "file_path", "image_path", "image_name", "image_file",
    "img", "img_path", "image_id", "img_id", "id_code", "id",
)  # fmt: skip
LABEL = (
    "label",
    "class",
    "category",
    "target",
    "class_name",
    "classname",
    "label_name",
    "class_id",
    "classid",
    "label_id",
)
SPLIT = ("split", "subset", "partition", "fold", "set", "dataset", "usage", "phase", "mode", "train_test", "data_split")
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")
_MOST_FOLDERS = 100  # more folders at the top of a source's paths are no splits


def pick(columns: Sequence[str], chosen: str | None, usual: Sequence[str], option: str, where: str) -> str | None:
    """The chosen column, else the first of the usual names, in any case; None where there is none.

    Raises `UsageError` where the chosen one does not exist.
    """
    if chosen is not None:
        if chosen not in columns:
            raise UsageError(f"{where}: {unknown_name('column', chosen, columns)} --{option} names a column.")
        return chosen
    lower: dict[str, str] = {}
    for column in columns:
        lower.setdefault(column.strip().lower(), column)
    return next((lower[name] for name in usual if name in lower), None)


def pick_label(
    columns: Sequence[str],
    chosen: str | None,
    usual: Sequence[str],
    where: str,
    how: Reading,
    read: Callable[[str], Any],
) -> str | None:
    """As `pick`, of the labels. `read` gives a column as an Arrow array.

    Raises `UsageError` where two columns of usual names divide the images differently; that they are alike is told.
    """
    label = pick(columns, chosen, usual, "label-column", where)
    if label is None or chosen is not None:
        return label
    for other in columns:
        if other == label or other.strip().lower() not in usual:
            continue
        if not _divide_alike(read(label), read(other)):
            raise UsageError(
                f"{where}: the columns '{label}' and '{other}' could both hold the labels, and differ. Say which does: "
                f"--label-column '{label}' or --label-column '{other}'."
            )
        how.tell(f"{where}: the columns '{label}' and '{other}' make the same classes; '{label}' is taken.")
    return label


def _divide_alike(first: Any, second: Any) -> bool:
    """Whether rows that have the same value in one column have the same in the other, and the other way round."""
    first, second = _codes(first), _codes(second)
    pairs = np.unique(first * (second.max(initial=0) + 1) + second)
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def _codes(column: Any) -> np.ndarray:
    """A number for each value of an Arrow array or chunked array, int64 [N], 0 for none."""
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1), np.int64) + 1


def split_column(columns: Sequence[str], image: str | None, label: str | None, how: Reading) -> str | None:
    """The column that may say which split a row is of: "split", or "is_test" of zeros and ones. Raises `UsageError` where
    there are several of the latter."""
    if how.splits == NONE:
        return None
    left = [column for column in columns if column not in (image, label)]
    flags = [column for column in left if _flag(column)] if label is not None else []
    if len(flags) > 1:
        raise UsageError(
            f"The columns {listing(flags)} look like splits: make one column 'split' of them, or say --splits {NONE}."
        )
    return pick(left, None, SPLIT, "", "") or next(iter(flags), None)


def _flag(column: str) -> str | None:
    """The role that a column's yes gives: "test" of "is_test", "train" of "is_training_image"."""
    return role_of(column) if affix(column) in ("", "is") else None


def in_splits(images: ImageSet, column: str | None, values: Any, kind: str, how: Reading) -> dict[str, ImageSet]:
    """`images` by the role of their value in the column: an Arrow array of strings, None where there is no such column.

    Raises `UsageError` where a column "split" holds values that are no splits' names. What other columns hold may be
    something else: where it is, the column is passed over.
    """
    import pyarrow as pa

    if column is None or values is None:
        return {"train": images}
    encoded = values.dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    names = [str(name).strip() for name in encoded.dictionary.to_pylist()]
    where = f"{kind} column '{column}'"
    if how.splits is None and (flag := _flag(column)):
        return _by_flag(images, encoded, names, flag, column, kind)
    empty = np.isin(_codes(encoded), [0, *(k + 1 for k, name in enumerate(names) if not name)])
    if empty.any():
        rows = rows_named(images.place)(np.flatnonzero(empty))
        raise UsageError(f"{where}: {rows}: of no split. {HOW_TO_SAY}")
    named_split = (
        column.strip().lower() == "split" or how.splits is not None or any(role_of(n) and not affix(n) for n in names)
    )
    try:
        roles = roles_of(names, how, where)
    except UsageError:
        if named_split:
            raise
        roles = {}
    if not roles:
        if named_split and len(set(names)) > 1:
            raise UsageError(f"{where} holds {listing(names)}, which are no splits' names. {HOW_TO_SAY}")
        return {"train": images}
    return _parted(images, encoded, names, roles, kind, f"{column} ")


def _by_flag(
    images: ImageSet, encoded: Any, names: list[str], flag: str, column: str, kind: str
) -> dict[str, ImageSet]:
    """`images` by a column "is_test" of yes and no; whole where it holds something else."""
    if not all(name.lower() in (*_TRUE, *_FALSE) for name in names) or encoded.null_count:
        return {"train": images}
    otherwise = "test" if flag == "train" else "train"
    roles = {name: flag if name.lower() in _TRUE else otherwise for name in names}
    if "train" not in roles.values():
        raise UsageError(f"{kind} column '{column}' leaves no row for training. {HOW_TO_SAY}")
    return _parted(images, encoded, names, roles, kind, f"{column} ")


def in_folders(images: ImageSet, paths: Any, kind: str, how: Reading) -> dict[str, ImageSet]:
    """`images` by the uppermost folders of their paths, an Arrow array of strings, where these are splits and nothing else:
    "train/a.jpg", "val/b.jpg"."""
    import pyarrow.compute as pc

    if how.splits == NONE or not pc.all(pc.match_substring(paths, "/")).as_py():
        return {"train": images}
    encoded = pc.list_element(pc.split_pattern(paths, "/", max_splits=1), 0).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if len(names) > _MOST_FOLDERS:
        return {"train": images}
    roles = chosen_roles(names, how, kind) or {name: role for name in names if (role := role_of(name))}
    if how.splits is None and (
        len(roles) < len(names) or len(set(roles.values())) < 2 or "train" not in roles.values()
    ):
        return {"train": images}
    return _parted(images, encoded, names, roles, kind)


def _parted(
    images: ImageSet, encoded: Any, names: list[str], roles: dict[str, str], kind: str, called: str = ""
) -> dict[str, ImageSet]:
    """`images` by the role of their value's name, `encoded` in an Arrow dictionary; titled by what these are `called`."""
    role_of_code = np.array([-1, *(ROLES.index(roles[name]) if name in roles else -1 for name in names)])
    role_of_row = role_of_code[_codes(encoded)]
    parts: dict[str, ImageSet] = {}
    for k, role in enumerate(ROLES):
        if len(rows := np.flatnonzero(role_of_row == k)):
            parts[role] = images.select(rows)
            parts[role].name = titled(kind, role, [called + " + ".join(of_role(roles, role))])
    return parts


def no_columns(where: str, columns: Sequence[str], image: str | None, label: str | None, more: str = "") -> UsageError:
    """A `UsageError` for a table whose columns have none of the usual names."""
    missing = " and ".join(
        f"--{option}-column" for option, column in (("image", image), ("label", label)) if column is None
    )
    return UsageError(
        f"{where}: expected columns 'image' (or 'path') and 'label'; found {listing(columns, 12) or 'none'}. "
        f"Say which to take with {missing}.{more}"
    )


def one_hot(names: Sequence[str], read: Callable[[str], Any]) -> tuple[list[str], np.ndarray] | None:
    """Columns of zeros and ones that between them give each row its classes: their names, and bool [N, C]. None where
    fewer than two of the columns are so. `read` gives a column as an Arrow array of strings."""
    import pyarrow.compute as pc

    found, columns = [], []
    for name in names:
        text = read(name)
        ones = pc.is_in(text, value_set=_strings(["1", "1.0", "True", "true", "TRUE"]))
        zeros = pc.is_in(text, value_set=_strings(["0", "0.0", "False", "false", "FALSE"]))
        if pc.all(pc.or_(ones, zeros)).as_py():
            found.append(name)
            columns.append(np.asarray(ones.to_numpy(zero_copy_only=False), bool))
    return (found, np.stack(columns, axis=1)) if len(found) > 1 else None


def _strings(values: list[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.large_string())
