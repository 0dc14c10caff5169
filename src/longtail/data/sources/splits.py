"""Which part of a source is for training, which for validation and which for testing, by the names people give them.

The one place that knows the usual names, for folders, files, columns and arrays alike: any case, with what is put before
or behind them ("Training", "test2017", "cifar_train", "train-00000-of-00002", "partial-test").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UsageError, brief

ROLES = ("train", "val", "test")
NONE = "none"  # what --splits says where no name is a split's
HOW_TO_SAY = f"Say which is which, --splits train=NAME,val=NAME,test=NAME, or --splits {NONE} if no name is a split's."

_WORD = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing|val)?|trn)|(?P<val>val(?:id(?:ation|ate)?)?|dev(?:el)?|eval(?:uation)?)"
    r"|(?P<test>test(?:ing)?|tst))(?:sets?|data|dirs?|folder|images|imgs|split)?(?![a-z])"
)
_NEUTRAL = re.compile(r"(?<![a-z])(?:sets?|data|dataset|images?|imgs?|split|of)(?![a-z])|[^a-z]+")


@dataclass
class Reading:
    """How a source is to be read, as the fields of `DataConfig` of the same names say; and `notes`, what a reader had to
    say of what it found: a guess, something left out. Each is a sentence or two."""

    root: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    suffix: str | None = None
    classes_at: int | str | None = None
    splits: str | None = None
    notes: list[str] = field(default_factory=list)

    def tell(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def given(self) -> list[str]:
        """Names of the options that are set."""
        return [name for name, value in vars(self).items() if name != "notes" and value is not None]


def role_of(name: str) -> str | None:
    """ "train", "val" or "test" where `name` has a word for it, else None. Of "train_val" both are for training."""
    found = {match.lastgroup for match in _WORD.finditer(_lower(name))}
    found = found or {match.lastgroup for match in _WORD.finditer(name.lower())}  # "TeSt"
    for role, also in (("train", {"val"}), ("test", {"val"}), ("val", set())):
        if role in found and found <= {role} | also:
            return role
    return None


def affix(name: str) -> str:
    """What is left of a split's name without the word for it, numbers and "set" or "images": "cifar" of "cifar10_test"."""
    lower = _lower(name) if _WORD.search(_lower(name)) else name.lower()
    return " ".join(_NEUTRAL.sub(" ", _WORD.sub(" ", lower)).split())


def _lower(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def chosen_roles(names: Sequence[str], how: Reading, where: str) -> dict[str, str] | None:
    """The role of each name as `--splits` says, None where it says nothing. Raises `UsageError` for one that is not there."""
    if how.splits is None or how.splits == NONE:
        return None if how.splits is None else {}
    roles: dict[str, str] = {}
    for part in how.splits.split(","):
        role, sign, listed = part.strip().partition("=")
        if role not in ROLES or not sign or not listed:
            raise UsageError(f"--splits takes 'train=NAME,val=NAME,test=NAME' or '{NONE}'; found '{how.splits}'.")
        for name in listed.split("+"):
            if name not in names:
                raise UsageError(f"--splits {how.splits}: {where} has no part '{name}', but {listing(names)}.")
            roles[name] = role
    if "train" not in roles.values():
        raise UsageError(f"--splits {how.splits}: say which part is for training, train=NAME.")
    if left := [name for name in names if name not in roles]:
        how.tell(f"{where}: {listing(left)} left out, as --splits says.")
    return roles


def roles_of(names: Iterable[str], how: Reading, where: str) -> dict[str, str]:
    """The role of each of the parts that `where` consists of, whose names can say nothing else (files, not classes).

    Empty where they are one part, all for training. Raises `UsageError` where some are splits and others fit none, and
    where none is for training.
    """
    names = list(dict.fromkeys(names))
    chosen = chosen_roles(names, how, where)
    if chosen is not None:
        return chosen
    roles = {name: role for name in names if (role := role_of(name))}
    if not roles or (len(roles) == len(names) and len(set(roles.values())) == 1):
        return {}
    if strange := [name for name in names if name not in roles]:
        raise UsageError(
            f"{where}: {listing(list(roles))} look like splits, but {listing(strange)} fits none. {HOW_TO_SAY}"
        )
    if "train" not in roles.values():
        raise UsageError(f"{where} has the splits {listing(names)} but none for training. {HOW_TO_SAY}")
    return roles


def split_name(file: Path, base: Path) -> str:
    """What says the split of a file: its name, or where that has no word for one, a folder's between it and `base`. The
    shards of a split have one name."""
    parts = [file.stem, *(parent.name for parent in file.parents if base in parent.parents)]
    name = next((part for part in parts if role_of(part)), file.stem)
    return re.sub(r"-\d+-of-\d+", "", name)


def of_role(roles: dict[str, str], role: str) -> list[str]:
    return [name for name, its in roles.items() if its == role]


def titled(kind: str, role: str, names: Sequence[str] = ()) -> str:
    """What messages call a split: "folder:photos (test)", with the name that was taken for it where it is another."""
    return f"{kind} ({role})" if list(names) in ([], [role]) else f"{kind} ({role}: {listing(names)})"


def listing(names: Sequence[str], most: int = 4) -> str:
    """ "a, b, c, d and 7 more"."""
    shown = ", ".join(brief(name) for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")
