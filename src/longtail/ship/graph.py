"""The graph that is exported: images alone in, scores out, with what was asked for built in; written in three formats."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.ops import centre_crop
from ..data.squares import squares
from ..engine.predictor import Predictor
from ..errors import LongtailError, UsageError
from ..evaluation.calibration import adjust
from ..files import write_atomically

FILES = {"onnx": "model.onnx", "torchscript": "model.ts", "torch-export": "model.pt2"}


class Graph(nn.Module):
    """Images [B, C, H, W] -> logits [B, C] with temperature and class mix, or embeddings [B, D].

    With `preprocess` the images are uint8 of any size; else float32, normalised and of the network's size.
    """

    mean: Tensor
    std: Tensor
    shift: Tensor

    def __init__(self, predictor: Predictor, preprocess: bool, temperature: float, shift: Tensor | None) -> None:
        super().__init__()
        self.network = predictor.method
        self.run = self.network.logits if predictor.classifies() else self.network.features
        self.pixels = predictor.description.preprocessing
        self.preprocess, self.temperature = preprocess, temperature
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.pixels, name), dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", None if shift is None else shift.float(), persistent=False)
        self.square: Callable[[Tensor, int], Tensor] = squares
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if self.preprocess:
            middle = centre_crop(self.square(images, self.pixels.resize), self.pixels.image_size)
            images = (middle / 255 - self.mean) / self.std
        return adjust(self.run(images).float(), self.temperature, self.shift)

    def example(self) -> Tensor:
        """Two images such as the graph takes."""
        size, channels = self.pixels.image_size, self.pixels.channels
        if not self.preprocess:
            return torch.zeros(2, channels, size, size)
        side = self.pixels.resize  # of no special shape, which an exporter might take for a rule
        return torch.zeros(2, channels, side + 37, side + 11, dtype=torch.uint8)


def write_graph(graph: Graph, form: str, folder: Path) -> Path:
    """Write `graph` to `folder` as "onnx", "torchscript" or "torch-export", and return the file.

    The number of images varies, and with preprocessing their size. Raises `UsageError` where a package is missing,
    `LongtailError` where the network holds what the format cannot.
    """
    path = folder / FILES[form]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporters about themselves
            save = {"onnx": _onnx, "torchscript": _torchscript, "torch-export": _torch_export}[form](graph)
    except LongtailError:
        raise
    except Exception as error:  # exporters meet what they cannot express with errors of every type
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LongtailError(
            f"This network cannot be exported as {form}: {reason}. Another --format may hold it: {', '.join(FILES)}."
        ) from error
    write_atomically(path, save)
    return path


def _exported(graph: Graph) -> torch.export.ExportedProgram:
    varies = dict.fromkeys((0, 2, 3) if graph.preprocess else (0,), torch.export.Dim.DYNAMIC)
    return torch.export.export(graph, (graph.example(),), dynamic_shapes=(varies,))


def _onnx(graph: Graph) -> Callable[[Path], Any]:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX needs the package {error.name}: pip install 'longtail[export]'.") from error
    import logging

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    output = "logits" if graph.shift is not None or graph.network.classifies() else "embeddings"
    program = torch.onnx.export(
        _exported(graph), dynamo=True, verbose=False, input_names=["images"], output_names=[output]
    )
    assert program is not None
    return lambda temporary: program.save(str(temporary), external_data=False)


def _torchscript(graph: Graph) -> Callable[[Path], Any]:
    graph.square = torch.jit.script(squares)  # a trace would take the example's shape for a rule
    try:
        traced = torch.jit.trace(graph, graph.example())
    finally:
        graph.square = squares
    return lambda temporary: traced.save(str(temporary))


def _torch_export(graph: Graph) -> Callable[[Path], Any]:
    program = _exported(graph)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as handle:
            torch.export.save(program, handle)

    return write
