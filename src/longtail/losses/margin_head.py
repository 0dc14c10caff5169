"""A margin classifier over many identities: empirical prototypes (EPL), sampled classes, shards over processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..distributed import all_gather_with_grad, part, world
from .margin import AngularGradient, Variant, lower, sigmoid_rows, softmax_rows, unit
from .prototypes import Gate, Repeats, update_prototypes

Start = Literal["unit", "normal"]
_BLOCK = 65_536  # identities initialised at a time
_NO_NEGATIVE = -1e9  # the logit of what is not a negative: its exponential is 0


@dataclass(frozen=True)
class Epl:
    """Options of empirical prototype learning.

    `k`: the adaptive margin is k cos(x, P_y). `start_epoch`: the epoch, counted from 1, from which the prototypes are
    part of the loss; they follow their samples from the start. `gate`, `repeats`: see `update_prototypes`. `start`:
    random prototypes of length 1, or "normal" as released: of length about sqrt(D) until their first sample, which they
    then outweigh.
    """

    k: float = 0.7
    start_epoch: int = 4
    gate: Gate = "softsign"
    repeats: Repeats = "each"
    start: Start = "unit"


def _normal_rows(count: int, dim: int, first: int, last: int) -> Tensor:
    """Rows first..last-1 of `count` random normal vectors, the same whichever rows are asked for."""
    blocks = []
    for start in range(0, count, _BLOCK):
        block = torch.randn(min(_BLOCK, count - start), dim)
        blocks.append(block[max(first - start, 0) : max(last - start, 0)].clone())
    return torch.cat(blocks)


class MarginHead(nn.Module):
    """Loss of embeddings against a classifier of C identities, and with `epl` against their prototypes as well.

    Each process holds the rows `first` .. `last` - 1 of the classifier ("weight") and of the prototypes, and sees the
    batches of all processes, which must be equally large. `local_state` names what must not be averaged or broadcast
    between processes. With `sample` < 1 a step uses that share of the identities: all of the batch, the rest drawn at
    random (Partial FC, An et al., CVPR 2022).

    Losses are those of `margin`, at `scale` s. Prototype rows see the positive cosine lowered by the detached adaptive
    margin; ArcFace and UniFace then apply their fixed margin too, CosFace does not (as in EPL's released code).

    >>> head = MarginHead(identities=10, dim=4)
    >>> head(torch.ones(2, 4), torch.tensor([3, 7]), epoch=0) > 0
    tensor(True)
    """

    local_state = ("weight", "prototypes")
    weight: Tensor
    prototypes: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        identities: int,
        dim: int,
        variant: Variant = "cosface",
        *,
        epl: Epl | None = None,
        margin: float = 0.4,
        scale: float = 64.0,
        angular_gradient: AngularGradient = "cosface",
        sample: float = 1.0,
    ) -> None:
        super().__init__()
        self.identities, self.variant, self.epl = identities, variant, epl
        self.margin, self.scale, self.angular_gradient, self.sample = margin, scale, angular_gradient, sample
        self.world = world()[1]
        # So few that a process may be left without any sampled identity.
        if self.world > 1 and sample < 1 and sample * identities < 64 * self.world:
            raise ValueError(
                f"{sample:g} of {identities} identities are too few for {self.world} processes: expected 64 each"
            )
        self.first, self.last = part(identities)
        self.weight = nn.Parameter(unit(_normal_rows(identities, dim, self.first, self.last)))
        prototypes = None
        if epl:
            prototypes = _normal_rows(identities, dim, self.first, self.last)
            prototypes = unit(prototypes) if epl.start == "unit" else prototypes
        self.register_buffer("prototypes", prototypes)
        self.bias = nn.Parameter(torch.tensor([math.log(10 * identities)])) if variant == "uniface" else None

    def forward(
        self, embeddings: Tensor, labels: Tensor, epoch: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean of `rows`: this process's embeddings float32 [B, D] and labels int64 [B] -> a scalar.

        Every process gets the same value, over all samples. Gradients of replicated parts (backbone, bias) are right
        once averaged over processes, as DDP does; those of `weight` are right as they are.
        """
        return self.rows(embeddings, labels, epoch, generator).mean()

    def rows(self, embeddings: Tensor, labels: Tensor, epoch: int, generator: torch.Generator | None = None) -> Tensor:
        """The loss of each sample of all processes [world * B], and then, from `start_epoch`, against the prototypes.

        In training mode the prototypes are updated first. `epoch` counts from 0. `generator` (CPU, in the same state on
        every process) draws the sampled identities.
        """
        x = unit(all_gather_with_grad(embeddings))
        labels = all_gather_with_grad(labels)
        owned = (labels >= self.first) & (labels < self.last)
        columns = torch.where(owned, labels - self.first, 0)
        weight, prototypes = self.weight, self.prototypes
        if self.epl and prototypes is not None and self.training:
            mine = slice(None) if self.world == 1 else owned
            update_prototypes(prototypes, x.detach()[mine], columns[mine], self.epl.gate, self.epl.repeats)
        if self.epl is None or epoch + 1 < self.epl.start_epoch:
            prototypes = None
        if self.sample < 1:
            chosen = self._sample(labels, generator)
            columns = torch.searchsorted(chosen, columns).clamp(max=len(chosen) - 1)
            weight, prototypes = weight[chosen], None if prototypes is None else prototypes[chosen]

        weight = unit(weight)
        if self.world > 1 and weight.requires_grad:
            # Every process differentiates the same loss, and the gathers add these gradients up.
            weight.register_hook(lambda gradient: gradient / self.world)
        rows = self._rows(x, weight, columns, owned, adaptive=0.0, margin=self.margin)
        if self.epl is None or prototypes is None:
            return rows
        if self.epl.start == "normal":  # those without a sample yet are no unit vectors
            prototypes = unit(prototypes)
        margin = 0.0 if self.variant == "cosface" else self.margin
        return torch.cat([rows, self._rows(x, prototypes, columns, owned, self.epl.k, margin)])

    def _sample(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        """The identities of this step that this process holds, ascending and counted from `first`."""
        if generator is None:
            raise ValueError("Sampling identities needs a generator that is in the same state on every process")
        kept = max(round(self.sample * self.identities), min(len(labels), self.identities))
        ranks = torch.rand(self.identities, generator=generator).to(labels.device).index_fill(0, labels, 2.0)
        chosen = ranks.topk(kept, sorted=False).indices.sort().values
        if self.world > 1:
            ends = torch.tensor([self.first, self.last], device=labels.device)
            start, end = torch.searchsorted(chosen, ends).tolist()
            chosen = chosen[start:end] - self.first
        return chosen

    def _rows(self, x: Tensor, table: Tensor, columns: Tensor, owned: Tensor, adaptive: float, margin: float) -> Tensor:
        """Loss of each row: unit embeddings [B, D] against this process's unit rows `table` [c, D] -> [B].

        `columns` [B] are the rows of the samples' own identities, meaningful where this process `owned` them.
        """
        logits = (self.scale * x) @ table.T
        at = (torch.arange(len(x), device=x.device), columns)
        own = logits[at]
        positive = all_gather_with_grad(torch.where(owned, own / self.scale, 0.0)[None]).sum(0)
        negatives = logits.index_put_(at, torch.where(owned, _NO_NEGATIVE, own))  # in place: [B, c] may be gigabytes
        positive = lower(positive - adaptive * positive.detach(), self.variant, margin, self.angular_gradient)
        if self.bias is None:
            return softmax_rows(self.scale * positive, negatives)
        return sigmoid_rows(self.scale * positive, negatives, self.bias, self.scale)
