"""The losses of methods with several experts, for the table of `loss_cases`.

RIDE's diversity is not here: it stops a gradient, which finite differences do not. Golden vectors hold its gradient.
"""

from __future__ import annotations

from math import exp, log

import torch
from loss_cases import (
    COUNTS,
    B,
    C,
    Case,
    cosine,
    dot,
    labels,
    log_softmax,
    mean,
    normal,
    numbers,
)
from torch import Tensor

from longtail.losses import ncl, ride, sade

E = 3


def divergence(p: list[float], q: list[float], raised: float = 0.0) -> float:
    """KL(p || q) of two rows of logits, q's probabilities being raised by a little inside the logarithm."""
    log_p, log_q = log_softmax(p), log_softmax(q)
    return sum(exp(a) * (a - log(exp(b) + raised)) for a, b in zip(log_p, log_q, strict=True))


def average(rows: list[list[float]]) -> list[float]:
    return [mean(list(column)) for column in zip(*rows, strict=True)]


def distillation_loop(*inputs: Tensor) -> float:
    logits, teacher = numbers(*inputs)
    pairs = [([s / 1.5 for s in t], [s / 1.5 for s in average(z)]) for z, t in zip(logits, teacher, strict=True)]
    return 1.5**2 * mean([divergence(*pair) for pair in pairs])


def routing_loop(*inputs: Tensor) -> float:
    answers, logits, y = numbers(*inputs)
    total = 0.0
    for row, images, label in zip(answers, logits, y, strict=True):
        right = [max(range(C), key=average(images[:i]).__getitem__) == label for i in range(1, E + 1)]
        for i, answer in enumerate(row):
            go_on = not right[i] and any(right[i + 1 :])
            total += 4 * log(1 + exp(-answer)) if go_on else log(1 + exp(answer))
    return total / (B * (E - 1))


def disagreement_loop(*inputs: Tensor) -> float:
    weights, first, second = numbers(*inputs)
    shares = [exp(x) for x in log_softmax(weights)]
    views = []
    for images in (first, second):
        sums = [[dot(shares, column) for column in zip(*rows, strict=True)] for rows in images]
        views.append([[exp(x) for x in log_softmax(row)] for row in sums])
    return -mean([cosine(p, q) for p, q in zip(*views, strict=True)])


def ncl_loop(*inputs: Tensor) -> float:
    logits, y, counts = numbers(*inputs)
    total = 0.0
    for images, label in zip(logits, y, strict=True):
        others = sorted((c for c in range(C) if c != label), key=lambda c: -images[0][c])
        adjusted = [[s + log(n) for s, n in zip(row, counts, strict=True)] for row in images]
        hard = {label, *others[:2]}
        for rows in (adjusted, [[s * (c in hard) for c, s in enumerate(row)] for row in adjusted]):
            total -= sum(log_softmax(row)[label] for row in rows)
            pairs = [(p, q) for p in rows for q in rows if p is not q]
            total += 0.6 / (E - 1) * sum(divergence(p, q, 1e-9) for p, q in pairs)
    return total / B


expert_logits = 2 * normal(B, E, C)
EXPERT_CASES = [
    Case("distillation", ride.distillation, distillation_loop, (expert_logits, 2 * normal(B, C)), ("bec", "bc")),
    Case(
        "routing",
        lambda answers, z, y: ride.routing_loss(answers, z, y, 4.0),
        routing_loop,
        (normal(B, E - 1), expert_logits, labels),
        ("be", "bec", "b"),
    ),
    Case(
        "view_disagreement",
        lambda weights, *views: sade.view_disagreement(weights, torch.stack(views)),
        disagreement_loop,
        (normal(E), expert_logits, 2 * normal(B, E, C)),
        ("e", "bec", "bec"),
        learned=(0, 1, 2),
    ),
    Case(
        "ncl",
        lambda z, y, n: (ncl.nested(z, y, n, 3) * torch.tensor([1, 0.6, 1, 0.6])).sum(),
        ncl_loop,
        (expert_logits, labels, COUNTS),
        ("bec", "b", "c"),
    ),
]
