"""`longtail.load`: a run, an exported folder or a repository of the Hugging Face Hub, ready to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..engine import deploy
from ..engine.description import Description, read_description
from ..engine.predictor import Predictor
from ..errors import LongtailError, UsageError
from ..models.embedding import embed_with_flip
from .hub import HUB, download


class Exported(Predictor):
    """A graph that `longtail export` wrote, at work on the CPU. What it was given (temperature, class mix) is built in."""

    def __init__(self, folder: Path, description: Description) -> None:
        torch.nn.Module.__init__(self)
        assert description.export is not None
        self.export = description.export
        self._run = _open(folder / self.export.file, self.export.form)
        self._set_up(description, torch.device("cpu"), None)

    def classifies(self) -> bool:
        return self.export.output == "logits"

    def forward(self, images: Tensor) -> Tensor:
        """As `Predictor.forward`; a graph with preprocessing built in takes uint8 images alone."""
        if self.export.preprocess and images.dtype != torch.uint8:
            raise UsageError(f"This export takes uint8 images, as its preprocessing is built in; found {images.dtype}.")
        if images.dtype == torch.uint8 and not self.export.preprocess:
            images = self.preprocess(images)
        return self._run(images)

    @torch.inference_mode()
    def embeddings(self, images: Sequence[Tensor]) -> Tensor:
        """As `Predictor.embeddings`, of an export that gives them and has no preprocessing built in."""
        return embed_with_flip(self, self.preprocess(torch.stack(list(images))))

    def prior_exponent(self) -> float:
        raise UsageError("The class mix of an export is built in: export the run again with --prior.")


def load(path: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Read a model from a run's folder, an exported one, or ``hf:user/name`` (a branch or commit after ``@``).

    Raises `UsageError` where there is none or `device` is not available, `LongtailError` where its files are damaged or
    disagree.
    """
    folder = download(str(path)) if str(path).startswith(HUB) else Path(path)
    description = read_description(folder)
    if description.export is None:
        return deploy.load(folder, device)
    if torch.device(device).type != "cpu":
        raise UsageError(f"An export runs on the CPU here, not on '{device}': load the run it was made of.")
    if folder != Path(path) and description.export.form != "onnx":  # from the hub: data, never code
        raise UsageError(
            f"{path} is a {description.export.form} program, which is only loaded from a folder of your own."
        )
    return Exported(folder, description)


def _open(path: Path, form: str) -> Callable[[Tensor], Tensor]:
    """The graph in a file as a function. Raises `UsageError` without its package, `LongtailError` for a damaged file."""
    try:
        if form == "onnx":
            return _onnx(path)
        if form == "torchscript":
            return torch.jit.load(path, map_location="cpu")
        program = torch.export.load(path).module()
        return lambda images: program(images)
    except UsageError:
        raise
    except Exception as error:  # each reader has errors of its own
        reason = str(error).strip().partition("\n")[0]
        raise LongtailError(f"The model in {path.parent} is damaged: {reason}. Export the run again.") from error


def _onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("An ONNX export needs the package onnxruntime: pip install 'longtail[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(output)

    return run
