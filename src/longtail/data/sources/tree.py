"""What the folders of images in a source say: which are splits, and which are classes. On names alone, so that a folder
on disk and one inside a zip file are read alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...errors import UsageError
from .splits import HOW_TO_SAY, NONE, Reading, affix, chosen_roles, listing, of_role, role_of

LEAF = "leaf"

Path_ = tuple[str, ...]


class Placed(NamedTuple):
    """Of one split: the names of the folders it consists of, and each folder of images in it with its class."""

    names: list[str]
    classes: dict[Path_, str]


def place(images: Mapping[Path_, int], how: Reading, where: str) -> dict[str, Placed]:
    """By role, the folders of images of each split and their classes.

    `images`: how many images lie directly in each folder, which is given as its parts below the source ("train", "cat").
    What else could have been meant, and what is left out, is told. Raises `UsageError` where it cannot be told apart.
    """
    (base,) = _unwrapped(images, [()])
    if base:
        how.tell(f"{where}: its only folder {'/'.join(base)} holds all images, and is looked into.")
    below = {path[len(base) :]: count for path, count in images.items() if path[: len(base)] == base}
    roles = _split_roles(below, how, where)
    if not roles and (inside := _splits_in_classes(below, how, where)):
        return {
            role: Placed(of_role(inside, role), {base + path: path[0] for path in below if inside.get(path[1]) == role})
            for role in dict.fromkeys(inside.values())
        }
    if not roles:
        if loose := below.get((), 0):
            how.tell(f"{where}: {loose:,} images beside the class folders are left out.")
        classes = {path: count for path, count in below.items() if path}
        return {"train": Placed([], _classes({base: classes}, how, where))}
    bases = [(*base, name) for name in roles]
    starts = dict(zip(roles, _unwrapped(images, bases), strict=True))
    parts = {}
    for role in dict.fromkeys(roles.values()):
        names = of_role(roles, role)
        found = {starts[name]: _below(images, starts[name]) for name in names}
        parts[role] = Placed(names, _classes(found, how, f"{where} ({role})"))
    return parts


def _unwrapped(images: Mapping[Path_, int], bases: list[Path_]) -> list[Path_]:
    """The folders `bases`, or those in them, of one name, that hold all their images in folders: archives wrap them so."""
    while not any(base in images for base in bases):
        inside = {tuple(_children(images, base)) for base in bases}
        name = next(iter(inside))
        if len(inside) != 1 or len(name) != 1 or role_of(name[0]):
            break
        deeper = [(*base, *name) for base in bases]
        if not all(_has_folders(images, base) for base in deeper):
            break
        bases = deeper
    return bases


def _below(images: Mapping[Path_, int], base: Path_) -> dict[Path_, int]:
    """The folders of images in `base`, by their path in it."""
    return {path[len(base) :]: n for path, n in images.items() if path[: len(base)] == base and len(path) > len(base)}


def _children(images: Mapping[Path_, int], base: Path_) -> list[str]:
    return sorted({path[len(base)] for path in images if path[: len(base)] == base and len(path) > len(base)})


def _has_folders(images: Mapping[Path_, int], folder: Path_) -> bool:
    return any(path[: len(folder)] == folder and len(path) > len(folder) for path in images)


def _split_roles(images: Mapping[Path_, int], how: Reading, where: str) -> dict[str, str]:
    """The role of each of the uppermost folders that are splits; empty where they are classes."""
    names = _children(images, ())
    deep = {path[0] for path in images if len(path) > 1}
    flat = [name for name in names if name not in deep]
    chosen = chosen_roles(names, how, where)
    if chosen is not None:
        if alone := [name for name in flat if name in chosen]:
            raise UsageError(f"{where}: {alone[0]} holds images but no class folders, so their classes are not known.")
        return chosen
    words = {name: role for name in names if (role := role_of(name))}
    roles = {name: role for name, role in words.items() if _is_name(name, words, len(names))}
    splits = {name: role for name, role in roles.items() if name in deep}
    if "train" in splits.values():
        rest = [name for name in names if name not in splits]
        doubtful = [name for name in rest if name in deep]
        if doubtful and (len(set(splits.values())) == 1 or any(role_of(name) for name in doubtful)):
            raise _two_readings(where, list(splits), doubtful, names)
        for name in rest:
            what = "no class folders, so they are without labels and" if name in flat else "no split's name, and"
            count = sum(n for path, n in images.items() if path[0] == name)
            how.tell(
                f"{where}: {name} ({count:,} images) has {what} is left out.".replace("and is", "and are", name in flat)
            )
        return splits
    named = [name for name in names if name in splits or (name in roles and len(names) > 1 and roles[name] != "train")]
    if named and len(names) > 1:
        raise _two_readings(where, named, [name for name in names if name not in named], names)
    return splits if len(names) == 1 else {}


def _is_name(name: str, words: Mapping[str, str], count: int) -> bool:
    """Whether a folder that has a split's word in its name is called so, and not after a thing ("test_tube"): there is
    nothing else in its name, or another with the same beside it ("partial-train", "partial-test"), or all have one.

    `words`: the folders with such a word, and its role; of `count` folders.
    """
    rest = affix(name)
    partners = [other for other, role in words.items() if role != words[name]]
    return not rest or any(affix(other) == rest for other in partners) or (bool(partners) and len(words) == count)


def _two_readings(where: str, splits: list[str], others: list[str], names: list[str]) -> UsageError:
    look = "looks like a split" if len(splits) == 1 else "look like splits"
    but = "none is for training"
    if others:
        but = f"{listing(others)} beside it look{'s like a class' if len(others) == 1 else ' like classes'}"
    return UsageError(
        f"{where}: {listing(splits)} {look}, but {but}. Either the folders are classes ({listing(names)}: --splits {NONE}), "
        f"or images of a split, perhaps without labels: then move them elsewhere. {HOW_TO_SAY}"
    )


def _splits_in_classes(images: Mapping[Path_, int], how: Reading, where: str) -> dict[str, str]:
    """The splits' names where each class has its own ("cat/train", "cat/test"); empty where they have none.

    Raises `UsageError` where some classes have such folders and others not.
    """
    if how.splits == NONE:
        return {}
    seconds = {path[1] for path in images if len(path) > 1}
    roles = {name: role for name in seconds if (role := role_of(name)) and not affix(name)}
    if len(set(roles.values())) < 2:
        return {}
    strange = sorted("/".join(path) for path in images if len(path) < 2 or path[1] not in roles)
    if strange or "train" not in roles.values():
        raise UsageError(
            f"{where}: its class folders hold splits ({listing(sorted(roles))}), but {listing(strange) or 'no train'} does not "
            f"fit. Say --splits {NONE} if these are no splits."
        )
    how.tell(f"{where}: the splits {listing(sorted(roles))} lie within each class folder.")
    return roles


def _classes(parts: Mapping[Path_, Mapping[Path_, int]], how: Reading, where: str) -> dict[Path_, str]:
    """The class of each folder of images, by its whole path: the name at the level asked for, the uppermost by default.

    `parts`: by the path of a split's folder, the folders of images below it.
    """
    below = {base + path: path for base, paths in parts.items() for path in paths}
    deepest = max(map(len, below.values()), default=0)

    def at(level: int) -> dict[Path_, str]:
        return {whole: path[min(level, len(path)) - 1] for whole, path in below.items()}

    if how.classes_at is not None:
        level = deepest if how.classes_at == LEAF else int(how.classes_at)
        if level < 1:
            raise UsageError(f"--classes-at {level}: levels are counted from 1, the uppermost; or say {LEAF}.")
        parents: dict[str, set[Path_]] = {}
        for path in below.values():
            parents.setdefault(path[min(level, len(path)) - 1], set()).add(path[:level])
        if shared := sorted(name for name, places in parents.items() if len(places) > 1):
            places = sorted("/".join(place) for place in parents[shared[0]])
            how.tell(
                f"{where}: {len(shared):,} classes lie in several folders, which are taken together: '{shared[0]}' is "
                f"{listing(places)}."
            )
        return at(level)
    names = sorted(set(at(1).values()))
    further = []
    for level in range(2, deepest + 1):
        inner = sorted(set(at(level).values()))
        if len(inner) > 1 and len({path[level - 1] for path in below.values() if len(path) >= level}) > 1:
            further.append(f"--classes-at {level} would take {len(inner):,} ({listing(inner)})")
    if further:
        within = [{path[1:2] for path in below.values() if path[0] == name} for name in names]
        same = "" if len(names) < 2 or any(inner != within[0] or len(inner) < 2 for inner in within) else (
            f" All {len(names):,} hold the same folders: if they are splits, say --splits train=NAME,test=NAME."
        )  # fmt: skip
        how.tell(
            f"{where}: folders of images lie within its class folders. Taken as classes: the {len(names):,} uppermost "
            f"({listing(names)}). {'; '.join(further)}.{same}"
        )
    return at(1)
