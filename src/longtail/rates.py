"""How fast to train from scratch on a set that allows few steps: authors' rates belong to their schedules' length.

GLMC's and BCE3S's learning rate of 0.01 with a decay of 5e-3, BCL's batch of 256: they were chosen for the 38,000 steps of 64
images that 200 epochs of CIFAR-10-LT are. The embedded set's 200 epochs are 4,600: docs/results.md has it at both rates.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from .config import TrainConfig, merge
from .methods import method_class

logger = logging.getLogger("longtail")

LONG = 20_000  # steps from which a method trains at its authors' rates
SHORT = 4_000  # steps that a training has at least, unless told otherwise
RATES: dict[str, Any] = {
    "lr": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 64,
    "schedule": "cosine",
    "warmup_epochs": 0,
}


def for_few_steps(method: str, images: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to lay under what the user `told` for a training of `method` from scratch on so many `images`: where its own
    are for more steps, these rates; none where they fit. Logs what was chosen."""
    cls = method_class(method)
    given = dict(told.get("train", {}))
    own = TrainConfig.model_construct(**merge(dict(cls.train_defaults), given))
    if own.epochs * math.ceil(images / own.batch_size) >= LONG or cls.rates_are_its_own or own.optimizer != "sgd":
        return {}
    per_epoch = math.ceil(images / given.get("batch_size", RATES["batch_size"]))
    chosen = RATES | {"epochs": max(own.epochs, math.ceil(SHORT / per_epoch))}
    train = chosen | given
    logger.info(
        "from scratch on %s images: lr %g (--lr), weight decay %g, batch %d (--batch-size), %d epochs (--epochs): %s steps are "
        "few for the rates of the paper, which --recipe has",
        f"{images:,}", train["lr"], train["weight_decay"], train["batch_size"], train["epochs"],
        f"{train['epochs'] * per_epoch:,}",
    )  # fmt: skip
    return {"train": chosen}
