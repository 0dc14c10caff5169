"""`longtail export`: a run as a folder that other programs read, checked against the run on real images."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data.decode import decode
from ..engine.calibration import Prior, class_shares
from ..engine.deploy import load
from ..engine.description import Export, write_description
from ..engine.predictor import Predictor
from ..engine.prepare import images_of
from ..engine.run import Run
from ..errors import LongtailError, UsageError
from ..files import write_text
from ..predictions import find_images
from .card import model_card
from .graph import FILES, Graph, write_graph
from .runtime import Exported

BOUND = 1e-3  # largest difference from PyTorch, as a share of the largest output (or of 1)
Pixels = bytes | np.ndarray


@dataclass(frozen=True)
class Check:
    """The exported graph beside the run, on `images` real images."""

    images: int
    difference: float  # largest, of an output
    bound: float
    agreeing: float | None  # share of images on which `longtail predict` has the same class; None for embeddings


@dataclass(frozen=True)
class Result:
    folder: Path
    check: Check
    bytes: int
    int8: dict[str, Any] | None = None


def export(
    path: str | Path,
    form: str = "onnx",
    out: str | Path | None = None,
    *,
    preprocess: bool = False,
    temperature: float | None = None,
    prior: Prior | None = None,
    int8: bool = False,
    images: Sequence[Path] = (),
) -> Result:
    """Write the model of the run in `path` to the new folder `out` (default: a folder in the run, named after the format).

    `form`: "onnx", "torchscript" or "torch-export". `preprocess` builds resizing, cropping and normalisation in: the graph
    then takes uint8 images of any size. `temperature` and `prior` (a class mix, see `Predictor.predict`) are built in;
    by default those of `longtail calibrate`. `int8` quantises an ONNX graph and measures it by shots. `images`: real ones
    to check with, by default the run's own. Nothing is left of a folder whose graph differs from the run by more than a
    thousandth of its largest output.

    Raises `UsageError` for what cannot be asked, `LongtailError` where the network cannot be expressed or the check fails.
    """
    if form not in FILES:
        raise UsageError(f"--format is one of {', '.join(FILES)}, not '{form}'.")
    if int8 and form != "onnx":
        raise UsageError("--int8 quantises an ONNX graph: give --format onnx.")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UsageError(f"--temperature is {temperature:g}; expected a number above 0.")
    predictor = load(path)
    folder = Path(out) if out is not None else Path(path) / form
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists: choose another --out.")
    if int8 or not predictor.classifies():
        _check_request(predictor, int8, prior, temperature)
    shares = _shares(predictor, prior)
    built_in = Export(
        form=cast(Any, form),  # checked above
        file=FILES[form],
        output="logits" if predictor.classifies() else "embeddings",
        preprocess=preprocess,
        temperature=predictor.temperature if temperature is None else temperature,
        prior=None if shares is None else tuple(shares.tolist()),
        int8=int8,
    )
    shift = None if shares is None else predictor.shift_to(shares)
    graph = Graph(predictor, preprocess, built_in.temperature, shift)
    real = real_images(path, images)
    description = predictor.description.model_copy(update={"export": built_in})

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        building = Path(temporary) / folder.name
        file = write_graph(graph, form, building)
        write_description(building, description)
        check = check_export(Exported(building, description), graph, predictor, real)
        measured = None
        if int8:
            from .int8 import quantise_and_measure

            measured = quantise_and_measure(path, predictor, building, description)
        for name in ("results.json", "calibration.json"):  # what the card tells of
            if (Path(path) / name).is_file():
                shutil.copyfile(Path(path) / name, building / name)
        write_text(building / "README.md", model_card(building, measured and measured["int8"]))
        (building / "calibration.json").unlink(missing_ok=True)  # built in
        os.chmod(building, 0o777 & ~_umask())
        if folder.exists():
            folder.rmdir()
        building.replace(folder)
    return Result(folder, check, (folder / file.name).stat().st_size, measured)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _check_request(predictor: Predictor, int8: bool, prior: Prior | None, temperature: float | None) -> None:
    if not predictor.classifies() and (int8 or prior is not None or temperature is not None):
        raise UsageError(
            f"A model of '{predictor.description.method}' gives embeddings, which have no classes: leave --int8, --prior and "
            "--temperature out."
        )


def _shares(predictor: Predictor, prior: Prior | None) -> Tensor | None:
    if prior == "estimate":
        raise UsageError("A class mix is estimated from images: let `longtail predict --prior estimate` tell it first.")
    if prior is not None:
        return class_shares(prior, predictor.classes, predictor.description.class_counts)
    fitted = predictor.calibration.prior if predictor.calibration else None
    return None if fitted is None else torch.tensor(fitted, dtype=torch.float64)


def real_images(path: str | Path, given: Sequence[Path], count: int = 32) -> list[Pixels]:
    """`count` images to check a model with: those `given` (files and folders), else the run's held-out or training ones.

    Raises `UsageError` where there are none.
    """
    if given:
        return [file.read_bytes() for file in islice(find_images(given), count)]
    try:
        subset = images_of(Run.open(path))
    except LongtailError as error:
        raise UsageError(
            f"The images that an export is checked with cannot be had: {error} Give some with --images FOLDER."
        ) from error
    held_out = next(iter(subset.held_out.values()), subset.train)
    places = np.linspace(0, len(held_out) - 1, min(count, len(held_out))).round().astype(int)
    return [held_out.read(int(i)) for i in places]


@torch.inference_mode()
def check_export(exported: Exported, graph: Graph, predictor: Predictor, images: Sequence[Pixels]) -> Check:
    """Run the exported file and PyTorch on the same images.

    Raises `LongtailError` where they differ by more than `BOUND` of the largest output.
    """
    squares = [predictor.prepare(image) for image in images]
    if graph.preprocess:
        raw = [torch.from_numpy(decode(image, graph.pixels.channels)).permute(2, 0, 1)[None] for image in images]
        pairs = [(exported(image), graph(image)) for image in raw]
    else:
        pairs = []
        for size in (1, len(squares)):  # the number of images must be free
            inputs = predictor.preprocess(torch.stack(squares[:size]))
            pairs.append((exported(inputs), graph(inputs)))
    difference = max((found - expected).abs().max().item() for found, expected in pairs)
    bound = BOUND * max(1.0, *(expected.abs().max().item() for _, expected in pairs))
    if not difference <= bound:
        raise LongtailError(
            f"The exported graph differs from the model by {difference:.2g} on {len(images)} images, more than {bound:.2g}. "
            "Nothing was written; try another --format."
        )
    agreeing = None
    if predictor.classifies():
        found = torch.cat([output for output, _ in pairs])[-len(squares) :]
        scores = predictor.logits(squares).double() / graph.temperature
        expected = scores if graph.shift is None else scores + graph.shift
        agreeing = (found.argmax(1) == expected.argmax(1)).double().mean().item()
    return Check(len(images), difference, bound, agreeing)
