"""Judging a run's embeddings: verification of pairs and templates, identification, and accuracy by shots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from ..classes import SHOTS
from ..data.images import FileSet, ImageSet
from ..data.sources import open_source
from ..engine.deploy import Predictor, load
from ..engine.prepare import images_of
from ..engine.reporter import Reporter
from ..engine.run import Run
from ..errors import UsageError
from ..report.tables import percent
from . import scores as figures
from .lists import Pairs, Templates, pair_names, read_bin, read_ijb, read_lfw_pairs

Embed = Callable[[ImageSet], np.ndarray]


def verify(
    run: str | Path,
    *,
    images: str | None = None,
    pairs: Path | None = None,
    templates: Path | None = None,
    bins: Sequence[Path] = (),
    distractors: str | None = None,
    shots: bool = False,
    roc: Path | None = None,
    reporter: Reporter | None = None,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Figures of the model in the folder `run`, each part only where it is asked for. Embeddings are summed over the
    image and its mirror image.

    - "sets", by the list's path: for `pairs` (a list in LFW's format, of images of the source `images`), `pairs` with
      `templates` (the lists of IJB-B and IJB-C, of images in the folder `images`), and each `.bin` set of `bins`:
      accuracy with the threshold from the other folds, and TAR at each FAR. What cannot be measured with so few pairs
      or folds is None.
    - "identification": each image of `images` looks for the others of its person among the source `distractors`.
    - "shots": accuracy of the run's held-out images, by the number of training images of their class. An image belongs
      to the class whose mean training embedding is nearest.

    `roc` is where to save the ROC curves of the sets, as PNG. Raises `UsageError` for options that do not go together
    and wrong lists, `LongtailError` for a corrupt image or an embedding of zero length.
    """
    _check_request(images, pairs, templates, bins, distractors, shots, roc)
    predictor = load(run, "cuda" if torch.cuda.is_available() else "cpu")
    progress = reporter or Reporter()

    def embed(chosen: ImageSet) -> np.ndarray:
        progress.begin(f"embedding {chosen.name}", len(chosen))
        embeddings = _embed(predictor, chosen, batch_size, progress)
        progress.end()
        return embeddings

    result: dict[str, Any] = {"run": str(run)}
    scored: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    if pairs is not None and templates is not None:
        scored[str(pairs)] = _score_templates(embed, Path(str(images)), read_ijb(templates, pairs))
    elif pairs is not None:
        source = _open(images)
        scored[str(pairs)] = _score_pairs(embed, source, read_lfw_pairs(pairs, pair_names(source)))
    for path in bins:
        scored[str(path)] = _score_pairs(embed, *read_bin(path))
    if scored:
        curves = {name: figures.roc(scores, same) for name, (scores, same, _) in scored.items()}
        result["sets"] = {name: _set_figures(curves[name], *parts) for name, parts in scored.items()}
        if roc is not None:
            figures.plot_roc(curves, roc)
    if distractors is not None:
        result["identification"] = _identify(embed, _open(images), _open(distractors))
    if shots:
        result["shots"] = _by_shots(embed, Run.open(run))
    return result


def _check_request(
    images: str | None,
    pairs: Path | None,
    templates: Path | None,
    bins: Sequence[Path],
    distractors: str | None,
    shots: bool,
    roc: Path | None,
) -> None:
    if pairs is None and not bins and distractors is None and not shots:
        raise UsageError("Nothing to verify: give --pairs and --images, --bin, --distractors and --images, or --shots.")
    if images is None and (pairs is not None or distractors is not None):
        raise UsageError("--pairs and --distractors need --images: where the images are that they are about.")
    if templates is not None and pairs is None:
        raise UsageError("--templates needs --pairs: the list of 'template1 template2 label'.")
    if templates is not None and not Path(str(images)).is_dir():
        raise UsageError(f"--templates lists files of a folder, but --images {images} is not a folder.")
    if roc is not None and pairs is None and not bins:
        raise UsageError("--roc draws the curves of --pairs and --bin: give one of them.")


def _open(source: str | None) -> ImageSet:
    """All images of a source, or its test split where it has one."""
    return open_source(str(source)).to_score


def _embed(predictor: Predictor, images: ImageSet, batch_size: int, progress: Reporter) -> np.ndarray:
    """Embeddings float32 [N, D] of all images, prepared as for prediction."""
    pixels = predictor.description.preprocessing
    images.value_range = pixels.value_range

    def prepare(i: int) -> torch.Tensor:
        return predictor.prepare(images.image(i, pixels.channels, at_least=(pixels.resize, pixels.resize)))

    parts = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(images), batch_size):
            batch = list(pool.map(prepare, range(start, min(start + batch_size, len(images)))))
            parts.append(predictor.embeddings(batch).numpy())
            progress.advance(len(batch))
    return np.concatenate(parts)


def _unit(embed: Embed, images: ImageSet) -> np.ndarray:
    return figures.normalise(embed(images), [images.key(i) for i in range(len(images))])


def _score_pairs(embed: Embed, images: ImageSet, pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, whether same, and fold of each pair. Images in no pair are not embedded."""
    used, ends = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    left, right = np.split(ends, 2)
    return figures.pair_scores(_unit(embed, images.select(used)), left, right), pairs.same, pairs.folds


def _score_templates(embed: Embed, folder: Path, lists: Templates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_score_pairs`. Lengths of the embeddings weigh the images of a template, as in the protocol's code."""
    count = len(lists.images)
    images = FileSet(f"folder:{folder}", ("unknown",), np.zeros(count, np.int64), folder, lists.images)
    numbers, pooled = figures.pool_templates(embed(images), lists.templates, lists.media)
    templates = figures.normalise(pooled, [f"template {number}" for number in numbers])
    left, right = (np.searchsorted(numbers, side) for side in (lists.left, lists.right))
    return figures.pair_scores(templates, left, right), lists.same, np.zeros(len(lists.same), np.int64)


def _set_figures(curve: figures.Roc, scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    count = len(np.unique(folds))
    accuracy = figures.fold_accuracy(scores, same, folds) if count > 1 else None
    return {
        "same": curve.genuine,
        "different": curve.impostors,
        "folds": count,
        "accuracy": accuracy.mean if accuracy else None,
        "standard_error": accuracy.standard_error if accuracy else None,
        "tar": {_power(far): curve.tar_at(far) for far in figures.FARS},
    }


def _power(far: float) -> str:
    return f"1e{round(np.log10(far))}"


def _identify(embed: Embed, probes: ImageSet, distractors: ImageSet) -> dict[str, Any]:
    # Names that are numbers were given out by a file and say nothing about another's.
    both = sorted(name for name in {*probes.class_names} & {*distractors.class_names} if not name.isdecimal())
    if both:
        raise UsageError(
            f"{len(both)} people of {probes.name} are among the distractors {distractors.name}, first '{both[0]}'. "
            "Distractors must be of other people."
        )
    found = figures.identify(_unit(embed, probes), probes.labels, _unit(embed, distractors))
    return {
        "probes": len(probes),
        "distractors": len(distractors),
        "rank1": found.rank1,
        "tar": {_power(far): share for far, share in found.tar.items()},
    }


def _by_shots(embed: Embed, run: Run) -> dict[str, Any]:
    subset = images_of(run)
    if not subset.held_out:
        raise UsageError(
            f"{run.path} held out no images, so --shots has none to judge. Train with data.validation > 0."
        )
    split = "test" if "test" in subset.held_out else "val"
    held_out, train = subset.held_out[split], subset.train
    _, sums = figures.pool_templates(_unit(embed, train), train.labels, np.arange(len(train)))
    position, _ = figures.nearest(_unit(embed, held_out), figures.normalise(sums, train.class_names))
    correct = position == held_out.labels
    by_shots = figures.accuracy_by_shots(correct, held_out.labels, subset.classes)
    return {"split": split, "images": len(held_out), "top1": float(correct.mean()), **by_shots}


def tables(result: dict[str, Any]) -> list[Table]:
    """The result of `verify`, for people."""
    shown = []
    for name, figure in result.get("sets", {}).items():
        table = _table(name)
        table.add_row("pairs", f"{figure['same']:,} same, {figure['different']:,} different")
        accuracy, error = figure["accuracy"], figure["standard_error"]
        table.add_row(
            f"accuracy, {figure['folds']} folds",
            _share(accuracy) if accuracy is None else f"{_share(accuracy)} ± {percent(error)} (standard error)",
        )
        _add_tar(table, figure["tar"])
        shown.append(table)
    if found := result.get("identification"):
        table = _table("identification")
        table.add_row("images", f"{found['probes']:,} probes, {found['distractors']:,} distractors")
        table.add_row("rank 1", _share(found["rank1"]))
        _add_tar(table, found["tar"])
        shown.append(table)
    if shots := result.get("shots"):
        table = _table("nearest class mean")
        table.add_row("images", f"{shots['images']:,} ({shots['split']})")
        for name in ("top1", *SHOTS):
            table.add_row(name, _share(shots[name]))
        shown.append(table)
    return shown


def _table(title: str) -> Table:
    return Table("measure", "value", title=title, title_justify="left", show_header=False)


def _add_tar(table: Table, tar: dict[str, float | None]) -> None:
    for far, share in tar.items():
        table.add_row(f"TAR at FAR {far}", _share(share))


def _share(value: float | None) -> str:
    return "not measurable" if value is None else f"{percent(value)} %"
