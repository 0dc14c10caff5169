"""Backbones by name."""

from __future__ import annotations

import difflib
import logging
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import UsageError, unknown_name
from ..plugins import find, installed
from .adapters import adapt
from .backbone import Backbone, given_images
from .cifar_resnet import CIFAR_RESNETS, cifar_resnet
from .iresnet import IRESNETS, iresnet
from .timm_backbone import timm_backbone
from .torchvision_compat import ensure_torchvision
from .weights import find_weights, load_weights, read_weights

logger = logging.getLogger("longtail")

_IMAGENET_RESNETS = ("resnet50", "resnext50_32x4d")
_GROUP = "longtail.backbones"  # of entry points
ADAPTER = "+"  # between a backbone's name and what was put into its blocks
# torchvision's names of networks that timm calls otherwise
TORCHVISION = {
    "efficientnet_v2_l": "tf_efficientnetv2_l",
    "efficientnet_v2_m": "tf_efficientnetv2_m",
    "efficientnet_v2_s": "tf_efficientnetv2_s",
    "maxvit_t": "maxvit_tiny_tf_224",
    "mnasnet1_0": "mnasnet_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "regnet_x_400mf": "regnetx_004",
    "regnet_x_3_2gf": "regnetx_032",
    "regnet_y_400mf": "regnety_004",
    "regnet_y_3_2gf": "regnety_032",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    "vit_l_16": "vit_large_patch16_224",
}


def backbone_names() -> tuple[str, ...]:
    """The names of this project's own backbones, and of those that the papers train from scratch."""
    return (*CIFAR_RESNETS, "resnet34_cifar", *_IMAGENET_RESNETS, *IRESNETS)


def timm_name(name: str) -> str | None:
    """What timm calls the backbone `name`: ``timm:NAME``, its bare name, or torchvision's. None for this project's own.

    Raises `UsageError` for a name that nobody knows.
    """
    name = name.partition(ADAPTER)[0]
    if name.startswith("timm:"):
        return name.removeprefix("timm:")
    if (name in backbone_names() and name not in _IMAGENET_RESNETS) or _of_others(name):
        return None
    ensure_torchvision()
    import timm

    name = TORCHVISION.get(name, name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, (*backbone_names(), *installed(_GROUP)), cutoff=0.7)
        raise unknown_name("backbone", name, near or (*backbone_names(), *timm.list_models(), *TORCHVISION))
    return name


def _of_others(name: str) -> bool:
    """Whether a backbone comes from outside of longtail."""
    return ":" in name.removeprefix("timm:") or name in installed(_GROUP)


def is_backbone(name: str) -> bool:
    """Whether `build_backbone` knows the name."""
    try:
        timm_name(name)
    except UsageError:
        return False
    return True


def build_backbone(
    name: str,
    in_channels: int = 3,
    pretrained: bool = False,
    image_size: int | None = None,
    weights: str | None = None,
) -> Backbone:
    """The backbone called `name`, for images of `in_channels` channels (1: grey).

    - ``resnet8`` ... ``resnet56``: CIFAR ResNets of widths 16-32-64. ``resnet32_w64``: widths 64-128-256.
    - ``resnet34_cifar``: ImageNet's ResNet-34 with a 3x3 stride-1 stem and no max-pool; 512 features.
    - ``resnet50``, ``resnext50_32x4d``: the ImageNet networks; 2048 features.
    - ``iresnet18`` ... ``iresnet200``: face recognition's; 512 features, for images of `image_size` pixels (default 112).
    - ``timm:<name>``, or ``<name>`` alone: any model of timm, as timm initialises it; torchvision's names are understood.
    - ``module:function``, or an installed package's entry point in the group ``longtail.backbones``: what that makes, called
      with `in_channels` and `image_size`.

    ``<name>+<kind>:<width>`` has modules in its blocks, see `adapters.adapt`. `pretrained` loads weights: those of
    `weights` (a file, or ``hf:OWNER/NAME``), or timm's. Raises `UsageError` for an unknown name, or for weights that do not
    exist or do not fit.
    """
    name, _, adapter = name.partition(ADAPTER)
    of_timm = timm_name(name)
    if of_timm is not None:
        options = _PLAIN_INITIALISATION if name in _IMAGENET_RESNETS else {}
        backbone = timm_backbone(of_timm, in_channels, pretrained, weights, **options)
    elif pretrained and weights is None:
        raise UsageError(
            f"There are no pretrained weights for backbone '{name}'. Train it from scratch, give a file with --weights, or "
            "choose resnet50, resnext50_32x4d or timm:<name>."
        )
    elif _of_others(name):
        backbone = find("backbone", name, _GROUP, ())(in_channels=in_channels, image_size=image_size)
        if not isinstance(backbone, Backbone):
            raise UsageError(
                f"Backbone '{name}' made a {type(backbone).__name__}; expected a longtail.models.Backbone."
            )
    elif name in CIFAR_RESNETS:
        backbone = cifar_resnet(*CIFAR_RESNETS[name], in_channels)
    elif name in IRESNETS:
        backbone = iresnet(name, in_channels, image_size or 112)
    else:
        backbone = _resnet34_cifar(in_channels)
    if of_timm is None and weights is not None and pretrained:
        file = find_weights(name, weights)
        assert file is not None
        logger.info("backbone: %s with %s", name, load_weights(backbone, read_weights(file), weights))
    backbone.pretrained = pretrained
    if adapter:
        kind, _, width = adapter.partition(":")
        adapt(backbone, kind, classes=0, width=int(width))  # type: ignore[arg-type]
    return backbone


# timm starts each residual branch at zero unless told otherwise; the networks in the papers did not.
_PLAIN_INITIALISATION: dict[str, Any] = {"zero_init_last": False}


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
        with torch.no_grad(), given_images([backbone]):
            backbone.eval()(blank)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).rstrip(". ")
        raise UsageError(
            f"Backbone '{name}' cannot take images of {height}x{width} pixels and {in_channels} channels: {reason}. "
            "Resize the images, or choose a backbone that takes any size, such as resnet32."
        ) from error
    finally:
        backbone.train(training)
