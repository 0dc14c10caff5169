"""The meta sampler of BALMS: how likely each class is drawn is learned with the classifier (Ren et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def initial_rate_logits(class_counts: Tensor, power: float = 0.0) -> Tensor:
    """Float32 [C]: the logits of rates proportional to n_c^(-`power`), scaled so that the least and greatest sum to 1."""
    rates = (class_counts / class_counts.sum()).float() ** -power
    low, high = rates.aminmax()
    return torch.logit(rates / (low + high))


def draw_images(rate_logits: Tensor, labels: Tensor, gumbel: Tensor) -> tuple[Tensor, Tensor]:
    """Draw images, each in proportion to its class's rate. Returns their positions int64 [B], and ones [B] with the gradient
    of the straight-through Gumbel-softmax.

    `rate_logits`: float [C], of each class's rate p_c = sigmoid(u_c). `labels`: int64 [N], of the images. `gumbel`: [B, N].
    """
    soft = (F.logsigmoid(rate_logits)[labels] + gumbel).softmax(1)
    drawn = soft.argmax(1)
    chosen = soft.gather(1, drawn[:, None])[:, 0]
    return drawn, 1 + (chosen - chosen.detach())


def noise_of_draw(logits: Tensor, drawn: Tensor, gumbel: Tensor) -> Tensor:
    """Gumbel noise [B, N] as it is distributed where `logits` [N] plus it is greatest at `drawn` int64 [B].

    So images may be drawn first, by any means that follows the logits, and the noise that would have drawn them after: the
    greatest value is a Gumbel number around the logits' log-sum-exp, and the others are Gumbel numbers below it. `gumbel`:
    [B, N], unconditional noise.
    """
    own = drawn[:, None]
    greatest = logits.logsumexp(0) + gumbel.gather(1, own)
    values = -torch.logaddexp(-greatest, -(logits + gumbel))
    return values.scatter(1, own, greatest) - logits


def stepped(
    parameters: Mapping[str, Tensor],
    loss: Tensor,
    *,
    lr: float,
    weight_decay: float,
    momentum: float = 0.0,
    buffers: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """`parameters` after one step of SGD down `loss`, as a differentiable function of whatever the loss depends on.

    `buffers`: the momentum of each parameter so far (absent: none yet). Those that the loss does not depend on are left out.
    """
    gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
    result = {}
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            continue
        direction = gradient + weight_decay * value
        if buffers and name in buffers:
            direction = momentum * buffers[name] + direction
        result[name] = value - lr * direction
    return result
