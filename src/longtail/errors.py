"""The two ways a command fails, and the exit code of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LongtailError(Exception):
    """Something went wrong with the work itself (a corrupt image, a NaN loss, a full disk): exit code 1.

    The message is one or two sentences that say what was found, where, what was expected, and what to do.
    """

    exit_code = 1


class UsageError(LongtailError, ValueError):
    """The request itself cannot be carried out (unknown name, missing file, impossible option): exit code 2."""

    exit_code = 2


class DivergedError(LongtailError):
    """A loss or a weight is not a finite number any more."""


# What people write for names of this project, which the spelling of alone would not find.
_MEANINGS = {
    "adam": ("adamw",),
    "architecture": ("backbone",),
    "augmentation": ("augment",),
    "bs": ("batch_size",),
    "class_weights": ("class_balanced", "reweight"),
    "cross_entropy": ("ce",),
    "cross_entropy_loss": ("ce",),
    "crossentropy": ("ce",),
    "decoupling": ("crt",),
    "focal_loss": ("focal",),
    "image_folder": ("folder",),
    "img_size": ("image_size",),
    "la": ("logit_adjustment",),
    "learning_rate": ("lr",),
    "logit_adjusted": ("logit_adjustment",),
    "max_epochs": ("epochs",),
    "model": ("backbone",),
    "n_epochs": ("epochs",),
    "network": ("backbone",),
    "num_epochs": ("epochs",),
    "oversampling": ("sampler", "balanced"),
    "random_seed": ("seed",),
    "scheduler": ("schedule",),
    "size": ("image_size",),
    "softmax": ("ce",),
    "wd": ("weight_decay",),
    "weighted": ("class_balanced", "reweight"),
    "weighted_ce": ("class_balanced", "reweight"),
}


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A `UsageError` for a name that does not exist, with the nearest one that does, in meaning or in spelling."""
    known = sorted(known)
    plain = name.lower().replace("-", "_").replace(" ", "_")
    near = [other for other in (plain, *_MEANINGS.get(plain, ())) if other in known]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known[:12])}{more}."
    return UsageError(f"Unknown {kind} '{name}'. {hint}")


def brief(text: str, most: int = 60) -> str:
    """Text of a file, short enough for a message."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"
