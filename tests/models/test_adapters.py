"""The modules that learn inside a frozen transformer."""

from __future__ import annotations

import pytest
import torch

from longtail.errors import UsageError
from longtail.models import build_backbone
from longtail.models.adapters import adapt, adaptformer_width


@pytest.mark.parametrize(("classes", "width"), [(100, 4), (1000, 32), (365, 8), (8142, 256), (17, 1), (2, 1)])
def test_width_rule_of_the_paper_for_twelve_blocks(classes, width):
    assert adaptformer_width(classes, 12) == width


@pytest.mark.parametrize(("classes", "learned"), [(100, 101_436), (1000, 617_868), (365, 175_212), (8142, 4_749_324)])
def test_parameters_are_the_papers(classes, learned):
    with torch.device("meta"):
        backbone = build_backbone("timm:vit_base_patch16_224")
        new = adapt(backbone, "adaptformer", classes)
    assert sum(parameter.numel() for parameter in new) == learned


@pytest.mark.parametrize("kind", ["adaptformer", "adapter", "lora", "vpt"])
def test_modules_learn_and_end_as_they_are_saved(kind):
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_vit").eval()
    images = torch.rand(2, 3, 32, 32)
    before = backbone(images)
    new = adapt(backbone, kind, classes=10, width=8)
    if kind != "vpt":
        torch.testing.assert_close(backbone(images), before)
    backbone.requires_grad_(False)
    for parameter in new:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(new, 0.01)
    for _ in range(2):  # the first step moves what started at zero, and only then have the others gradients
        (backbone(images) ** 3).sum().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in new)
    again = build_backbone("timm:test_vit").eval()
    adapt(again, kind, classes=10, width=8)
    again.load_state_dict(backbone.state_dict())
    assert torch.equal(again(images), backbone(images))


def test_convolutional_backbone_is_refused():
    with pytest.raises(UsageError, match=r"finetune.mode=lora .* this backbone has none"):
        adapt(build_backbone("resnet8"), "lora", classes=10)
