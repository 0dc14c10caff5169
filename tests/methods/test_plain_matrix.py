"""Any loss with any mixing, sampler and classifier: each combination gives a finite loss and gradients, or says why not."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from method_cases import CLASSES, Case
from pydantic import ValidationError

from longtail.losses.classifier import SIGMOID, LossName
from longtail.methods import method_class
from longtail.methods.base import Sampler
from longtail.methods.mixing import Mix
from longtail.models import build_backbone
from longtail.models.heads import ClassifierName

OF_CLASSIFIERS = tuple(product(get_args(Mix), get_args(ClassifierName)))


@pytest.mark.parametrize("loss", get_args(LossName))
def test_each_loss_goes_with_each_mixing_and_classifier(loss: str) -> None:
    backbone = build_backbone("resnet8").eval()
    cls = method_class("ce")
    for (mix, classifier), sampler in zip(OF_CLASSIFIERS, get_args(Sampler) * 3, strict=False):
        told = {"loss": loss, "mix": mix, "classifier": classifier, "sampler": sampler}
        told |= {} if mix == "none" else {"mix_prob": 1.0, "mix_pause": 0}
        if loss in SIGMOID and classifier == "cosine":
            with pytest.raises(ValidationError, match="needs a bias"):
                cls.Options.model_validate(told)
            continue
        case = Case("ce", "train", told)
        method = cls(backbone, CLASSES, case.checked_options)
        (value,) = method.losses(case.batch(dtype=torch.float32), case.clock(1)).values()
        assert value.isfinite(), told
        method.zero_grad()
        value.backward()
        assert all(parameter.grad is not None for parameter in method.parameters()), told


@pytest.mark.parametrize("mix", get_args(Mix))
@pytest.mark.parametrize("name", ["ride", "sade", "balpoe"])
def test_experts_learn_from_each_mixing(name: str, mix: str) -> None:
    told = {"mix": mix} | ({} if mix == "none" else {"mix_prob": 1.0, "mix_pause": 0})
    case = Case(name, "train", told)
    method = case.build(torch.float32)
    terms = method.losses(case.batch(dtype=torch.float32), case.clock(1))
    assert all(value.isfinite() for value in terms.values())
