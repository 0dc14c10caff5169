"""BBN: bilateral-branch network with cumulative learning (Zhou et al., CVPR 2020).

Two branches share all of the backbone but its last block. One sees images as they come, the other rare classes most; one
classifier reads both, and training moves from the first branch's image and features to the second's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from ..classes import Classes
from ..data.ops import send
from ..losses.bbn import branch_share, join_branches
from ..losses.classifier import ClassifierLoss
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier
from .base import Batch, Clock, Method, Options, Stage, Stream


class BBNOptions(Options):
    augment: str = Field("weak", description="augmentation of both streams")


class PlainLinear(LinearClassifier):
    """Started as `torch.nn.Linear` is."""

    reset_parameters = nn.Linear.reset_parameters


class BBN(Method):
    """See the module's text."""

    Options = BBNOptions
    deployed = ("backbone", "conventional", "rebalancing", "classifier")
    train_defaults = {"nesterov": True, "weight_decay": 2e-4, "last_batch": "drop"}

    def __init__(self, backbone: Backbone, classes: Classes, options: BBNOptions) -> None:
        super().__init__(backbone, classes, options)
        self.rebalancing = backbone.twin().split_last_block()
        self.conventional = backbone.split_last_block()
        self.classifier = PlainLinear(2 * backbone.dim, len(classes))
        self.criterion = ClassifierLoss("ce", self.counts)

    @classmethod
    def stages(cls, options: BBNOptions) -> list[Stage]:
        views = (options.augment,)
        return [Stage("train", {"conventional": Stream(views), "rebalancing": Stream(views, sampler="reversed")})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        # One after the other, as released: the shared batch norms see each stream by itself.
        features = [getattr(self, name)(self._shared(batch[name].views[0])) for name in ("conventional", "rebalancing")]
        labels = torch.stack((batch["conventional"].labels, batch["rebalancing"].labels), 1)
        share = send(torch.tensor(branch_share(clock.epoch, clock.epochs)), labels.device).to(features[0].dtype)
        return self.terms(features[0], features[1], labels, share)

    def terms(self, conventional: Tensor, rebalancing: Tensor, labels: Tensor, share: Tensor) -> dict[str, Tensor]:
        """From both branches' features [B, D], labels [B, 2] and the conventional one's share, a scalar."""
        scores = self.classifier(join_branches(conventional, rebalancing, share))
        return {"ce": self.criterion(scores, labels, torch.stack((share, 1 - share)).expand(len(labels), 2))}

    def features(self, images: Tensor) -> Tensor:
        shared = self._shared(images)
        return join_branches(self.conventional(shared), self.rebalancing(shared))

    def _shared(self, images: Tensor) -> Tensor:
        """What both branches go on from."""
        return self.backbone(images, stop=len(self.backbone.stages))
