"""LIFT: small modules in a frozen vision transformer, a cosine classifier that starts from class means, logit adjustment.

Shi et al., "Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts", ICML 2024. The modules are those of
`models.adapters`, the starts those of `models.starts`: fine-tuning that any method can have. The method is their choice.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .options import with_defaults
from .plain import PlainMethod, PlainOptions


class LIFT(PlainMethod):
    """Scores 25 cos(f, w_c), cross-entropy of scores plus log prior (section 4)."""

    Options = with_defaults(PlainOptions, loss="logit_adjusted", classifier="cosine", scale=25.0)
    variants = ()
    finetune_defaults: ClassVar[dict[str, Any]] = {"mode": "adaptformer", "start": "class_means"}
    train_defaults: ClassVar[dict[str, Any]] = {
        "epochs": 10,
        "batch_size": 128,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "last_batch": "keep",
    }
