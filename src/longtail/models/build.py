"""Backbones by name."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from ..errors import UsageError, unknown_name
from .backbone import Backbone
from .cifar_resnet import CIFAR_RESNETS, cifar_resnet
from .iresnet import IRESNETS, iresnet
from .timm_backbone import timm_backbone

_IMAGENET_RESNETS = ("resnet50", "resnext50_32x4d")


def backbone_names() -> tuple[str, ...]:
    """The names that `build_backbone` knows, besides ``timm:<name>`` for any model of timm."""
    return (*CIFAR_RESNETS, "resnet34_cifar", *_IMAGENET_RESNETS, *IRESNETS)


def build_backbone(
    name: str, in_channels: int = 3, pretrained: bool = False, image_size: int | None = None
) -> Backbone:
    """The backbone called `name`, for images of `in_channels` channels (1: grey).

    - ``resnet8`` ... ``resnet56``: CIFAR ResNets of widths 16-32-64. ``resnet32_w64``: widths 64-128-256.
    - ``resnet34_cifar``: ImageNet's ResNet-34 with a 3x3 stride-1 stem and no max-pool; 512 features.
    - ``resnet50``, ``resnext50_32x4d``: the ImageNet networks; 2048 features.
    - ``iresnet18`` ... ``iresnet200``: face recognition's; 512 features, for images of `image_size` pixels (default 112).
    - ``timm:<name>``: any model of timm, as timm initialises it.

    `pretrained` loads timm's weights. Raises `UsageError` for an unknown name, or for weights that do not exist.
    """
    if name.startswith("timm:"):
        return timm_backbone(name.removeprefix("timm:"), in_channels, pretrained)
    if name in _IMAGENET_RESNETS:
        return timm_backbone(name, in_channels, pretrained, **_PLAIN_INITIALISATION)
    if name not in backbone_names():
        raise unknown_name("backbone", name, (*backbone_names(), "timm:<name>"))
    if pretrained:
        raise UsageError(
            f"There are no pretrained weights for backbone '{name}'. Train it from scratch, or choose resnet50, "
            "resnext50_32x4d or timm:<name>."
        )
    if name in CIFAR_RESNETS:
        return cifar_resnet(*CIFAR_RESNETS[name], in_channels)
    if name in IRESNETS:
        return iresnet(name, in_channels, image_size or 112)
    return _resnet34_cifar(in_channels)


# timm starts each residual branch at zero unless told otherwise; the networks in the papers did not.
_PLAIN_INITIALISATION = {"zero_init_last": False}


def _resnet34_cifar(in_channels: int, start: int = 0, share: float = 1.0) -> Backbone:
    backbone = timm_backbone("resnet34", in_channels, start=start, share=share, **_PLAIN_INITIALISATION)
    backbone.build = partial(_resnet34_cifar, in_channels)
    if start:
        return backbone
    _, norm, activation, _ = backbone.stages[0].children()
    stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)  # starts as PyTorch has it, as in the code of BCE3S
    backbone.stages[0] = nn.Sequential(stem, norm, activation)
    return backbone


def count_parameters(module: nn.Module) -> int:
    """How many numbers `module` learns or could learn (frozen parameters included, buffers not)."""
    return sum(parameter.numel() for parameter in module.parameters())


def check_image_size(backbone: Backbone, name: str, in_channels: int, height: int, width: int) -> None:
    """Raise `UsageError` if the backbone called `name` cannot take such images. Tries one blank image."""
    training = backbone.training
    blank = next(backbone.parameters()).new_zeros(1, in_channels, height, width)
    try:
        with torch.no_grad():
            backbone.eval()(blank)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).rstrip(". ")
        raise UsageError(
            f"Backbone '{name}' cannot take images of {height}x{width} pixels and {in_channels} channels: {reason}. "
            "Resize the images, or choose a backbone that takes any size, such as resnet32."
        ) from error
    finally:
        backbone.train(training)
