"""Depthwise convolutions in float32 within a network in bf16."""

from __future__ import annotations

import copy

import pytest
import torch

from longtail.models import build_backbone
from longtail.models.depthwise import learn_depthwise_in_float32


@pytest.mark.parametrize("name", ["timm:test_efficientnet", "timm:test_convnext"])
def test_same_features_and_gradients_up_to_bf16(name):
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    other = copy.deepcopy(backbone)
    learn_depthwise_in_float32(other)
    assert list(other.state_dict()) == list(backbone.state_dict())
    assert any(type(module).__name__.startswith("Float32") for module in other.modules())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(other(images), backbone(images))  # in float32 nothing changes
    backbone.precision = other.precision = torch.bfloat16
    with torch.no_grad():
        assert torch.equal(other(images), backbone(images))
    assert other(images).dtype == torch.float32
    gradients = []
    for network in (backbone, other):
        network(images).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    learn_depthwise_in_float32(other)  # a second time is as good as once


def test_grouped_convolutions_are_left_alone():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2), torch.nn.Conv2d(1, 4, 3))
    learn_depthwise_in_float32(network)
    assert all(type(module) is torch.nn.Conv2d for module in network)
