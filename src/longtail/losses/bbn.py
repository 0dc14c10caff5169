"""BBN: how far training is from the conventional to the re-balancing branch (Zhou et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from .glmc import conventional_share

# As released: the divisor of the two lengths that the authors train iNaturalist for.
_DIVISORS = {90: 100, 180: 200}


def branch_share(epoch: int, epochs: int) -> float:
    """The conventional branch's share alpha, from 1 in the first epoch (0) down: 1 - (epoch / epochs)^2.

    As released, runs of 90 and of 180 epochs divide by 100 and 200.

    >>> branch_share(0, 200), branch_share(100, 200)
    (1.0, 0.75)
    """
    return conventional_share(epoch, _DIVISORS.get(epochs, epochs))


def join_branches(conventional: Tensor, rebalancing: Tensor, share: float | Tensor = 0.5) -> Tensor:
    """Features [B, D] of both branches -> what the one classifier reads, [B, 2 D]: each times twice its share.

    Where one image goes through both branches, as in evaluation, the share is a half.
    """
    return torch.cat((2 * share * conventional, 2 * (1 - share) * rebalancing), 1)
