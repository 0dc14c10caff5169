"""Makes `import torchvision`, and so `import timm`, work beside a PyTorch built for another device.

torchvision's compiled operators load only beside the PyTorch they were built for. The wheel that pip finds is built
for CUDA; beside a CPU PyTorch the operators stay away, and torchvision, which registers shape functions for `nms` and
`qnms` without looking whether they exist, dies with "operator torchvision::nms does not exist". We use its models and
transforms, never those operators, so it is enough to declare the two schemas. Nothing is declared where torchvision
imports by itself.
"""

from __future__ import annotations

import torch

_declarations: list[torch.library.Library] = []  # a library's schemas disappear with the object that declared them


def ensure_torchvision() -> None:
    """Import torchvision, declaring the operators it misses. Call this before importing torchvision or timm."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declarations.append(library)
        import torchvision  # noqa: F401
