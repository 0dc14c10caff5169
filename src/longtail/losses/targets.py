"""Where TSC (Li et al., CVPR 2022) wants the classes: targets spread evenly over the sphere, and which class gets which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..distributed import all_gather_with_grad
from .precision import full_precision
from .queue_contrast import draw_positives


def uniformity(targets: Tensor, tau: float = 0.07) -> Tensor:
    """Mean over rows i of log sum_j exp(t_i . t_j / tau), j = i included, of unit `targets` float [C, D]: lower is more even."""
    return (targets @ targets.T / tau).logsumexp(1).mean()


def simplex_targets(classes: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """`classes` unit vectors in `dim` >= classes - 1 dimensions, each pair at cosine -1 / (classes - 1): float32 [C, D].

    They have the least `uniformity` there is. How the simplex is turned is drawn from the (CPU) `generator`.
    """
    draw = torch.randn(classes, classes - 1, generator=generator, dtype=torch.float64)
    around_ones = torch.linalg.qr(torch.cat((torch.ones(classes, 1, dtype=torch.float64), draw), 1)).Q[:, 1:]
    turn = torch.linalg.qr(torch.randn(dim, classes - 1, generator=generator, dtype=torch.float64)).Q
    return F.normalize(around_ones @ turn.T).float()


def start_targets(classes: int, dim: int) -> Tensor:
    """Rows [C, D] that `spread_targets` makes targets of: a simplex where one fits, else drawn from N(0, 1)."""
    return simplex_targets(classes, dim) if dim >= classes - 1 else torch.randn(classes, dim)


def spread_targets(start: Tensor) -> Tensor:
    """The targets [C, D] from the rows of `start_targets`: themselves where they are a simplex, else optimised."""
    classes, dim = start.shape
    return start if dim >= classes - 1 else optimised_targets(start)


@torch.enable_grad()
def optimised_targets(start: Tensor, tau: float = 0.07, lr: float = 1e-3, iterations: int = 10_000) -> Tensor:
    """Unit rows [C, D] of the least `uniformity` that Adam finds from the rows of `start` [C, D], as TSC's release does."""
    rows = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], lr)
    best, least = F.normalize(start), torch.full_like(start[0, 0], torch.inf)
    for _ in range(iterations):
        unit = F.normalize(rows)
        loss = uniformity(unit, tau)
        with torch.no_grad():
            best, least = torch.where(loss < least, unit, best), torch.minimum(loss, least)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return best.detach()


@torch.no_grad()
def update_class_means(means: Tensor, features: Tensor, labels: Tensor, momentum: float = 0.9) -> None:
    """Move, in place, the unit mean [C, D] of every class in the batch: m <- unit(momentum m + (1 - momentum) unit(its mean)).

    `features`: float [B, D], unit vectors. `labels`: int64 [B]. Under `torch.distributed` the batch is that of all processes.
    """
    features, labels = all_gather_with_grad(features), all_gather_with_grad(labels)
    member = (labels == torch.arange(len(means), device=labels.device)[:, None]).to(means.dtype)
    moved = F.normalize(momentum * means + (1 - momentum) * F.normalize(member @ features.to(means.dtype)))
    means.copy_(torch.where(member.any(1, keepdim=True), moved, means))


def assign_targets(means: Tensor, targets: Tensor) -> Tensor:
    """For each class the index of its target, int64 [C]: the assignment with the largest sum of m_c . t, one target a class.

    `means`, `targets`: float [C, D]. The Hungarian method, on the CPU: the device is waited for.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment((means @ targets.T).cpu().numpy(), maximize=True)
    return torch.from_numpy(columns[rows.argsort()]).to(targets.device)


@full_precision
def targeted_supcon(features: Tensor, labels: Tensor, targets: Tensor, tau: float, positive: Tensor) -> Tensor:
    """`contrastive.supcon` of two views to each of which targets are appended as samples, as in TSC's code for CIFAR. A scalar.

    `features`: float [B, 2, D], unit vectors, with `labels` int64 [B]. `targets`: float [T, D], one or more for each class;
    they are anchors as well and get no gradient. `positive`: bool [2 (B + T), 2 (B + T)], see `targeted_positives`. Under
    `torch.distributed` the batch B is that of all processes.
    """
    first, second = all_gather_with_grad(features).unbind(1)
    everything = torch.cat((first, targets, second, targets))
    itself = torch.eye(len(everything), dtype=torch.bool, device=features.device)
    logits = everything @ everything.T / tau
    log_p = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    return -((log_p * positive).sum(1) / positive.sum(1)).mean()


def targeted_positives(labels: Tensor, target_labels: Tensor, k: int, entries: Tensor, shifts: Tensor) -> Tensor:
    """Which pairs of (view 1, targets, view 2, targets) are positives: a sample's other view, and `k` of its class.

    `labels`: int64 [B], `target_labels`: int64 [T]; `entries`, `shifts`: float [2 (B + T)], see `draw_positives`. Returns bool
    [2 (B + T), 2 (B + T)]. Under `torch.distributed` the batch B is that of all processes.
    """
    once = torch.cat((all_gather_with_grad(labels), target_labels))
    sample = torch.arange(len(once), device=once.device).repeat(2)
    twin = (sample[:, None] == sample) & ~torch.eye(len(sample), dtype=torch.bool, device=once.device)
    others = (once.repeat(2)[:, None] == once.repeat(2)) & (sample[:, None] != sample)
    return twin | draw_positives(others, k, entries, shifts)
