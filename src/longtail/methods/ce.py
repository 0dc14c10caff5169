"""Cross-entropy, and Balanced Softmax: the same with the class prior added to the logits while training."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..classes import Classes
from ..losses.softmax import logit_adjusted_cross_entropy
from ..models.backbone import Backbone
from ..models.heads import LinearClassifier
from .base import Batch, Clock, Method, Options, Sampler, Stage, Stream


class CrossEntropyOptions(Options):
    augment: str = Field("weak", description="augmentation of the images")
    sampler: Sampler = Field("instance", description="how batches are drawn: see Stream")
    q: float = Field(0.0, description="of the power sampler: images drawn in proportion to 1 / n_c^q")


class CrossEntropy(Method):
    """One linear classifier, cross-entropy, and (unless told otherwise) instance-balanced batches."""

    Options = CrossEntropyOptions

    def __init__(self, backbone: Backbone, classes: Classes, options: CrossEntropyOptions) -> None:
        super().__init__(backbone, classes, options)
        self.classifier = LinearClassifier(backbone.dim, len(classes))

    @classmethod
    def stages(cls, options: CrossEntropyOptions) -> list[Stage]:
        return [Stage("train", {"main": Stream((options.augment,), options.sampler, options.q)})]

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        return {"ce": cross_entropy(self.logits(main.views[0]), main.labels)}

    def prior_exponent(self) -> float | None:
        return 1.0 if self.hp.sampler == "instance" else None


class BalancedSoftmax(CrossEntropy):
    """Ren et al., Balanced Meta-Softmax, NeurIPS 2020, eq. 4: softmax over logits plus log class counts."""

    def losses(self, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        return {"balanced_softmax": logit_adjusted_cross_entropy(self.logits(main.views[0]), main.labels, self.counts)}

    def prior_exponent(self) -> float | None:
        return 0.0 if self.hp.sampler == "instance" else None
