"""Which columns of a table hold the images, the labels and the splits, by their usual names; and a table's splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import UsageError, unknown_name
from ..images import ImageSet
from .splits import HOW_TO_SAY, NONE, ROLES, Reading, listing, of_role, roles_of, titled

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
SPLIT = ("split", "subset", "partition", "set", "dataset", "usage", "phase")


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


def split_column(columns: Sequence[str], taken: Sequence[str], how: Reading) -> str | None:
    """The column that may say which split a row is of."""
    if how.splits == NONE:
        return None
    return pick([c for c in columns if c not in taken], None, SPLIT, "", "")


def in_splits(images: ImageSet, column: str | None, values: Any, kind: str, how: Reading) -> dict[str, ImageSet]:
    """`images` by the role of their value in the column: an Arrow array of strings, None where there is no such column.

    Raises `UsageError` where a column "split" holds values that are no splits' names. What other columns hold may be
    something else: where it is, the column is passed over.
    """
    if column is None or values is None:
        return {"train": images}
    encoded = values.dictionary_encode()
    names = [str(name).strip() for name in encoded.dictionary.to_pylist()]
    where = f"{kind} column '{column}'"
    if encoded.null_count:
        raise UsageError(f"{where}: {encoded.null_count:,} rows are of no split. {HOW_TO_SAY}")
    named_split = column.strip().lower() == "split" or how.splits is not None
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
    role_of_code = np.array([ROLES.index(roles[name]) if name in roles else -1 for name in names])
    role_of_row = role_of_code[encoded.indices.to_numpy(zero_copy_only=False)]
    parts: dict[str, ImageSet] = {}
    for k, role in enumerate(ROLES):
        if len(rows := np.flatnonzero(role_of_row == k)):
            parts[role] = images.select(rows)
            parts[role].name = titled(kind, role, [f"{column} {' + '.join(of_role(roles, role))}"])
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
