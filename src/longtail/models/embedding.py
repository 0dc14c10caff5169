"""How face recognition takes an embedding from a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def embed_with_flip(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The embedding of `images` [B, C, H, W] plus that of their mirror images: [B, D], not normalised.

    Call it in evaluation mode. The two halves go through `model` as one batch.
    """
    both = model(torch.cat([images, images.flip(3)]))
    return both[: len(images)] + both[len(images) :]
