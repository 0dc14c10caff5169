"""One table of all losses: small inputs, and each loss again as a loop over Python numbers, as its paper has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, log1p, sqrt
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.losses import bce3s, class_balanced, class_weights, contrastive, glmc, isda, softmax
from longtail.losses.bce import bce
from longtail.losses.classifier import ClassifierLoss, LossName

B, C, D, K = 6, 5, 4, 2
COUNTS = torch.tensor([500, 107, 60, 20, 5])


@dataclass(frozen=True)
class Case:
    """`inputs`: float64 and integers. `axes`: one letter an axis of each input: "b" batch, "c" class, others neither.
    `learned`: the positions of the inputs that receive a gradient."""

    name: str
    loss: Callable[..., Tensor]
    loop: Callable[..., float]
    inputs: tuple[Tensor, ...]
    axes: tuple[str, ...]
    learned: tuple[int, ...] = (0,)

    def inputs_as(self, dtype: torch.dtype) -> list[Tensor]:
        """Fresh inputs, floating ones in `dtype`, learned ones with a gradient to receive."""
        fresh = [x.to(dtype, copy=True) if x.is_floating_point() else x.clone() for x in self.inputs]
        for i in self.learned:
            fresh[i].requires_grad_()
        return fresh

    def run(self, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss of `inputs` and its gradients with respect to the learned ones."""
        value = self.loss(*inputs)
        return value.detach(), list(torch.autograd.grad(value, [inputs[i] for i in self.learned]))


def numbers(*tensors: Tensor) -> list[Any]:
    return [t.tolist() for t in tensors]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return dot(a, b) / sqrt(dot(a, a) * dot(b, b))


def softplus(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))


def log_softmax(row: Sequence[float]) -> list[float]:
    total = log(sum(exp(x) for x in row))
    return [x - total for x in row]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def soft(labels: Sequence[int], weights: Sequence[float]) -> dict[int, float]:
    """The classes of a mixed image that have weight, and how much."""
    target: dict[int, float] = {}
    for label, weight in zip(labels, weights, strict=True):
        target[label] = target.get(label, 0.0) + weight
    return {label: weight for label, weight in target.items() if weight > 0}


def bce_row(
    scores: Sequence[float], target: dict[int, float], mask: Sequence[bool], negative_weight: float = 1
) -> float:
    kept = [c for c in range(len(scores)) if mask[c]]
    positive = sum(target[c] * softplus(-scores[c]) for c in kept if c in target)
    return positive + negative_weight * sum(softplus(scores[c]) for c in kept if c not in target)


def ce_row(scores: Sequence[float], target: dict[int, float], mask: Sequence[bool]) -> float:
    kept = [c for c in range(len(scores)) if mask[c]]
    log_p = dict(zip(kept, log_softmax([scores[c] for c in kept]), strict=True))
    return -sum(weight * log_p[c] for c, weight in target.items() if c in log_p)


def joint_loop(row: Callable[..., float]) -> Callable[..., float]:
    def loop(*inputs: Tensor) -> float:
        logits, labels, weights, mask = numbers(*inputs)
        return mean([row(s, soft(y, w), mask) for s, y, w in zip(logits, labels, weights, strict=True)])

    return loop


def prototype_loop(row: Callable[..., float]) -> Callable[..., float]:
    def loop(*inputs: Tensor) -> float:
        features, memory, seen, labels, weights = numbers(*inputs)
        rows = [[cosine(z, m) / 0.5 if any(m) else 0.0 for m in memory] for z in features]
        return mean([row(s, soft(y, w), seen) for s, y, w in zip(rows, labels, weights, strict=True)])

    return loop


def uniform_loop(row: Callable[..., float]) -> Callable[..., float]:
    def loop(weight: Tensor) -> float:
        (rows,) = numbers(weight)
        every = [True] * len(rows)
        return mean([row([cosine(w, v) for v in rows], {c: 1.0}, every) for c, w in enumerate(rows)])

    return loop


def effective_number_loop(counts: Sequence[int], beta: float) -> list[float]:
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    return [w * len(raw) / sum(raw) for w in raw]


def class_balanced_loop(kind: str) -> Callable[..., float]:
    def loop(*inputs: Tensor) -> float:
        logits, labels, counts = numbers(*inputs)
        class_weights, total = effective_number_loop(counts, 0.999), 0.0
        for scores, label in zip(logits, labels, strict=True):
            p = [exp(x) for x in log_softmax(scores)] if kind == "softmax" else [1 / (1 + exp(-s)) for s in scores]
            right = [q if c == label else 1 - q for c, q in enumerate(p)]
            power = 2 if kind == "focal" else 0
            total += class_weights[label] * sum((1 - q) ** power * -log(q) for q in right)
        return total / len(labels) / (C if kind in ("softmax", "sigmoid") else 1)

    return loop


def logit_adjusted_loop(*inputs: Tensor) -> float:
    logits, labels, counts = numbers(*inputs)
    rows = [[s + 1.5 * log(n / sum(counts)) for s, n in zip(row, counts, strict=True)] for row in logits]
    return mean([-log_softmax(row)[y] for row, y in zip(rows, labels, strict=True)])


def focal_loop(*inputs: Tensor) -> float:
    logits, labels = numbers(*inputs)
    log_p = [log_softmax(row)[y] for row, y in zip(logits, labels, strict=True)]
    return mean([-((1 - exp(x)) ** 2) * x for x in log_p])


def ldam_loop(*inputs: Tensor) -> float:
    cosines, labels, counts = numbers(*inputs)
    margins = [0.5 * (min(counts) / n) ** 0.25 for n in counts]
    rows = [
        [30 * (s - margins[c] * (c == y)) for c, s in enumerate(row)] for row, y in zip(cosines, labels, strict=True)
    ]
    return mean([-log_softmax(row)[y] for row, y in zip(rows, labels, strict=True)])


def supcon_loop(*inputs: Tensor) -> float:
    features, labels = numbers(*inputs)
    views = [(z, y) for image, y in zip(features, labels, strict=True) for z in image]
    return contrast_loop(views, views, {})


def balanced_loop(*inputs: Tensor) -> float:
    features, labels, centres = numbers(*inputs)
    views = [(z, y) for image, y in zip(features, labels, strict=True) for z in image]
    everything = views + [(centre, c) for c, centre in enumerate(centres)]
    members = {c: sum(y == c for _, y in everything) for c in range(len(centres))}
    return contrast_loop(views, everything, members)


def contrast_loop(anchors: list, everything: list, members: dict[int, int]) -> float:
    losses = []
    for i, (anchor, label) in enumerate(anchors):
        others = [(dot(anchor, z) / 0.2, y) for k, (z, y) in enumerate(everything) if k != i]
        size = {y: members[y] - (y == label) if members else 1 for _, y in others}
        denominator = sum(exp(s) / size[y] for s, y in others)
        positives = [s - log(denominator) for s, y in others if y == label]
        losses.append(-mean(positives) if positives else 0.0)
    return mean(losses)


def mixed_loop(*inputs: Tensor) -> float:
    mixup, cutmix, target = numbers(*inputs)
    return sum(
        mean([-dot(t, log_softmax(s)) for s, t in zip(logits, target, strict=True)]) for logits in (mixup, cutmix)
    )


def consistency_loop(*inputs: Tensor) -> float:
    p_mixup, p_cutmix, z_mixup, z_cutmix = numbers(*inputs)
    pairs = [*zip(p_mixup, z_cutmix, strict=True), *zip(p_cutmix, z_mixup, strict=True)]
    return -sum(cosine(p, z) for p, z in pairs) / B


def class_balanced_case(kind: str) -> Case:
    loss = getattr(class_balanced, f"class_balanced_{kind}")
    return Case(
        f"class_balanced_{kind}",
        lambda logits, y, n: loss(logits, y, class_weights.effective_number_weights(n, 0.999)),
        class_balanced_loop(kind),
        (logits, labels, COUNTS),
        ("bc", "b", "c"),
    )


def one_by_one(name: str, scores: list[float], label: int, counts: list[int]) -> float:
    """A classifier loss of one image, with gamma = 2, tau = 1.5, and margins up to 0.5 on scores of scale 3."""
    log_p, total = log_softmax(scores), sum(counts)
    if name in ("logit_adjusted", "balanced_softmax"):
        tau = 1.5 if name == "logit_adjusted" else 1
        return -log_softmax([s + tau * log(n / total) for s, n in zip(scores, counts, strict=True)])[label]
    if name == "ldam":
        margin = 1.5 * (min(counts) / counts[label]) ** 0.25
        return -log_softmax([s - margin * (c == label) for c, s in enumerate(scores)])[label]
    if name in ("ce", "focal"):
        return -log_p[label] * (1 if name == "ce" else (1 - exp(log_p[label])) ** 2)
    p = [exp(x) for x in log_p] if name == "softmax_bce" else [1 / (1 + exp(-s)) for s in scores]
    right = [q if c == label else 1 - q for c, q in enumerate(p)]
    losses = [(1 - q) ** 2 * -log(q) if name == "sigmoid_focal" else -log(q) for q in right]
    return mean(losses) if name == "softmax_bce" else sum(losses)


def classifier_case(name: LossName, over: Literal["weights", "batch"]) -> Case:
    """Weighted by class, of images mixed of two."""

    def loss(logits: Tensor, labels: Tensor, shares: Tensor, counts: Tensor) -> Tensor:
        weights = class_weights.effective_number_weights(counts, 0.999)
        criterion = ClassifierLoss(name, counts, gamma=2, tau=1.5, scale=3, over=over)
        return criterion(logits, labels, shares, weights)

    def loop(*inputs: Tensor) -> float:
        logits, labels, shares, counts = numbers(*inputs)
        class_weights, total = effective_number_loop(counts, 0.999), 0.0
        for k in range(K):
            weights = [class_weights[row[k]] for row in labels]
            divisor = sum(weights) if over == "weights" else len(weights)
            for scores, row, share, weight in zip(logits, labels, shares, weights, strict=True):
                total += share[k] * weight * one_by_one(name, scores, row[k], counts) / divisor
        return total

    return Case(f"classifier_{name}_{over}", loss, loop, (logits, *mixing, COUNTS), ("bc", "bk", "bk", "c"))


def spread_loop(*inputs: Tensor) -> float:
    rows, labels, covariances, weights = numbers(*inputs)
    total = 0.0
    for label, factors in zip(labels, weights, strict=True):
        for row, factor in zip(rows, factors, strict=True):
            u, s = [a - b for a, b in zip(row, rows[label], strict=True)], covariances[label]
            quadratic = [dot(u, line) if isinstance(line, list) else line * u[d] for d, line in enumerate(s)]
            total += factor * dot(u, quadratic)
    return total / len(labels)


draw = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


logits = 2 * normal(B, C)
labels = torch.tensor([0, 0, 1, 3, 4, 3])
# A pair of one class, one class with all the weight listed beside one with none, and beside itself with none.
mixed_labels = torch.tensor([[0, 1], [2, 2], [1, 4], [3, 0], [4, 4], [3, 1]])
mixed_weights = torch.tensor([[0.7, 0.3], [0.6, 0.4], [1, 0], [0.2, 0.8], [1, 0], [0.5, 0.5]], dtype=torch.float64)
mask = torch.tensor([True, False, True, True, True])
views = F.normalize(normal(B, 2, D), dim=2)
mixing = (mixed_labels, mixed_weights)
memory = normal(C, D) * mask[:, None]

CASES = [
    Case("bce", bce, joint_loop(bce_row), (logits, *mixing, mask), ("bc", "bk", "bk", "c")),
    Case(
        "cross_entropy",
        softmax.cross_entropy,
        joint_loop(ce_row),
        (logits, *mixing, mask),
        ("bc", "bk", "bk", "c"),
    ),
    Case(
        "bce_joint",
        lambda logits, y, mask: bce(logits, y, class_mask=mask, negative_weight=0.3),
        lambda *x: mean([bce_row(s, {y: 1.0}, x[2].tolist(), 0.3) for s, y in zip(*numbers(*x[:2]), strict=True)]),
        (logits, labels, mask),
        ("bc", "b", "c"),
    ),
    *(
        Case(
            f"prototype_{kind}",
            lambda *x, loss=loss: bce3s.prototype_loss(*x, tau=0.5, loss=loss),
            prototype_loop(row),
            (normal(B, D), memory, mask, *mixing),
            ("bd", "cd", "c", "bk", "bk"),
        )
        for kind, loss, row in (("bce", bce, bce_row), ("ce", softmax.cross_entropy, ce_row))
    ),
    *(
        Case(
            f"uniform_{kind}",
            lambda rows, loss=loss: bce3s.uniform_loss(rows, loss),
            uniform_loop(row),
            (normal(C, D),),
            ("cd",),
        )
        for kind, loss, row in (("bce", bce, bce_row), ("ce", softmax.cross_entropy, ce_row))
    ),
    *(class_balanced_case(kind) for kind in ("bce", "sigmoid", "softmax", "focal")),
    Case(
        "logit_adjusted",
        lambda *x: softmax.logit_adjusted_cross_entropy(*x, tau=1.5),
        logit_adjusted_loop,
        (logits, labels, COUNTS),
        ("bc", "b", "c"),
    ),
    *(classifier_case(name, "weights") for name in get_args(LossName)),
    classifier_case("ce", "batch"),
    *(
        Case(
            f"spread_{name}",
            lambda rows, y, covariances, factors: (factors * isda.spread(rows, y, covariances)).sum(1).mean(),
            spread_loop,
            (normal(C, D), labels, covariances, normal(B, C)),
            ("cd", "b", "c", "bc"),
            learned=(0, 2),
        )
        for name, covariances in (("whole", normal(C, D, D)), ("diagonal", normal(C, D).square()))
    ),
    Case("focal", lambda *x: softmax.focal(*x, gamma=2), focal_loop, (logits, labels), ("bc", "b")),
    Case("ldam", softmax.ldam, ldam_loop, (logits.tanh(), labels, COUNTS), ("bc", "b", "c")),
    Case("supcon", lambda *x: contrastive.supcon(*x, tau=0.2), supcon_loop, (views, labels), ("bvd", "b")),
    Case(
        "balanced_contrastive",
        lambda *x: contrastive.balanced_contrastive(*x, tau=0.2),
        balanced_loop,
        (views, labels, F.normalize(normal(C, D))),
        ("bvd", "b", "cd"),
        learned=(0, 2),
    ),
    Case(
        "mixed_cross_entropy",
        glmc.mixed_cross_entropy,
        mixed_loop,
        (logits, logits.flip(0), 1.7 * normal(B, C).softmax(1)),
        ("bc", "bc", "bc"),
        learned=(0, 1),
    ),
    Case(
        "consistency",
        glmc.consistency,
        consistency_loop,
        tuple(normal(B, D) for _ in range(4)),
        ("bd",) * 4,
        learned=(0, 1),
    ),
]
