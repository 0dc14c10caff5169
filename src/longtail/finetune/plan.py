"""How to train on photographs where the user has not said: which trained backbone, what of it learns, and how fast.

What is decided here lies under the user's own settings, and every choice is said in a line with how to overrule it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..data.decode import CorruptImage, image_size
from ..data.images import ImageSet, spread
from ..errors import LongtailError
from ..models.weights import at_hand, check_reachable

logger = logging.getLogger("longtail")

SMALL = 64  # pixels: images up to this side are what the papers' small networks are for
# What is downloaded where no weights are on the machine: by device, small for a CPU.
DOWNLOADED = {"cpu": "tf_efficientnet_lite0.in1k", "cuda": "convnext_tiny.in12k_ft_in1k", "mps": "resnet50.a1_in1k"}
# By mode. Those of "head" and "partial" were best with held-out senders of the clothing photographs (benchmarks/clothing.py);
# those of "full" are customary values, which no images chose, and few epochs: they are the dearest.
OPTIMISATION: dict[str, dict[str, Any]] = {
    "head": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.01, "batch_size": 128, "epochs": 20},
    "partial": {"optimizer": "adamw", "lr": 4e-4, "weight_decay": 0.01, "batch_size": 64, "epochs": 8},
    "full": {"optimizer": "adamw", "lr": 4e-4, "weight_decay": 0.01, "batch_size": 64, "epochs": 5},
}
SCHEDULE = {"schedule": "cosine", "schedule_per": "step", "warmup_epochs": 1, "milestones": (0.8, 0.9), "ema": None}
LAYER_DECAY = 0.8  # of "full"
TYPICAL = 4_500  # images for which the epochs above are right
LEAST_EPOCHS = 5


def epochs_for(mode: str, images: int) -> int:
    """As many epochs as the mode's steps take on so many images: few images are seen more often."""
    train = OPTIMISATION.get(mode, OPTIMISATION["full"])
    epochs = round(train["epochs"] * TYPICAL / images)
    return min(max(epochs, LEAST_EPOCHS), 3 * train["epochs"])


def typical_side(images: ImageSet, looked_at: int = 64) -> int:
    """The median of the shorter sides, in pixels, of images spread over the set; 0 where none can be read."""
    sides = []
    for i in spread(len(images), looked_at):
        try:
            sides.append(min(image_size(images.read(int(i)))))
        except CorruptImage:
            continue
    return int(np.median(sides)) if sides else 0


def choose_backbone(device: str) -> str:
    """A trained backbone of timm's: the first at hand, or one to download. Raises `LongtailError` where neither is."""
    if here := at_hand():
        return here[0]
    name = DOWNLOADED[device]
    check_reachable(name)
    return name


def device_kind() -> str:
    """Where training runs unless told otherwise."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def for_photographs(images: ImageSet, told: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to lay under what the user `told`: a trained backbone and fine-tuning, where the images are photographs and
    nothing speaks against it; else none. Logs each choice."""
    data = told.get("data", {})
    own_size = data.get("image_size")
    wants = told.get("pretrained") or told.get("weights") or told.get("finetune", {}).get("mode")
    against = told.get("pretrained") is False or told.get("start_from") or "backbone" in told
    if not wants and (against or (own_size or typical_side(images)) <= SMALL):
        if not against and own_size and typical_side(images) > SMALL:
            logger.info(
                "photographs resized to %d pixels: a network from scratch; without --image-size, or above %d, they start "
                "from a trained backbone",
                own_size, SMALL,
            )  # fmt: skip
        return {}
    chosen: dict[str, Any] = {"pretrained": True}
    if "backbone" not in told:
        try:
            chosen["backbone"] = f"timm:{choose_backbone(device_kind())}"
        except LongtailError as error:
            if wants:
                raise
            logger.warning(
                "No trained backbone to start from, which photographs need: %s Training from scratch.", error
            )
            return {}
        logger.info("backbone: %s, trained on other images (--backbone NAME, or --no-pretrained)", chosen["backbone"])
    mode = told.get("finetune", {}).get("mode") or ("full" if device_kind() == "cuda" else "partial")
    chosen["finetune"] = {"mode": mode, "layer_decay": LAYER_DECAY if mode == "full" else 1.0}
    epochs = {"epochs": epochs_for(mode, len(images))}
    chosen["train"] = dict(OPTIMISATION.get(mode, OPTIMISATION["full"])) | SCHEDULE | epochs
    train = chosen["train"] | dict(told.get("train", {}))
    logger.info(
        "fine-tuning: %s (--finetune full|partial|head), %s, lr %g (--lr), batch %d (--batch-size), %d epochs (--epochs)",
        mode, train["optimizer"], train["lr"], train["batch_size"], train["epochs"],
    )  # fmt: skip
    return chosen
