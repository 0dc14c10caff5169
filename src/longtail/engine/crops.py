"""Test-time ensembling as LIFT reports it: the mean of the logits of five crops (Shi et al., ICML 2024, section 4.3).

The shorter side is resized to 24 pixels more than a network of 224 takes, a number that is no multiple of the patch size.
A protocol of its own, never the headline.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ..data.augment import Normalise
from ..data.images import ImageSet
from ..data.loaders import Loader
from ..data.ops import send
from ..data.squares import SquareReader
from ..evaluation.accuracy import Evaluator
from ..hardware import cores
from ..methods.base import Method

MARGIN = 24 / 224


@torch.inference_mode()
def evaluate_crops(method: Method, images: ImageSet, loader: Loader, batch_size: int) -> dict[str, Any]:
    """Metrics of `method` on `images` but for those that their `loader` left out, each scored by the mean over five crops."""
    method.eval()
    method.before_evaluation()
    channels = len(loader.mean)
    reader = SquareReader(images, channels, loader.size)
    margin = round(loader.size * MARGIN)
    device = next(method.parameters()).device
    normalise, evaluator = Normalise(loader.mean, loader.std), Evaluator(method.classes).to(device)
    skipped = set(loader.skipped)
    positions = np.array([i for i in range(len(images)) if images.key(i) not in skipped])
    with ThreadPoolExecutor(cores()) as pool:
        for part in np.array_split(positions, -(-len(positions) * 5 // batch_size)):
            crops = np.concatenate(list(pool.map(lambda i: reader.five_crops(i, margin), part.tolist())))
            logits = method.logits(normalise(send(torch.from_numpy(crops), device)))
            labels = torch.from_numpy(images.labels[part]).to(device)
            evaluator.update(logits.unflatten(0, (len(part), 5)).mean(1), labels)
    return evaluator.compute()
