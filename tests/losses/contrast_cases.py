"""The contrastive losses with a queue, centres or distributions, for the table of `loss_cases`."""

from __future__ import annotations

from math import exp, lgamma, log, sqrt

import torch
import torch.nn.functional as F
from loss_cases import COUNTS, B, C, Case, D, dot, labels, log_softmax, logits, mean, normal, numbers, views
from torch import Tensor

from longtail.losses import softmax
from longtail.losses.paco import paco
from longtail.losses.proco import proco_logits
from longtail.losses.queue_contrast import queue_contrastive


def queue_loop(*inputs: Tensor) -> float:
    queries, keys, entries, positive, weights, zeroed, removed = numbers(*inputs)
    losses = []
    for i, query in enumerate(queries):
        scores = [0.0 if zeroed[i][j] else dot(query, entry) / 0.2 for j, entry in enumerate(entries)]
        own = dot(query, keys[i]) / 0.2
        total = log(exp(own) + sum(exp(s) for j, s in enumerate(scores) if not removed[i][j]))
        chosen = [j for j in range(len(entries)) if positive[i][j]]
        losses.append(-(own - total + sum(weights[j] * (scores[j] - total) for j in chosen)) / (1 + len(chosen)))
    return mean(losses)


def paco_loop(*inputs: Tensor) -> float:
    anchors, labels, entries, members, scores, counts = numbers(*inputs)
    everything = [*zip(anchors, labels, strict=True)]
    everything += [(entry, row.index(1)) for entry, row in zip(entries, members, strict=True) if any(row)]
    losses = []
    for i, (anchor, label) in enumerate(zip(anchors, labels, strict=True)):
        centres = [(s + log(n / sum(counts))) / 1.5 for s, n in zip(scores[i], counts, strict=True)]
        others = [(dot(anchor, z) / 0.2, y) for k, (z, y) in enumerate(everything) if k != i]
        total = log(sum(map(exp, centres)) + 0.6 * sum(exp(s) for s, _ in others))
        shares = [0.9 if c == label else 0.1 / (C - 1) for c in range(C)]
        pulls = [s - total for s, y in others if y == label]
        centre_pull = sum(share * (s - total) for share, s in zip(shares, centres, strict=True))
        losses.append(-(0.7 * centre_pull + 0.05 * sum(pulls)) / (0.7 + 0.05 * len(pulls)))
    return mean(losses)


def log_c(k: float, dim: int) -> float:
    """log I_v(k) - v log k, v = dim / 2 - 1, summed from the power series."""
    v = dim / 2 - 1
    terms = [2 * m * log(k / 2) - lgamma(m + 1) - lgamma(m + v + 1) for m in range(400)]
    return max(terms) + log(sum(exp(term - max(terms)) for term in terms)) - v * log(2)


def proco_loop(*inputs: Tensor) -> float:
    features, labels, counts, means = numbers(*inputs)
    rows, dim = [], len(means[0])
    for z in features:
        row = []
        for mu, n in zip(means, counts, strict=True):
            length = sqrt(dot(mu, mu))
            kappa = dim * length / (1 - length**2)
            moved = [kappa * m / length + x / 0.2 for m, x in zip(mu, z, strict=True)]
            row.append(log_c(sqrt(dot(moved, moved)), dim) - log_c(kappa, dim) + log(n / sum(counts)))
        rows.append(row)
    return mean([-log_softmax(row)[y] for row, y in zip(rows, labels, strict=True)])


queue = F.normalize(normal(7, D))
queue_members = F.one_hot(torch.tensor([0, 1, 3, 3, 4, 0, 2]), C).double()
queue_members[6] = 0  # an empty slot
same = labels[:, None] == torch.tensor([0, 1, 3, 3, 4, 0, -1])
# 0.0 and 1.0 stand for false and true, which the table's tests would take for labels.
chosen = same.double() * torch.tensor([1, 1, 1, 0, 0, 1, 0])
unused, empty = same.double() - chosen, torch.zeros(B, 7).double().index_fill(1, torch.tensor(6), 1.0)

CONTRAST_CASES = [
    Case(
        "queue_contrastive",
        lambda q, k, entries, positive, w, zeroed, removed: queue_contrastive(
            q, k, entries, positive.bool(), 0.2, weights=w, zeroed=zeroed.bool(), removed=removed.bool()
        ),
        queue_loop,
        (views[:, 0], views[:, 1], queue, chosen, normal(7).exp(), unused, empty),
        ("bd", "bd", "md", "bm", "m", "bm", "bm"),
        learned=(0, 1, 2),
    ),
    Case(
        "paco",
        lambda z, y, entries, members, scores, n: paco(
            z,
            y,
            entries,
            torch.where(members.any(1), members.argmax(1), -1),
            scores,
            n,
            0.2,
            0.05,
            beta=0.7,
            gamma=0.6,
            supervised_tau=1.5,
            smoothing=0.1,
        ),
        paco_loop,
        (views[:, 0], labels, queue, queue_members, logits, COUNTS),
        ("bd", "b", "md", "mc", "bc", "c"),
        learned=(0, 2, 4),
    ),
    Case(
        "proco",
        lambda z, y, n, means: softmax.logit_adjusted_cross_entropy(proco_logits(z, means, 0.2), y, n),
        proco_loop,
        (F.normalize(normal(B, 32)), labels, COUNTS, F.normalize(normal(C, 32)) * 0.6),
        ("bd", "b", "c", "cd"),
    ),
]
