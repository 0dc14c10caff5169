"""BCE3S's second stage: the classifier alone learns on, by MaxNorm with the loss of its joint term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..losses.class_balanced import class_balanced_bce
from .base import Batch, Clock
from .maxnorm import MaxNorm
from .second_stage import SecondStage


class MaskedMaxNorm(MaxNorm):
    """MaxNorm with class-balanced BCE over a random part of the classes in each step."""

    def losses(self, method: Any, batch: Mapping[str, Batch], clock: Clock) -> dict[str, Tensor]:
        main = batch["main"]
        scores = self.learned_scores(method, method.features(main.views[0]))
        mask = method.class_mask(main.labels, clock)
        return {"class_balanced_bce": class_balanced_bce(scores, main.labels, method.maxnorm_weights, class_mask=mask)}


def second_stages(hp: Any) -> list[SecondStage]:
    if hp.finetune == "none":
        return []
    rates: dict[str, Any] = {"epochs": hp.finetune_epochs, "lr": hp.finetune_lr, "weight_decay": 0.0}
    return [MaskedMaxNorm(**rates, beta=hp.beta, thresh=hp.thresh, frozen_batchnorm=hp.frozen_batchnorm)]
