"""What learns in each mode, and at which rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from longtail.config import FinetuneConfig
from longtail.errors import UsageError
from longtail.finetune.modes import by_depth, first_learning, frozen_stages, prepare
from longtail.models import build_backbone


def learning(backbone):
    return {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad and name.startswith("st")}


@pytest.mark.parametrize(("mode", "stages"), [("full", 7), ("head", 0), ("partial", 2)])
def test_stages_that_learn(mode, stages):
    backbone = build_backbone("timm:test_efficientnet")
    prepare(backbone, FinetuneConfig(mode=mode, last=2 if mode == "partial" else None), 5)
    assert learning(backbone) == {str(i) for i in range(7 - stages, 7)}
    assert frozen_stages(backbone) == {"full": 0, "head": 8, "partial": 5}[mode]


def test_partial_trains_most_of_the_parameters():
    backbone = build_backbone("timm:tf_efficientnet_lite0")
    first = first_learning(backbone, None)
    sizes = [sum(p.numel() for p in stage.parameters()) for stage in backbone.stages]
    assert sum(sizes[first:]) >= 0.75 * sum(sizes) > sum(sizes[first + 1 :])
    with pytest.raises(UsageError, match=r"This backbone has 9 stages, of which .* train 9 and freeze none"):
        first_learning(backbone, 9)


@pytest.mark.parametrize("norms", ["frozen", "running"])
def test_frozen_stages_and_norms_stay_as_they_are(norms):
    backbone = build_backbone("timm:test_resnet")
    prepare(backbone, FinetuneConfig(mode="partial", last=1, norms=norms), 5)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone.train()
    backbone(torch.rand(4, 3, 32, 32))
    moved = {name for name, value in backbone.named_buffers() if not torch.equal(value, before[name])}
    assert all(name.startswith("stages.4.") for name in moved)
    assert bool(moved) == (norms == "running")


def test_bias_tuning_is_of_biases():
    backbone = build_backbone("timm:test_vit")
    prepare(backbone, FinetuneConfig(mode="bias"), 5)
    names = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in backbone.named_parameters() if name.endswith("bias")}


def test_rates_fall_with_depth():
    backbone = build_backbone("timm:test_resnet")
    head = nn.Linear(2, 2)
    parameters = [*backbone.parameters(), *head.parameters()]
    groups = by_depth([{"params": parameters, "weight_decay": 0.1}], backbone, 0.5)
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(rates) == len(parameters)
    assert all(group["weight_decay"] == 0.1 for group in groups)
    assert rates[id(head.weight)] == 1
    for i, stage in enumerate(backbone.stages):
        assert {rates[id(p)] for p in stage.parameters()} == {0.5 ** (5 - i)}
    assert by_depth([{"params": parameters}], backbone, 1.0) == [{"params": parameters}]
