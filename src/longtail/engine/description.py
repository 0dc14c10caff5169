"""`model.json`: everything about a model but its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..config import Section, validate
from ..data.preprocessing import Preprocessing
from ..errors import LongtailError, UsageError
from ..files import read_json, write_text

FORMAT = 1


class Export(Section):
    """What `longtail export` wrote in place of the weights, and what it built into the graph."""

    form: Literal["onnx", "torchscript", "torch-export"]
    file: str
    output: Literal["logits", "embeddings"]
    preprocess: bool = Field(description="takes uint8 images of any size, not normalised ones of the network's size")
    temperature: float
    prior: tuple[float, ...] | None = Field(None, strict=False, description="the class mix that scores are for")
    int8: bool = False


class Description(Section):
    """`model.json`: everything but the weights."""

    format: int
    method: str
    options: dict[str, Any]
    backbone: str
    classes: tuple[str, ...] = Field(strict=False)
    class_counts: tuple[Annotated[int, Field(ge=0, lt=2**53)], ...] = Field(strict=False)
    preprocessing: Preprocessing
    parameters: int
    export: Export | None = None


def read_description(folder: Path) -> Description:
    """Read and check a folder's model.json.

    Raises `UsageError` where there is none, `LongtailError` where it is damaged or of another version.
    """
    path = folder / "model.json"
    if not path.is_file():
        raise UsageError(f"{folder} holds no model.json: give a finished run's folder, or an exported one.")
    content = read_json(path)
    if (found := content.get("format")) != FORMAT:
        raise LongtailError(f"{path} has format {str(found)[:40]}; this version reads {FORMAT}.")
    try:
        description: Description = validate(Description, content, str(path))
    except UsageError as error:
        raise LongtailError(f"The model in {folder} is damaged: {error}") from error
    pixels = description.preprocessing
    if pixels.channels not in (1, 3) or not pixels.channels == len(pixels.mean) == len(pixels.std):
        raise LongtailError(f"The model in {folder} is damaged: its channels, mean and std do not go together.")
    if len(description.classes) != len(description.class_counts):
        raise LongtailError(f"The model in {folder} is damaged: its classes and class_counts differ in number.")
    return description


def write_description(folder: Path, description: Description) -> None:
    write_text(folder / "model.json", description.model_dump_json(indent=2, exclude_none=True) + "\n")
