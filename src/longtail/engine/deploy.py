"""The deployable model: safetensors weights beside a JSON description, written and read."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..classes import Classes
from ..config import validate
from ..errors import LongtailError, UsageError
from ..files import check_regular, write_atomically
from ..methods import method_class
from ..methods.base import Method
from ..models import build_backbone
from .calibration import read_calibration
from .description import FORMAT, Description, read_description, write_description
from .predictor import Predictor

__all__ = ["FORMAT", "Description", "Predictor", "load", "save_model"]


def save_model(folder: Path, method: Method, description: Description) -> None:
    """Write model.safetensors (the deployed parts only) and model.json."""
    weights = {
        name: value.detach().cpu().contiguous() for name, value in method.state_dict().items() if method.deploys(name)
    }
    write_atomically(folder / "model.safetensors", lambda temporary: temporary.write_bytes(save(weights)))
    write_description(folder, description)


def load(path: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Read a deployable model from a run folder (or any folder with model.json and model.safetensors).

    Raises `UsageError` where there is none or `device` is not available, `LongtailError` where its files are damaged or
    disagree.
    """
    folder = Path(path)
    description = read_description(folder)
    if description.export is not None:
        raise UsageError(f"{folder} holds an export, which only predicts: give the folder of the run it was made of.")
    try:
        check_regular(folder / "model.safetensors")
        weights = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise LongtailError(f"The model in {folder} is damaged: {error}") from error
    if bad := next((name for name, value in weights.items() if not value.isfinite().all()), None):
        raise LongtailError(f"The model in {folder} is damaged: its weight '{bad}' is not finite.")
    cls, pixels = method_class(description.method), description.preprocessing
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
    calibration = read_calibration(folder, len(description.classes))
    try:
        return Predictor(method, description, torch.device(device), calibration)
    except (RuntimeError, AssertionError) as error:  # PyTorch has both for a device that is not there
        raise UsageError(f"Cannot use device '{device}': {str(error).splitlines()[0]}.") from error
