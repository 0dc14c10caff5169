"""A trained model at work: images in, classes with probabilities out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from ..data.augment import Normalise
from ..data.decode import CorruptImage, decode
from ..data.ops import centre_crop
from ..data.squares import squares, to_square
from ..errors import UsageError
from ..evaluation.calibration import adjust, estimate_prior, prior_shift
from ..files import open_regular
from ..methods.base import Method
from ..models.embedding import embed_with_flip
from .calibration import Calibration, Prior, class_shares
from .description import Description

logger = logging.getLogger("longtail")
Name = TypeVar("Name")
Image = str | Path | bytes | np.ndarray | Any  # Any: a PIL image


@dataclass(frozen=True)
class Prediction:
    """The `k` best classes of one image, best first, with their probabilities.

    `accepted`: the classes whose threshold the image reaches; `known`: whether it is of any class at all. Both are None where
    `longtail calibrate` was not asked for them.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    accepted: tuple[str, ...] | None = None
    known: bool | None = None

    @property
    def label(self) -> str:
        return self.labels[0]

    @property
    def probability(self) -> float:
        return self.probabilities[0]


class Predictor(nn.Module):
    """A trained model, ready to use: ``longtail.load("runs/mine").predict(["a.jpg", "b.jpg"])``.

    As a module it takes images alone and gives the method's scores [B, C] (the embeddings [B, D] of a model for faces): see
    `forward`. `method` is what was trained, `description` what model.json says, `calibration` what was measured since.
    """

    def __init__(
        self, method: Method, description: Description, device: torch.device, calibration: Calibration | None = None
    ) -> None:
        super().__init__()
        self.method = method
        self._set_up(description, device, calibration)

    def _set_up(self, description: Description, device: torch.device, calibration: Calibration | None) -> None:
        self.description = description
        self.calibration = calibration
        self.normalise = Normalise(description.preprocessing.mean, description.preprocessing.std)
        self.to(device).eval()

    @property
    def device(self) -> torch.device:
        return next((value.device for value in self.parameters()), torch.device("cpu"))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    def classifies(self) -> bool:
        """Whether the model gives class scores, not embeddings alone."""
        return self.method.classifies()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the scores float32 [B, C] that the method learned, before any calibration.

        uint8 images of any size are resized, cropped and normalised as in training; float32 images are taken as normalised
        already (`normalise` does that to uint8 ones).
        """
        inputs = self.preprocess(images) if images.dtype == torch.uint8 else images
        return (self.method.logits if self.classifies() else self.method.features)(inputs).float()

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> the network's input, float32 [B, C, S, S]."""
        pixels = self.description.preprocessing
        if images.shape[-2:] != (pixels.resize, pixels.resize):
            images = squares(images, pixels.resize)
        return self.normalise(centre_crop(images, pixels.image_size))

    def predict(
        self, images: Image | Sequence[Image], top: int = 1, batch_size: int = 64, prior: Prior | None = None
    ) -> list[Prediction]:
        """Predict paths, encoded bytes, PIL images or uint8 arrays [H, W] or [H, W, C], one or a list of them.

        `prior` is the class mix these images come from: "uniform", "train", "estimate" (from the images themselves), a CSV of
        class,share, or a mapping of each class to its share; None leaves the scores as they are.

        Raises `UsageError` for a missing file and anything that is no such image, and `CorruptImage` for one that cannot
        be read.
        """
        if isinstance(images, (str, Path, bytes, np.ndarray, IOBase)) or not isinstance(images, Iterable):
            images = [images]
        prepared = ((None, self.prepare(image)) for image in images)
        return [prediction for _, prediction in self.stream(prepared, top, batch_size, prior)]

    def stream(
        self,
        images: Iterable[tuple[Name, Tensor]],
        top: int = 1,
        batch_size: int = 64,
        prior: Prior | None = None,
    ) -> Iterator[tuple[Name, Prediction]]:
        """Predict pairs of a name and a prepared image lazily: only one batch is in memory, however many there are.

        With ``prior="estimate"`` every image is scored before the first prediction, and the scores [N, C] are kept. Raises
        `UsageError` for a `top` or `batch_size` below 1, a model that gives embeddings only, and a `prior` that cannot be
        had.
        """
        if min(top, batch_size) < 1:
            raise UsageError(f"top and batch_size are {top} and {batch_size}; expected 1 or more.")
        self.check_classifies()
        self._check_prior(prior)
        scored = self.scored(images, batch_size)
        if prior == "estimate":
            return self._stream_with_estimate(scored, top)
        shift = self.prior_shift(prior)
        return (pair for names, logits in scored for pair in zip(names, self._rank(logits, top, shift), strict=True))

    def _stream_with_estimate(
        self, scored: Iterator[tuple[tuple[Name, ...], Tensor]], top: int
    ) -> Iterator[tuple[Name, Prediction]]:
        kept = list(scored)
        if not kept:
            return
        shift = self.shift_to(self.estimate_prior(torch.cat([logits for _, logits in kept])))
        for names, logits in kept:
            yield from zip(names, self._rank(logits, top, shift), strict=True)

    def scored(
        self, images: Iterable[tuple[Name, Tensor]], batch_size: int
    ) -> Iterator[tuple[tuple[Name, ...], Tensor]]:
        """Names and logits [B, C] of each batch of prepared images, lazily."""
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            names, tensors = zip(*batch, strict=True)
            yield names, self.logits(tensors)

    def prepare(self, image: Image) -> Tensor:
        """Decode and resize one image: uint8 [C, S, S]. Raises as `predict` does."""
        name = image if isinstance(image, (str, Path)) else "an image"
        if isinstance(image, (str, Path)):
            try:
                with open_regular(image) as file:
                    image = file.read()
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
        return self(torch.stack(list(images)).to(self.device)).cpu()

    @torch.inference_mode()
    def embeddings(self, images: Sequence[Tensor]) -> Tensor:
        """Prepared images, uint8 [C, S, S] each -> the features of each plus those of its mirror image, float32 [B, D]."""
        inputs = self.preprocess(torch.stack(list(images)).to(self.device))
        return embed_with_flip(self.method.features, inputs).float().cpu()

    def check_classifies(self) -> None:
        """Raise `UsageError` for a model that gives embeddings only."""
        if not self.classifies():
            raise UsageError(
                f"A model of '{self.description.method}' gives embeddings, not classes. Judge it with `longtail verify`."
            )

    # --- The class mix in use ---

    def prior_shift(self, prior: Prior | None) -> Tensor | None:
        """What is added to scores over the temperature for the class mix `prior`, float64 [C]; None: the one calibrated for,
        or nothing. Raises `UsageError` for a mix that cannot be had."""
        if prior is not None:
            return self.shift_to(class_shares(prior, self.classes, self.description.class_counts))
        fitted = self.calibration.prior if self.calibration else None
        return None if fitted is None else self.shift_to(torch.tensor(fitted, dtype=torch.float64))

    def estimate_prior(self, logits: Tensor) -> Tensor:
        """The class mix of the images that gave `logits` [N, C], as shares float64 [C]; said in a line of the log."""
        training = class_shares("train", self.classes, self.description.class_counts)
        as_scored = training ** self.prior_exponent()
        probabilities = adjust(logits.double(), self.temperature, None).softmax(1)
        shares = estimate_prior(probabilities, as_scored / as_scored.sum())
        order = shares.argsort(descending=True).tolist()
        largest = ", ".join(f"{self.classes[c]} {shares[c]:.1%}" for c in order[:8])
        more = f" and {len(order) - 8} more" if len(order) > 8 else ""
        logger.info("Estimated class mix of these %d images: %s%s", len(logits), largest, more)
        return shares

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What `longtail calibrate` was asked for, as fields of a `Prediction`."""
        found = self.calibration
        measured = {"accepted": found and found.thresholds, "known": found and found.none_of_these}
        return tuple(name for name, value in measured.items() if value is not None)

    @property
    def temperature(self) -> float:
        return self.calibration.temperature if self.calibration else 1.0

    def prior_exponent(self) -> float:
        """a, where the scores are log-posteriors for classes in proportion to n_c ** a. Raises `UsageError` where unknown."""
        if self.calibration is not None:
            return self.calibration.exponent
        known = self.method.prior_exponent()
        if known is None:
            raise UsageError(
                f"Which class mix the scores of '{self.description.method}' stand for is not known. Measure it on held-out "
                "images with `longtail calibrate RUN`, then ask for another mix."
            )
        return known

    def shift_to(self, shares: Tensor) -> Tensor:
        """What is added to scores over the temperature for the class shares float64 [C]. Raises as `prior_exponent`."""
        training = class_shares("train", self.classes, self.description.class_counts)
        return prior_shift(shares, training, self.prior_exponent())

    def _check_prior(self, prior: Prior | None) -> None:
        if prior is None:
            return
        self.prior_exponent()
        if self.calibration is not None and self.calibration.thresholds is not None:
            raise UsageError(
                "The thresholds of this model were measured for one class mix, and hold for no other. Measure them for "
                "this one: longtail calibrate RUN --prior MIX."
            )

    def _rank(self, logits: Tensor, top: int, shift: Tensor | None) -> list[Prediction]:
        every = adjust(logits.double(), self.temperature, shift).softmax(1)
        probabilities, order = every.topk(min(top, len(self.classes)), dim=1)
        accepted: list[tuple[str, ...] | None] = [None] * len(logits)
        known: list[bool | None] = [None] * len(logits)
        if self.calibration is not None and (thresholds := self.calibration.thresholds) is not None:
            least = torch.tensor([2.0 if threshold is None else threshold.at for threshold in thresholds])
            reached = every >= least.double() * (1 - 1e-6)  # scores differ in their last digit with the batch
            accepted = [tuple(self.classes[c] for c in row.nonzero()[:, 0].tolist()) for row in reached]
        if self.calibration is not None and (none := self.calibration.none_of_these) is not None:
            known = (logits.amax(1) >= none.score).tolist()
        return [
            Prediction(tuple(self.classes[label] for label in labels), tuple(row), taken, of_any)
            for labels, row, taken, of_any in zip(order.tolist(), probabilities.tolist(), accepted, known, strict=True)
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
