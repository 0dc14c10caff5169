"""Runs side by side: grouped over seeds, and each group's difference from a baseline on the same test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classes import SHOTS, Classes
from ..config import Config, flat
from ..engine.run import Run
from ..errors import UsageError, unknown_name
from ..evaluation.differences import Difference, holm, paired_bootstrap, seed_interval
from ..evaluation.predictions import Predictions, read

HEADLINE = "class_balanced"
MEASURES = (HEADLINE, "top1", *SHOTS)
# Settings that change where or how fast a run trains, not what it learns.
IRRELEVANT = {
    "seed", "report", "class_names", "data.loader", "data.budget_gb", "data.workers", "train.compile", "train.accelerator",
    "train.devices", "train.eval_every", "train.loggers",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A finished run."""

    path: Path
    config: Config
    results: Mapping[str, Any]
    predictions: Predictions

    @property
    def settings(self) -> dict[str, Any]:
        """What was trained, by dotted name."""
        return {name: value for name, value in flat(self.config.model_dump(), ".") if name not in IRRELEVANT}


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    name: str
    entries: tuple[Entry, ...]

    def values(self, measure: str) -> list[float]:
        """`measure` of each run that has it."""
        metrics = (entry.results["metrics"] for entry in self.entries)
        return [found[measure] for found in metrics if found.get(measure) is not None]

    def mean(self, measure: str) -> float | None:
        values = self.values(measure)
        return float(np.mean(values)) if values else None

    def deviation(self, measure: str) -> float | None:
        """Over seeds, with n - 1; None for one run."""
        values = self.values(measure)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def by_seed(self, measure: str) -> dict[int, float]:
        return {
            entry.config.seed: value
            for entry in self.entries
            if (value := entry.results["metrics"].get(measure)) is not None
        }

    @property
    def accuracy(self) -> np.ndarray:
        """Of each class, the mean over runs, float64 [C]; NaN without images."""
        return np.mean([entry.predictions.accuracy for entry in self.entries], axis=0)

    def fact(self, name: str) -> float | None:
        """Mean over the runs of a number in their results; None where one does not have it."""
        values = [entry.results.get(name) for entry in self.entries]
        return None if any(value is None for value in values) else float(np.mean(values))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Contrast:
    """How `group` differs from the baseline in `measure`: by images (None without any in common) and by seed."""

    group: str
    measure: str
    images: Difference | None
    corrected_p: float
    seeds: Mapping[int, float]
    family: int

    @property
    def shown(self) -> bool:
        """Whether the difference is more than luck with the test images would give, however many groups are compared."""
        return self.images is not None and self.corrected_p < 0.05


@dataclass(frozen=True)
class Comparison:
    """What was compared, on which images, and what came out. `notes` are what a reader must know."""

    groups: tuple[Group, ...]
    baseline: str
    contrasts: tuple[Contrast, ...]
    classes: Classes
    split: str
    source: str
    notes: tuple[str, ...]

    def contrast(self, group: str, measure: str = HEADLINE) -> Contrast | None:
        return next((c for c in self.contrasts if (c.group, c.measure) == (group, measure)), None)


def compare(
    paths: Sequence[str | Path], by: Sequence[str] = ("method",), baseline: str | None = None, force: bool = False
) -> Comparison:
    """Compare the finished runs in the folders `paths`.

    `by`: the settings that name a group; runs of one group may differ in the seed alone. `baseline`: the group that the
    others are held against, by default that of method "ce", else the first. Raises `UsageError` for fewer than two runs,
    an unknown setting or baseline, and, unless `force`, for runs on other subsets, labels or test images, or that differ
    in more than the seed within a group.
    """
    if len({Path(path).resolve() for path in paths}) < 2:
        raise UsageError(f"A comparison needs at least two runs; found {len(paths)}.")
    entries = [_open(Path(path)) for path in paths]
    notes = _check_data(entries, force)
    groups = _grouped(entries, by)
    notes += _check_groups(groups, force)
    names = [group.name for group in groups]
    if baseline is None:
        baseline = next((g.name for g in groups if g.entries[0].config.method == "ce"), names[0])
    elif baseline not in names:
        raise unknown_name("group to compare with", baseline, names)
    notes += _different_settings(groups, by)
    first = entries[0]
    return Comparison(
        groups=groups,
        baseline=baseline,
        contrasts=tuple(_contrasts(groups, baseline)),
        classes=first.predictions.classes,
        split=first.predictions.split,
        source=first.results["data"]["source"],
        notes=tuple(notes),
    )


def _open(path: Path) -> Entry:
    run = Run.open(path)
    return Entry(path, run.config(), run.results(), read(path))


def _check_data(entries: Sequence[Entry], force: bool) -> list[str]:
    """Raise `UsageError` for runs on other data, or say so where they are compared by force."""
    # Where validation images are drawn with the seed, runs of one seed have them in common.
    seeded = all(entry.predictions.split == "val" for entry in entries)
    for kind in sorted({entry.config.seed for entry in entries}) if seeded else [None]:
        same = [entry for entry in entries if kind in (None, entry.config.seed)]
        for other in same[1:]:
            problem = _other_data(same[0], other)
            if problem and force:
                return [
                    f"Not on equal terms: {problem} Only images that runs have in common are held against each other."
                ]
            if problem:
                raise UsageError(f"{problem} Such figures do not compare; --force sets them side by side all the same.")
    if seeded:
        return ["Each seed has its own validation images, drawn from the training images; runs of one seed share them."]
    return []


def _other_data(one: Entry, other: Entry) -> str | None:
    """In what the data of two runs differ."""
    mine, theirs = one.predictions, other.predictions
    where = f"{one.path} and {other.path}"
    if mine.classes.names != theirs.classes.names:
        return f"{where} have other classes."
    for fact, name in (("subset_hash", "training subsets"), ("labels_hash", "labels")):
        values = one.results["data"].get(fact), other.results["data"].get(fact)
        if values[0] != values[1]:
            return f"{where} have other {name}: {values[0]} and {values[1]}."
    if mine.split != theirs.split:
        return f"{where} were scored on other splits: {mine.split} and {theirs.split}."
    if mine.images != theirs.images or not np.array_equal(mine.labels, theirs.labels):
        return (
            f"{where} were scored on other {mine.split} images: {len(mine):,} and {len(theirs):,}, or in another order."
        )
    return None


def _grouped(entries: Sequence[Entry], by: Sequence[str]) -> tuple[Group, ...]:
    known = list(dict.fromkeys(name for entry in entries for name, _ in flat(entry.config.model_dump(), ".")))
    fields = []
    for wanted in by:
        found = [name for name in known if wanted in (name, name.rpartition(".")[2])]
        if not found:
            raise unknown_name("setting", wanted, known)
        if wanted not in found and len(found) > 1:
            raise UsageError(f"Setting '{wanted}' is ambiguous: write {' or '.join(found)}.")
        fields.append(wanted if wanted in found else found[0])
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        values = dict(flat(entry.config.model_dump(), "."))
        words = [
            str(values.get(f)) if f in ("method", "backbone") else f"{f.rpartition('.')[2]}={values.get(f)}"
            for f in fields
            if f != "seed"
        ]
        members.setdefault(", ".join(words) or "all", []).append(entry)
    return tuple(Group(name, tuple(of_group)) for name, of_group in members.items())


def _check_groups(groups: Iterable[Group], force: bool) -> list[str]:
    """Raise `UsageError` where runs of a group differ in more than the seed, or not even in that."""
    for group in groups:
        seen: dict[int, Entry] = {}
        first = group.entries[0]
        for entry in group.entries:
            differing = _differing([first, entry])
            twin = seen.setdefault(entry.config.seed, entry)
            if differing and not force:
                raise UsageError(
                    f"{first.path} and {entry.path} are both '{group.name}' but differ in {', '.join(differing)}: group by "
                    f"that too, for instance --by method,{differing[0]}, or give --force."
                )
            if differing:
                return [f"The runs of {group.name} differ in {', '.join(differing)}."]
            if twin is not entry:
                raise UsageError(
                    f"{twin.path} and {entry.path} are both '{group.name}' with seed {entry.config.seed}: leave one out."
                )
    return []


def _differing(entries: Sequence[Entry]) -> list[str]:
    """Settings that are not the same in all."""
    settings = [entry.settings for entry in entries]
    names = dict.fromkeys(name for values in settings for name in values)
    return [name for name in names if any(values.get(name) != settings[0].get(name) for values in settings)]


def _different_settings(groups: Sequence[Group], by: Sequence[str]) -> list[str]:
    """What differs between the groups besides what they are named by and the methods' own options: a reader must know."""
    named = {name.rpartition(".")[2] for name in by} | {"method"}
    found = []
    for name in _differing([group.entries[0] for group in groups]):
        if name.rpartition(".")[2] not in named and not name.startswith("options."):
            values = [f"{group.name} {group.entries[0].settings.get(name)}" for group in groups]
            found.append(f"{name} ({', '.join(values)})")
    return [f"The groups also differ in {'; '.join(found)}."] if found else []


def _contrasts(groups: Sequence[Group], baseline: str) -> list[Contrast]:
    base = next(group for group in groups if group.name == baseline)
    others = [group for group in groups if group is not base]
    found = []
    hits = {group.name: _hits(group) for group in groups}
    shots = base.entries[0].predictions.shots
    for measure in MEASURES:
        images = [_by_images(hits[group.name], hits[baseline], measure, shots) for group in others]
        family = [difference.p for difference in images if difference is not None]
        corrected = iter(holm(family))
        for group, difference in zip(others, images, strict=True):
            mine, theirs = group.by_seed(measure), base.by_seed(measure)
            seeds = {seed: mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())}
            p = next(corrected) if difference is not None else 1.0
            found.append(Contrast(group.name, measure, difference, p, seeds, len(family)))
    return found


Hits = dict[str, tuple[int, float]]


def _by_images(mine: Hits, theirs: Hits, measure: str, shots: np.ndarray) -> Difference | None:
    """The paired bootstrap over the images that both groups were scored on; None where there are none."""
    common = [image for image in mine if image in theirs]
    classes = np.array([mine[image][0] for image in common], int)
    differences = np.array([mine[image][1] - theirs[image][1] for image in common])
    if measure in SHOTS:
        kept = np.isin(classes, np.flatnonzero(shots == measure))
        classes, differences = classes[kept], differences[kept]
    if not len(differences):
        return None
    return paired_bootstrap(differences, np.zeros_like(classes) if measure == "top1" else classes)


def _hits(group: Group) -> Hits:
    """Of each image its class, and the share of the group's runs that saw it and were right."""
    seen: dict[str, list[tuple[int, bool]]] = {}
    for entry in group.entries:
        p = entry.predictions
        for image, label, correct in zip(p.images, p.labels.tolist(), p.correct.tolist(), strict=True):
            seen.setdefault(image, []).append((label, correct))
    return {image: (runs[0][0], sum(hit for _, hit in runs) / len(runs)) for image, runs in seen.items()}


def sentences(comparison: Comparison) -> list[str]:
    """What came out, group by group."""
    said = []
    for group in comparison.groups:
        if (contrast := comparison.contrast(group.name)) is not None:
            said.append(_sentence(contrast, comparison.baseline))
    if any(len(c.seeds) == 1 for c in comparison.contrasts):
        said.append(
            "Where there is one seed, the interval speaks of other test images only: another training may differ by more."
        )
    return said


def _sentence(contrast: Contrast, baseline: str) -> str:
    group, images = contrast.group, contrast.images
    if images is None:
        return f"{group} and {baseline} have no test image in common."
    points = f"{100 * abs(images.mean):.1f} points of class-balanced accuracy"
    ends = [100 * images.low, 100 * images.high]
    if contrast.shown and images.mean < 0:
        ends = [-ends[1], -ends[0]]
    interval = f"interval {ends[0]:.1f} to {ends[1]:.1f}"
    allowed = f" after Holm's correction for {contrast.family} comparisons" if contrast.family > 1 else ""
    p = f"p {contrast.corrected_p:.2g}" if contrast.corrected_p >= 0.001 else "p below 0.001"
    if contrast.shown:
        word = "better" if images.mean > 0 else "worse"
        said = f"{group} is {word} than {baseline} by {points} ({interval}, {p}{allowed})"
    else:
        said = (
            f"No difference between {group} and {baseline} is shown: {100 * images.mean:+.1f} points of class-balanced "
            f"accuracy ({interval}, {p}{allowed})"
        )
    seeds = list(contrast.seeds.values())
    if len(seeds) < 2:
        return said + "."
    over = seed_interval(seeds)
    assert over is not None
    agree = sum(d > 0 for d in seeds)
    said += f"; it is ahead in {agree} of {len(seeds)} seeds"
    if contrast.shown and over[0] < 0 < over[1]:
        said += f", and over seeds alone it could be none (t interval {100 * over[0]:.1f} to {100 * over[1]:.1f})"
    return said + "."
