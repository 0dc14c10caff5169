"""How fast this machine takes images through a backbone, measured in a few seconds: what times are told and planned by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..config import Config
from ..hardware import computes_bf16
from ..models import build_backbone
from ..models.depthwise import learn_depthwise_in_float32
from .modes import DRAWS, frozen_stages, prepare

BATCH = 16


@dataclass(frozen=True)
class Pace:
    """Seconds an image: in the frozen stages, which see it once, and in a training step. Decoding goes on meanwhile."""

    features: float
    training: float

    def for_features(self, images: int, held_out: int, draws: int) -> float:
        """Seconds for features of `images`, in so many augmented versions too, and of those `held_out`."""
        return self.features * (images * (1 + draws) + held_out)

    def tell(self, images: int, held_out: int, draws: int, epochs: int) -> str:
        """How long that and so many epochs will take."""
        features, steps = self.for_features(images, held_out, draws), epochs * images * self.training
        return " and ".join(
            f"{work} in {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}"
            for work, seconds in (("features, unless kept by another run,", features), (f"{epochs} epochs", steps))
            if seconds
        )


def measure(config: Config, size: int, device: str) -> Pace:
    """Take a batch of noise, `size` pixels wide, through the backbone of `config`, as training does. Raises as building it
    does."""
    channels = config.data.channels or 3
    backbone = build_backbone(config.backbone, channels, config.pretrained, size, config.weights)
    prepare(backbone, config.finetune, classes=2)
    cached = config.finetune.mode in DRAWS and config.finetune.cache
    entry = frozen_stages(backbone) if cached else 0
    backbone.precision = torch.bfloat16 if computes_bf16(torch.device(device)) else None
    learn_depthwise_in_float32(backbone)
    backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(BATCH, channels, size, size, device=device).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def frozen() -> torch.Tensor:
        return backbone.run(images, 0, None if entry > len(backbone.stages) else entry)

    def step() -> None:
        backbone.run(given, entry).sum().backward()

    features = _seconds(frozen, device) / BATCH if entry else 0.0
    given = frozen().clone() if entry else images
    learns = entry <= len(backbone.stages)
    return Pace(features, _seconds(step, device) / BATCH if learns else 0.0)


def _seconds(work: Callable[[], object], device: str) -> float:
    """Of a second turn: the first is slower."""
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - begun
