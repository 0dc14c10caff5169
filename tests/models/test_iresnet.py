from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from longtail.errors import UsageError
from longtail.models import build_backbone
from longtail.models.embedding import embed_with_flip
from longtail.models.iresnet import Block, clamp_prelu_slopes, iresnet, start_kaiming


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Published: 24.0, 34.1, 43.6 and 65.2 million at 112x112 with 512 features.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16)],
)
def test_parameter_counts_are_the_published_ones(name, millions):
    with torch.device("meta"):
        assert _count(iresnet(name)) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", ["iresnet18", "iresnet34", "iresnet50", "iresnet100"])  # the 200 has 198 layers
def test_depth_is_in_the_name(name):
    with torch.device("meta"):
        layers = [
            m for m in iresnet(name).modules() if getattr(m, "kernel_size", None) == (3, 3) or isinstance(m, nn.Linear)
        ]
    assert len(layers) == int(name.removeprefix("iresnet"))


@pytest.mark.parametrize(("size", "channels"), [(112, 3), (48, 1), (56, 3)])
def test_each_stage_halves_the_image_and_the_embedding_is_as_wide_as_asked(size, channels):
    backbone = iresnet("iresnet18", channels, size, dim=32).eval()
    x = torch.randn(2, channels, size, size)
    sizes = []
    with torch.no_grad():
        embedding = backbone(x)
        for stage in backbone.stages:
            x = stage(x)
            sizes.append((x.shape[1], x.shape[2]))
    assert sizes == [(64, size), (64, size // 2), (128, size // 4), (256, size // 8), (512, math.ceil(size / 16))]
    assert embedding.shape == (2, 32)
    assert embedding.dtype == torch.float32
    assert backbone.dim == 32


def test_embedding_is_float32_under_bf16_stages_and_close_to_full_precision():
    torch.manual_seed(0)
    backbone = iresnet("iresnet18", size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        full = backbone(x)
        backbone.precision = torch.bfloat16
        half = backbone(x)
    assert half.dtype == torch.float32
    assert (half - full).norm() / full.norm() < 0.05


def test_wrong_sizes_say_what_to_do():
    with pytest.raises(UsageError, match=r"up to 48x48 pixels, which leave 3x3 positions, .* leave 2x2"):
        iresnet("iresnet18", size=48).eval()(torch.zeros(1, 3, 32, 32))


def test_slopes_are_raised_to_the_limit_and_others_left():
    model = nn.Sequential(nn.PReLU(3), nn.Sequential(nn.PReLU(1)))
    model[0].weight.data = torch.tensor([-0.5, 0.005, 0.25])
    model[1][0].weight.data = torch.tensor([0.0])
    clamp_prelu_slopes(model)
    torch.testing.assert_close(model[0].weight.data, torch.tensor([0.01, 0.01, 0.25]))
    torch.testing.assert_close(model[1][0].weight.data, torch.tensor([0.01]))


def test_flip_summed_embedding_does_not_change_when_the_image_is_mirrored():
    torch.manual_seed(0)
    backbone = iresnet("iresnet18", size=32).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        summed = embed_with_flip(backbone, images)
        bound = 1e-5 * summed.abs().max().item()  # of an untrained network's 3e7
        torch.testing.assert_close(summed, embed_with_flip(backbone, images.flip(3)), rtol=0, atol=bound)
        torch.testing.assert_close(summed, backbone(images) + backbone(images.flip(3)), rtol=0, atol=bound)
        assert not torch.allclose(backbone(images), backbone(images.flip(3)), rtol=1e-2)


def test_kaimings_start_has_the_variance_of_the_fan_in_and_blocks_that_are_their_shortcuts():
    torch.manual_seed(0)
    backbone = iresnet("iresnet18", size=32).eval()
    start_kaiming(backbone)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    assert len(blocks) == 8
    for block in blocks:
        x = torch.randn(2, block.body[0].num_features, 4, 4)
        torch.testing.assert_close(block(x), block.shortcut(x), rtol=0, atol=0)


def test_kaimings_start_is_for_a_new_iresnet():
    with pytest.raises(UsageError, match="network_start=kaiming"):
        start_kaiming(build_backbone("resnet8"))
    trained = iresnet("iresnet18", size=32)
    trained.pretrained = True
    with pytest.raises(UsageError, match="from scratch"):
        start_kaiming(trained)
