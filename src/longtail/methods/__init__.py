"""The methods, one file each. A new one is its file and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import unknown_name

if TYPE_CHECKING:
    from .base import Method

# name: (module:class, what it is). Modules are imported when asked for, so that listing them costs nothing.
METHODS = {
    "ce": ("ce:CrossEntropy", "cross-entropy, the baseline"),
    "balanced_softmax": ("ce:BalancedSoftmax", "cross-entropy on logits shifted by the class prior (NeurIPS 2020)"),
    "glmc": ("glmc:GLMC", "global and local mixture consistency (CVPR 2023)"),
    "bce3s": ("bce3s:BCE3S", "binary cross-entropy for joint, contrastive and uniform learning (AAAI 2026)"),
    "bcl": ("bcl:BCL", "balanced contrastive learning (CVPR 2022)"),
    "ride": ("ride:RIDE", "diverse experts, with a teacher and routers where asked for (ICLR 2021)"),
    "sade": ("sade:SADE", "three experts for three class distributions (NeurIPS 2022)"),
    "ncl": ("ncl:NCL", "whole networks that learn from each other (CVPR 2022)"),
    "balpoe": ("balpoe:BalPoE", "experts with logit adjustments of different strengths (CVPR 2023)"),
    "supcon": ("supcon:SupCon", "supervised contrastive learning, then a linear classifier (NeurIPS 2020)"),
    "kcl": ("kcl:KCL", "k-positive contrastive learning, then a linear classifier (ICLR 2021)"),
    "tsc": ("tsc:TSC", "kcl towards targets spread evenly over the sphere (CVPR 2022)"),
    "paco": ("paco:PaCo", "parametric contrastive learning: class centres among the contrasts (ICCV 2021)"),
    "gpaco": ("paco:GPaCo", "paco without a momentum encoder (TPAMI 2023)"),
    "ssd": ("ssd:SSD", "self-supervised features, then distillation to a new network (ICCV 2021)"),
    "proco": ("proco:ProCo", "contrast with a distribution estimated for each class (TPAMI 2024)"),
    "cosface": ("epl:CosFace", "faces: a margin on the cosine (CVPR 2018)"),
    "arcface": ("epl:ArcFace", "faces: a margin on the angle (CVPR 2019)"),
    "uniface": ("epl:UniFace", "faces: one threshold for all identities (ICCV 2023)"),
    "cosface_epl": ("epl:CosFaceEPL", "cosface with empirical prototypes and adaptive margins (2024)"),
    "arcface_epl": ("epl:ArcFaceEPL", "arcface with the same"),
    "uniface_epl": ("epl:UniFaceEPL", "uniface with the same"),
}


def method_class(name: str) -> type[Method]:
    """The class behind a method's name. Raises `UsageError`, with the nearest name, for one that does not exist."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    module, _, attribute = METHODS[name][0].partition(":")
    return getattr(import_module(f".{module}", __name__), attribute)
