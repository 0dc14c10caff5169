"""What the contrastive methods share: a momentum encoder, a queue of its keys, and a classifier trained afterwards."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..data.ops import send
from ..data.streams import Sampler
from ..distributed import all_gather_with_grad, world
from ..errors import UsageError
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier
from .base import Batch, Batches, Clock, Method, Options, Passes, Stage, Stream


class MomentumEncoder(nn.Module):
    """Copies of a backbone and a projector that follow them slowly and turn images into keys, without gradients.

    Its batch norms, in training mode, keep statistics of their own.
    """

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = copy.deepcopy(backbone), copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images -> keys float32 [B, D], unit vectors."""
        return F.normalize(self.projector(self.backbone(images)))

    @torch.no_grad()
    def start(self, backbone: Backbone, projector: nn.Module) -> None:
        """Become what they are, with which a stage may have been started."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.projector.load_state_dict(projector.state_dict())

    @torch.no_grad()
    def follow(self, backbone: Backbone, projector: nn.Module, momentum: float) -> None:
        """Every parameter becomes `momentum` of itself and 1 - `momentum` of the one it follows."""
        own: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(own, [*backbone.parameters(), *projector.parameters()], 1 - momentum)


class Queue(nn.Module):
    """The last K keys [K, D] and their labels int64 [K], the oldest being overwritten; -1 labels an entry never written.

    All of it is state, the same on every process.
    """

    keys: Tensor
    labels: Tensor
    position: Tensor

    def __init__(self, keys: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", keys)
        self.register_buffer("labels", labels)
        self.register_buffer("position", torch.tensor(0))

    @classmethod
    def random(cls, size: int, dim: int) -> Queue:
        """`size` entries that were never written: random unit vectors."""
        return cls(F.normalize(torch.randn(size, dim)), torch.full((size,), -1))

    @torch.no_grad()
    def push(self, keys: Tensor, labels: Tensor) -> None:
        """Write keys [B, D] with their labels [B], those of all processes in rank order."""
        keys, labels = all_gather_with_grad(keys), all_gather_with_grad(labels)
        rows = (self.position + torch.arange(len(labels), device=labels.device)) % len(self.labels)
        self.keys.index_copy_(0, rows, keys.to(self.keys.dtype))
        self.labels.index_copy_(0, rows, labels)
        self.position.copy_((rows[-1] + 1) % len(self.labels))

    def fill(self, encoder: MomentumEncoder, images: Passes, stream: Stream, classes: Classes) -> None:
        """Write the keys of as many images of `stream` as it takes, its `encoder` being in training mode meanwhile."""
        encoder.train()
        left = len(self.labels)
        for _ in range(-(-left // sum(classes.counts))):  # passes
            for batch in images.training(stream):
                if left > 0:
                    self.push(encoder(batch.views[0]), batch.labels)
                    left -= len(batch.labels) * world()[1]
        encoder.eval()


def check_queue(size: int, batch_size: int) -> None:
    """Raise `UsageError` where a queue cannot be written in whole batches."""
    if size % batch_size:
        below, above = size // batch_size * batch_size, -(-size // batch_size) * batch_size
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UsageError(
            f"A queue of {size} is not written in whole batches of {batch_size}: use --set queue={nearest}, or a "
            f"batch_size that divides {size}."
        )


def positive_draws(clock: Clock, entries: int, images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers for `losses.queue_contrast.draw_positives`, [entries] and [images] for this process's share of the batch."""
    rank, size = world()
    drawn = send(torch.rand(entries + size * images, generator=clock.generator), device)
    return drawn[:entries], drawn[entries:].chunk(size)[rank]


class ClassifierStageOptions(Options):
    classifier_augment: str = Field("weak", description="of the classifier's stage")
    classifier_sampler: Sampler = Field("balanced", description="how the classifier's stage draws images")
    classifier_epochs: int = Field(30, ge=1, description="epochs of the classifier's stage")
    classifier_lr: float = Field(1.0, gt=0, description="learning rate of the classifier's stage")
    classifier_batch_size: int | None = Field(None, ge=1, description="of the classifier's stage (null: the first's)")
    classifier_milestones: tuple[float, ...] = Field(
        (0.6, 0.8), strict=False, description="where its learning rate drops to a tenth, as shares of its epochs"
    )
    frozen_batchnorm: Literal["eval", "train"] = Field(
        "eval", description="of the frozen backbone in the classifier's stage; train: by the batch's statistics"
    )


class ContrastThenClassifier(Method):
    """A backbone learned by contrast alone, and a linear classifier then trained on its frozen features."""

    Options = ClassifierStageOptions

    def __init__(self, backbone: Backbone, classes: Classes, options: Any) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = LinearClassifier(backbone.dim, len(classes))
        nn.init.normal_(self.classifier.weight, std=0.01)

    @classmethod
    def classifier_stage(cls, options: Any) -> Stage:
        """Cross-entropy of the classifier alone."""
        optim = {
            "epochs": options.classifier_epochs,
            "lr": options.classifier_lr,
            "weight_decay": 0.0,
            "schedule": "step",
            "milestones": options.classifier_milestones,
            "drop": 0.1,
            "warmup_epochs": 0,
        }
        if options.classifier_batch_size is not None:
            optim["batch_size"] = options.classifier_batch_size
        return Stage(
            "classifier",
            {"main": Stream((options.classifier_augment,), options.classifier_sampler)},
            trains=("classifier",),
            train_mode=("backbone", "classifier") if options.frozen_batchnorm == "train" else None,
            optim=optim,
        )

    def prior_exponent(self) -> float | None:
        known = {"instance": 1.0, "balanced": 0.0, "class_aware": 0.0}
        return known.get(self.hp.classifier_sampler)

    def losses(self, batch: Batches, clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        if clock.stage == "classifier":
            return {"ce": F.cross_entropy(self.logits(main.views[0]), main.labels)}
        return self.contrast(main, clock)

    def contrast(self, main: Batch, clock: Clock) -> dict[str, Tensor]:
        """The terms of the stages before the classifier's."""
        raise NotImplementedError
