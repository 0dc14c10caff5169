"""Weights for classes, from how many training images each has."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """Class weights float32 [C], proportional to (1 - beta) / (1 - beta^n_c) and summing to C.

    `class_counts`: [C], each at least 1. `beta`: in (0, 1); 0.9999 is usual. Source: Cui et al., section 4.

    >>> effective_number_weights(torch.tensor([900, 90, 9]), beta=0.999)
    tensor([0.0405, 0.2790, 2.6805])
    """
    # expm1: 1 - beta^n loses all its digits in float32 where n is small and beta near 1.
    weights = -1 / torch.expm1(class_counts.float() * math.log(beta))
    return weights * (len(weights) / weights.sum())


def class_weights(counts: Tensor, exponent: float) -> Tensor:
    """Weights float64 [C] proportional to ``1 / counts ** exponent``, with mean 1."""
    weights = counts.double() ** -exponent
    return weights * (len(weights) / weights.sum())
