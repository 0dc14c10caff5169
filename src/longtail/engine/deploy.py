"""The deployable model: safetensors weights beside a JSON description, and what reads them back to predict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..classes import Classes
from ..config import Section, validate
from ..data.augment import Normalise
from ..data.decode import CorruptImage, decode
from ..data.ops import centre_crop
from ..data.squares import to_square
from ..errors import LongtailError, UsageError
from ..files import write_atomically, write_text
from ..methods import method_class
from ..methods.base import Method
from ..models import build_backbone
from ..models.iresnet import embed_with_flip

FORMAT = 1
Name = TypeVar("Name")
Image = str | Path | bytes | np.ndarray | Any  # Any: a PIL image


class Preprocessing(Section):
    """How pixels become a network's input."""

    resize: int = Field(gt=0, description="the shorter side is resized to this, and the middle square kept")
    image_size: int = Field(gt=0, description="the middle of that square which the network sees")
    channels: int
    mean: tuple[float, ...] = Field(strict=False)  # JSON has lists
    std: tuple[float, ...] = Field(strict=False)
    value_range: tuple[float, float] | None = Field(None, strict=False)  # of pixels of more than 8 bits, see `decode`


class Description(Section):
    """`model.json`: everything but the weights."""

    format: int
    method: str
    options: dict[str, Any]
    backbone: str
    classes: tuple[str, ...] = Field(strict=False)
    class_counts: tuple[int, ...] = Field(strict=False)
    preprocessing: Preprocessing
    parameters: int


def save_model(folder: Path, method: Method, description: Description) -> None:
    """Write model.safetensors (the deployed parts only) and model.json."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in method.state_dict().items() if method.deploys(name)
    }
    write_atomically(folder / "model.safetensors", lambda temporary: temporary.write_bytes(save(weights)))
    write_text(folder / "model.json", description.model_dump_json(indent=2) + "\n")


@dataclass(frozen=True)
class Prediction:
    """The `k` best classes of one image, best first, with their probabilities."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def probability(self) -> float:
        return self.probabilities[0]


class Predictor:
    """A trained classifier, ready to use: ``longtail.load("runs/mine").predict(["a.jpg", "b.jpg"])``."""

    def __init__(self, method: Method, description: Description, device: torch.device) -> None:
        self.method = method.to(device).eval()
        self.description = description
        self.device = device
        pixels = description.preprocessing
        self._normalise = Normalise(pixels.mean, pixels.std)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    def predict(self, images: Image | Sequence[Image], top: int = 1, batch_size: int = 64) -> list[Prediction]:
        """Predict paths, encoded bytes, PIL images or uint8 arrays [H, W] or [H, W, C], one or a list of them.

        Raises `UsageError` for a missing file and anything that is no such image, and `CorruptImage` for one that cannot
        be read.
        """
        if isinstance(images, (str, Path, bytes, np.ndarray, IOBase)) or not isinstance(images, Iterable):
            images = [images]
        return [
            prediction
            for _, prediction in self.stream(((None, self.prepare(image)) for image in images), top, batch_size)
        ]

    def stream(
        self, images: Iterable[tuple[Name, Tensor]], top: int = 1, batch_size: int = 64
    ) -> Iterator[tuple[Name, Prediction]]:
        """Predict pairs of a name and a prepared image lazily: only one batch is in memory, however many there are.

        Raises `UsageError` for a `top` or `batch_size` below 1, and a model that gives embeddings only.
        """
        if min(top, batch_size) < 1:
            raise UsageError(f"top and batch_size are {top} and {batch_size}; expected 1 or more.")
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            names, tensors = zip(*batch, strict=True)
            yield from zip(names, self._rank(self.logits(tensors), top), strict=True)

    def prepare(self, image: Image) -> Tensor:
        """Decode and resize one image: uint8 [C, S, S]. Raises as `predict` does."""
        name = image if isinstance(image, (str, Path)) else "an image"
        if isinstance(image, (str, Path)):
            try:
                image = Path(image).read_bytes()
            except OSError as error:
                raise UsageError(f"Cannot read {image!s}: {error.strerror}.") from error
        _check_is_image(image)
        pixels = self.description.preprocessing
        try:
            decoded = decode(image, pixels.channels, (pixels.resize, pixels.resize), pixels.value_range)
        except CorruptImage as error:
            raise CorruptImage(f"Cannot read {name}: {error}.") from error
        return torch.from_numpy(to_square(decoded, pixels.resize).copy())

    @torch.inference_mode()
    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Prepared images, uint8 [C, S, S] each -> logits float32 [B, C]."""
        self.check_classifies()
        return self.method.logits(self._inputs(images)).float().cpu()

    @torch.inference_mode()
    def embeddings(self, images: Sequence[Tensor]) -> Tensor:
        """Prepared images, uint8 [C, S, S] each -> the features of each plus those of its mirror image, float32 [B, D]."""
        return embed_with_flip(self.method.features, self._inputs(images)).float().cpu()

    def check_classifies(self) -> None:
        """Raise `UsageError` for a model that gives embeddings only."""
        if not self.method.classifies():
            raise UsageError(
                f"A model of '{self.description.method}' gives embeddings, not classes. Judge it with `longtail verify`."
            )

    def _inputs(self, images: Sequence[Tensor]) -> Tensor:
        squares = torch.stack(list(images)).to(self.device)
        return self._normalise(centre_crop(squares, self.description.preprocessing.image_size))

    def _rank(self, logits: Tensor, top: int) -> list[Prediction]:
        probabilities, order = logits.softmax(1).topk(min(top, len(self.classes)), dim=1)
        return [
            Prediction(tuple(self.classes[label] for label in labels), tuple(row))
            for labels, row in zip(order.tolist(), probabilities.tolist(), strict=True)
        ]


def _check_is_image(image: Any) -> None:
    if isinstance(image, np.ndarray):
        layout = image.ndim == 2 or (image.ndim == 3 and image.shape[2] <= 4)
        if layout and image.size and image.dtype == np.uint8:
            return
        found = f"An array {image.dtype} {list(image.shape)}"
    elif isinstance(image, (bytes, PIL.Image.Image)):
        return
    else:
        found = f"A {type(image).__name__}"
    raise UsageError(
        f"{found} is no image. Expected a path, the bytes of a file, a Pillow image, an array uint8 [H, W] or [H, W, C] of "
        "up to 4 channels, or a list of these."
    )


def load(path: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Read a deployable model from a run folder (or any folder with model.json and model.safetensors).

    Raises `UsageError` where there is none or `device` is not available, `LongtailError` where its files are damaged or
    disagree.
    """
    folder = Path(path)
    if not (folder / "model.json").is_file():
        raise UsageError(f"{folder} holds no model.json: give a finished run's folder.")
    try:
        content = json.loads((folder / "model.json").read_text())
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise LongtailError(f"{folder / 'model.json'} has format {found}; this version reads {FORMAT}.")
        description: Description = validate(Description, content, str(folder / "model.json"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise LongtailError(f"The model in {folder} is damaged: {error}") from error
    cls, pixels = method_class(description.method), description.preprocessing
    if pixels.channels not in (1, 3) or not pixels.channels == len(pixels.mean) == len(pixels.std):
        raise LongtailError(f"The model in {folder} is damaged: its channels, mean and std do not go together.")
    if len(description.classes) != len(description.class_counts):
        raise LongtailError(f"The model in {folder} is damaged: its classes and class_counts differ in number.")
    misfit = f"The weights in {folder} do not fit its model.json"
    method = cls(
        build_backbone(description.backbone, pixels.channels, image_size=pixels.image_size),
        Classes(description.classes, description.class_counts),
        validate(cls.Options, description.options, f"options of {description.method}"),
    )
    try:
        missing, unexpected = method.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # tensors of other shapes, a line each
        raise LongtailError(f"{misfit}: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in missing if method.deploys(name)]
    if missing or unexpected:
        raise LongtailError(f"{misfit}: {(missing + unexpected)[:3]}.")
    try:
        return Predictor(method, description, torch.device(device))
    except (RuntimeError, AssertionError) as error:  # PyTorch has both for a device that is not there
        raise UsageError(f"Cannot use device '{device}': {str(error).splitlines()[0]}.") from error
