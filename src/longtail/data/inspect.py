"""What is in a data source, before training on it: class counts, image sizes, duplicates, unreadable files."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ..classes import SHOTS, Classes
from .decode import CorruptImage, image_size
from .images import ImageSet, Splits
from .values import find_channels

EXAMPLES = 10  # how many of each problem are named
_BARS = 20  # rows of the curve in the terminal
_COLOURS = {"many": "#2a78d6", "medium": "#1baf7a", "few": "#e8862e"}


@dataclass(frozen=True)
class SplitInspection:
    """One split.

    `counts`: images of each class, in label order. `imbalance`: largest over smallest count, None where a class has no
    image. `heights`, `widths`: smallest, median and largest, in pixels, None where nothing is readable. `sizes`: number
    of different sizes; `common_sizes`: (height, width, images) of the commonest.
    `duplicates`: images whose encoded bytes an earlier image of the split has too; `contradictions`: those of them with
    another label than the earlier one; `duplicate_examples`: keys, (earlier, repeated).
    `unreadable`: images that cannot be decoded; `unreadable_examples`: which, and why.
    """

    name: str
    images: int
    counts: list[int]
    imbalance: float | None
    heights: tuple[int, int, int] | None
    widths: tuple[int, int, int] | None
    sizes: int
    common_sizes: list[tuple[int, int, int]]
    duplicates: int
    contradictions: int
    duplicate_examples: list[tuple[str, str]]
    unreadable: int
    unreadable_examples: list[str]


@dataclass(frozen=True)
class Inspection:
    """A source. `channels`: 1 (grey) or 3. `shots`: classes and training images of each group, after `Classes.shots`.

    `leaked`: test images whose encoded bytes a training image has too; `leaked_examples`: keys, (training, test).
    """

    class_names: list[str]
    channels: int
    shots: dict[str, tuple[int, int]]
    train: SplitInspection
    test: SplitInspection | None
    leaked: int
    leaked_examples: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)

    @property
    def classes(self) -> Classes:
        """Names and training counts."""
        return Classes(tuple(self.class_names), tuple(self.train.counts))


def inspect_source(splits: Splits, progress: Callable[[], object] = lambda: None) -> Inspection:
    """Read and decode every image once, one at a time. `progress` is called after each."""
    train, train_hashes = _inspect(splits.train, progress)
    test, leaks = None, np.zeros((0, 2), dtype=np.int64)
    if splits.test is not None:
        test, test_hashes = _inspect(splits.test, progress)
        pairs = _repeats(np.concatenate([train_hashes, test_hashes])) - [0, len(train_hashes)]
        leaks = pairs[(pairs[:, 0] < len(train_hashes)) & (pairs[:, 1] >= 0)]
    classes = Classes.from_labels(splits.train.class_names, splits.train.labels)
    shots = np.array(classes.shots)
    return Inspection(
        class_names=list(classes.names),
        channels=find_channels(splits.train)[0],
        shots={s: (int((shots == s).sum()), int(np.array(classes.counts)[shots == s].sum())) for s in SHOTS},
        train=train,
        test=test,
        leaked=len(leaks),
        leaked_examples=_keys(leaks, splits.train, splits.test),
    )


def _inspect(images: ImageSet, progress: Callable[[], object]) -> tuple[SplitInspection, np.ndarray]:
    """Also returns a 64-bit hash of each image's bytes, int64 [N], 0 where they could not be read."""
    hashes = np.zeros(len(images), dtype=np.int64)  # 64 bits tell millions of images apart
    sizes = []
    unreadable = []
    for i in range(len(images)):
        try:
            raw = images.read(i)
            hashes[i] = _hash(raw)
            images.image(i, 3, at_least=(1, 1))  # even at the smallest scale the whole file is read
            sizes.append(image_size(raw))
        except CorruptImage as error:
            unreadable.append(f"{images.key(i)}: {error.__cause__ or error}")
        progress()
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    pixels = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    distinct, frequency = np.unique(pixels, axis=0, return_counts=True)
    commonest = np.argsort(-frequency, kind="stable")[:EXAMPLES]
    repeats = _repeats(hashes)
    return SplitInspection(
        name=images.name,
        images=len(images),
        counts=counts.tolist(),
        imbalance=float(counts.max() / counts.min()) if counts.min() else None,
        heights=_spread(pixels[:, 0]),
        widths=_spread(pixels[:, 1]),
        sizes=len(distinct),
        common_sizes=[(int(distinct[k, 0]), int(distinct[k, 1]), int(frequency[k])) for k in commonest],
        duplicates=len(repeats),
        contradictions=int((images.labels[repeats[:, 0]] != images.labels[repeats[:, 1]]).sum()),
        duplicate_examples=_keys(repeats, images, images),
        unreadable=len(unreadable),
        unreadable_examples=unreadable[:EXAMPLES],
    ), hashes


def _hash(raw: bytes | np.ndarray) -> int:
    content = raw if isinstance(raw, bytes) else repr(raw.shape).encode() + raw.tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _repeats(hashes: np.ndarray) -> np.ndarray:
    """Positions [K, 2]: the first image of a hash, and each later one of the same hash."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[inverse]
    repeated = np.flatnonzero((earlier != np.arange(len(hashes))) & (hashes != 0))
    return np.stack([earlier[repeated], repeated], axis=1)


def _keys(pairs: np.ndarray, first: ImageSet, second: ImageSet | None) -> list[tuple[str, str]]:
    return [(first.key(int(a)), second.key(int(b))) for a, b in pairs[:EXAMPLES]] if second is not None else []


def _spread(values: np.ndarray) -> tuple[int, int, int] | None:
    return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else None


def render(inspection: Inspection) -> RenderableType:
    """Tables and the class-frequency curve, for a rich console of 80 columns or more."""
    tables = (_summary(inspection), _shots(inspection), _curve(inspection), _problems(inspection))
    return Group(*(table for table in tables if table is not None))


def _summary(inspection: Inspection) -> Table:
    splits = [split for split in (inspection.train, inspection.test) if split is not None]
    table = Table("", "train", *(["test"] if inspection.test else []))
    rows: dict[str, Callable[[SplitInspection], str]] = {
        "images": lambda s: f"{s.images:,}",
        "classes": lambda s: f"{sum(n > 0 for n in s.counts):,}",
        "images of a class": lambda s: f"{max(s.counts):,} to {min(s.counts):,}",
        "classes of one image": lambda s: f"{s.counts.count(1):,}",
        "imbalance factor": lambda s: "none (a class is empty)" if s.imbalance is None else f"{s.imbalance:,.1f}",
        "colour": lambda _: "grey" if inspection.channels == 1 else "RGB",
        "height": lambda s: _range(s.heights),
        "width": lambda s: _range(s.widths),
        "exact duplicates": lambda s: _count(s.duplicates, s.contradictions, "with another label"),
        "unreadable": lambda s: _count(s.unreadable),
    }
    for name, value in rows.items():
        table.add_row(name, *map(value, splits))
    if inspection.test:
        table.add_row("test images also in train", "", _count(inspection.leaked))
    return table


def _range(spread: tuple[int, int, int] | None) -> str:
    if spread is None:
        return "unknown"
    low, median, high = spread
    return str(low) if low == high else f"{low} to {high}, median {median}"


def _count(number: int, part: int = 0, of_them: str = "") -> str:
    text = f"{number:,}" + (f" ({part:,} {of_them})" if part else "")
    return f"[bold red]{text}[/]" if number else text


def _shots(inspection: Inspection) -> Table:
    table = Table("shots", "images of a class", "classes", "training images")
    for shot, meaning in zip(SHOTS, ("more than 100", "20 to 100", "fewer than 20"), strict=True):
        classes, images = inspection.shots[shot]
        table.add_row(f"[{_COLOURS[shot]}]{shot}[/]", meaning, f"{classes:,}", f"{images:,}")
    return table


def _curve(inspection: Inspection) -> Table:
    """Training images of each class, most first; neighbours share a bar (their mean) where there are many classes."""
    classes = inspection.classes
    order = np.argsort(-np.array(classes.counts), kind="stable")
    table = Table("class", "images", "", box=None, expand=True, title="Training images by class", title_justify="left")
    table.columns[0].max_width = 24
    table.columns[0].no_wrap = True
    table.columns[1].justify = "right"
    table.columns[2].ratio = 1
    bars = np.array_split(order, min(_BARS, len(order)))
    means = [float(np.mean([classes.counts[c] for c in members])) for members in bars]
    rank = 1
    for members, mean in zip(bars, means, strict=True):
        most, middle, fewest = members[0], members[len(members) // 2], members[-1]
        last = rank + len(members) - 1
        label = escape(classes.names[most]) if last == rank else f"{rank:,} to {last:,}"
        high, low = classes.counts[most], classes.counts[fewest]
        numbers = f"{high:,}" if high == low else f"{high:,} to {low:,}"
        table.add_row(label, numbers, Bar(means[0], 0, mean, color=_COLOURS[classes.shots[middle]]))
        rank = last + 1
    return table


def _problems(inspection: Inspection) -> Table | None:
    table = Table("problem", "image")
    for split in (inspection.train, inspection.test):
        if split is not None:
            for text in split.unreadable_examples:
                table.add_row("unreadable", escape(text))
            for earlier, repeated in split.duplicate_examples:
                table.add_row("duplicate", escape(f"{repeated} is {earlier}"))
    for training, test in inspection.leaked_examples:
        table.add_row("test in train", escape(f"{test} is {training}"))
    if not table.row_count:
        return None
    table.caption = f"At most {EXAMPLES} of each kind are named."
    return table


def save_curve(inspection: Inspection, path: Path) -> None:
    """Write the class-frequency curve as PNG: training images of each class, most first, on a logarithmic axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = inspection.classes
    order = np.argsort(-np.array(classes.counts), kind="stable")
    counts = np.array(classes.counts)[order]
    shots = np.array(classes.shots)[order]

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for shot in SHOTS:
        ranks = np.flatnonzero(shots == shot)
        if len(ranks):
            axes.fill_between(
                np.append(ranks, ranks[-1] + 1) - 0.5,
                np.append(counts[ranks], counts[ranks[-1]]),
                step="post",
                color=_COLOURS[shot],
                linewidth=0.8,  # so that five classes of thousands still show
                label=f"{shot}: {len(ranks):,} of {len(counts):,} classes, {counts[ranks].sum():,} images",
            )
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2 * max(counts))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlim(-0.5, len(counts) - 0.5)
    if len(counts) <= _BARS:
        axes.set_xticks(
            range(len(counts)), [classes.names[c] for c in order], rotation=35, ha="right", parse_math=False
        )
        for rank, count in enumerate(counts):
            axes.annotate(f"{count:,}", (rank, max(count, 0.7)), (0, 2), textcoords="offset points", ha="center")
    else:
        axes.set_xlabel("class, by number of training images")
    axes.set_ylabel("training images")
    factor = inspection.train.imbalance
    title = inspection.train.name + (f"\nimbalance factor {factor:,.1f}" if factor else "")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as boxes, which speak for themselves
        figure.savefig(path, format="png")
