"""What a trained backbone wants to see: the image size and normalisation that it was trained with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..errors import LongtailError
from ..models import timm_name
from ..models.torchvision_compat import ensure_torchvision
from ..models.weights import HUB, check_reachable

logger = logging.getLogger("longtail")


def complete(config: Config) -> Config:
    """`config` with what its pretrained backbone decides where the user did not: image size, RGB, mean and deviation.

    A backbone ``hf:OWNER/NAME`` becomes timm's architecture that it is of, with its weights. Raises `UsageError` and
    `LongtailError`.
    """
    if config.backbone.startswith(HUB):
        config = config.model_copy(
            update={
                "backbone": _architecture(config.backbone),
                "weights": config.weights or config.backbone,
                "pretrained": True,
            }
        )
    if config.weights is not None and not config.pretrained:
        config = config.model_copy(update={"pretrained": True})
    name = timm_name(config.backbone) if config.pretrained else None
    if name is None:
        return config
    pixels = natural_pixels(name)
    given = config.data.model_dump(exclude_none=True)
    decided = {key: value for key, value in pixels.items() if key not in given}
    if not decided or "mean" in given:
        decided = {key: value for key, value in decided.items() if key not in ("mean", "std")}
    data = config.data.model_copy(update=decided)
    return config.model_copy(update={"data": data})


def natural_pixels(name: str) -> Mapping[str, Any]:
    """The fields of the data configuration that timm's `name` was trained with."""
    ensure_torchvision()
    import timm

    config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return {}
    return {
        "image_size": config.input_size[1],
        "channels": 3,
        "mean": tuple(map(float, config.mean)),
        "std": tuple(map(float, config.std)),
    }


def _architecture(name: str) -> str:
    """timm's name of the architecture that ``hf:OWNER/NAME`` is of."""
    from huggingface_hub import try_to_load_from_cache

    ensure_torchvision()
    from timm.models import load_model_config_from_hf

    repository = name.removeprefix(HUB)
    if not isinstance(try_to_load_from_cache(repository, "config.json"), str):
        check_reachable(name)
    try:
        _, architecture, _ = load_model_config_from_hf(repository)
    except Exception as error:  # of the hub's client, or for a repository that is not timm's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LongtailError(
            f"'{name}' is no timm model that can be had: {reason}. Name its architecture with --backbone and give {name} as "
            "--weights."
        ) from error
    return f"timm:{architecture}"
