"""The methods. A new one is its file and a line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError, unknown_name
from ..plugins import find, installed

if TYPE_CHECKING:
    from .base import Method


class Entry(NamedTuple):
    """What is known of a method without importing it. `where`: module:class. `needs`: what a user must have or allow for."""

    where: str
    kind: str
    year: int
    about: str
    needs: str = ""


# In the order of `longtail methods`. Modules are imported when asked for, so that listing them costs nothing.
METHODS = {
    "ce": Entry("plain:PlainMethod", "losses", 1989, "cross-entropy, the baseline"),
    "focal": Entry("named_losses:Focal", "losses", 2017, "cross-entropy that easy images count less in"),
    "class_balanced": Entry(
        "named_losses:ClassBalanced", "losses", 2019, "sigmoid focal loss, classes weighted by effective number"
    ),
    "ldam": Entry(
        "named_losses:LDAM", "losses", 2019, "larger margins for rarer classes, then class weights (LDAM-DRW)"
    ),
    "balanced_softmax": Entry(
        "named_losses:BalancedSoftmax", "losses", 2020, "cross-entropy on scores shifted by the class prior"
    ),
    "logit_adjustment": Entry("named_losses:LogitAdjustment", "losses", 2021, "the same, the shift times tau"),
    "lift": Entry("lift:LIFT", "foundation models", 2024, "small modules in a frozen pretrained vision transformer"),
    "weight_balancing": Entry("decoupled:WeightBalancing", "decoupled", 2022, "strong weight decay, then MaxNorm"),
    "mixup": Entry("named_mixing:MixUp", "mixing", 2018, "pairs of images blended, and their labels"),
    "cutmix": Entry("named_mixing:CutMix", "mixing", 2019, "a box of one image pasted on another"),
    "remix": Entry("named_mixing:Remix", "mixing", 2020, "MixUp whose label goes to the much rarer class"),
    "cmo": Entry("named_mixing:CMO", "mixing", 2022, "a box of an image of a rare class pasted on any other"),
    "crt": Entry("decoupled:CRT", "decoupled", 2020, "a new classifier learns class-balanced, after the features"),
    "lws": Entry("decoupled:LWS", "decoupled", 2020, "one factor for each class's scores learns, after the features"),
    "tau_norm": Entry(
        "decoupled:TauNorm", "decoupled", 2020, "rows divided by a power of their length, after training"
    ),
    "ncm": Entry("decoupled:NCM", "decoupled", 2020, "the nearest class mean decides, after training"),
    "balms": Entry(
        "decoupled:BALMS", "decoupled", 2020, "Balanced Softmax on features, sampling rates learned with it"
    ),
    "los": Entry("decoupled:LOS", "decoupled", 2025, "a new classifier learns from labels smoothed almost to uniform"),
    "bbn": Entry("bbn:BBN", "two branches", 2020, "from a branch for images as they come to one for rare classes"),
    "isda": Entry("isda:ISDA", "implicit augmentation", 2019, "features moved as their class varies, in closed form"),
    "risda": Entry(
        "decoupled:RISDA", "implicit augmentation", 2022, "the same; rare classes borrow from what they are taken for"
    ),
    "metasaug": Entry(
        "decoupled:MetaSAug",
        "implicit augmentation",
        2021,
        "the same; how far each class varies is learned by a meta step",
    ),
    "glmc": Entry("glmc:GLMC", "consistency", 2023, "global and local mixture consistency"),
    "bce3s": Entry(
        "bce3s:BCE3S", "consistency", 2026, "binary cross-entropy for joint, contrastive and uniform learning"
    ),
    "bcl": Entry("bcl:BCL", "contrastive", 2022, "balanced contrastive learning"),
    "supcon": Entry("supcon:SupCon", "contrastive", 2020, "supervised contrast, then a linear classifier"),
    "kcl": Entry("kcl:KCL", "contrastive", 2021, "k positives each, then a linear classifier"),
    "tsc": Entry("tsc:TSC", "contrastive", 2022, "kcl towards targets spread evenly over the sphere"),
    "paco": Entry("paco:PaCo", "contrastive", 2021, "class centres among the contrasts"),
    "gpaco": Entry("paco:GPaCo", "contrastive", 2023, "paco without a momentum encoder"),
    "ssd": Entry("ssd:SSD", "contrastive", 2021, "self-supervised features, then distillation to a new network"),
    "proco": Entry("proco:ProCo", "contrastive", 2024, "contrast with a distribution estimated for each class"),
    "ride": Entry("ride:RIDE", "several experts", 2021, "diverse experts, with a teacher and routers where asked for"),
    "sade": Entry("sade:SADE", "several experts", 2022, "three experts for three class distributions"),
    "ncl": Entry("ncl:NCL", "several experts", 2022, "whole networks that learn from each other"),
    "balpoe": Entry("balpoe:BalPoE", "several experts", 2023, "experts with logit adjustments of different strengths"),
    "cosface": Entry("epl:CosFace", "faces", 2018, "a margin on the cosine"),
    "arcface": Entry("epl:ArcFace", "faces", 2018, "a margin on the angle"),
    "uniface": Entry("epl:UniFace", "faces", 2023, "one threshold for all identities"),
    "cosface_epl": Entry("epl:CosFaceEPL", "faces", 2024, "cosface with empirical prototypes and adaptive margins"),
    "arcface_epl": Entry("epl:ArcFaceEPL", "faces", 2024, "arcface with the same"),
    "uniface_epl": Entry("epl:UniFaceEPL", "faces", 2024, "uniface with the same"),
}

# What can follow any of them that ends in one classifier: `--then NAME`, "METHOD+NAME". See `second_stage`.
SECOND_STAGES = {
    "crt": Entry("retraining:CRT", "decoupled", 2020, "a new classifier learns class-balanced"),
    "balanced_softmax": Entry(
        "retraining:BalancedSoftmaxStage", "decoupled", 2020, "a new one learns by Balanced Softmax"
    ),
    "balms": Entry("balms:BALMS", "decoupled", 2020, "the same, and with it how often each class is drawn"),
    "los": Entry("los:LOS", "decoupled", 2025, "a new classifier learns from labels smoothed almost to uniform"),
    "maxnorm": Entry(
        "maxnorm:MaxNorm", "decoupled", 2022, "the classifier learns on with the length of its rows limited"
    ),
    "lws": Entry("lws:LWS", "decoupled", 2020, "one factor for each class's scores learns"),
    "tau_norm": Entry("tau_norm:TauNorm", "decoupled", 2020, "no training: rows divided by a power of their length"),
    "ncm": Entry("ncm:NCM", "decoupled", 2020, "no training: the nearest class mean decides"),
    "logit_adjustment": Entry(
        "posthoc:PosthocLogitAdjustment",
        "decoupled",
        2021,
        "no training: tau log prior is taken from the scores",
    ),
    "risda": Entry("risda:RISDA", "implicit augmentation", 2022, "all learns on, rare classes' features augmented"),
    "metasaug": Entry(
        "metasaug:MetaSAug", "implicit augmentation", 2021, "the same, how far is learned by a meta step"
    ),
}


_given: dict[str, type[Method]] = {}  # classes that were handed over, by the name that a configuration has for them


def method_name(method: str | type[Method]) -> str:
    """What a configuration calls a method: its name, or `module:Class` of a class, which `method_class` then finds."""
    if isinstance(method, str):
        return method
    name = f"{method.__module__}:{method.__qualname__}"
    _given[name] = method
    method_class.cache_clear()
    return name


@cache
def method_class(name: str) -> type[Method]:
    """The class behind a method's name: one of `METHODS`, `module:Class`, or an installed package's entry point in the group
    `longtail.methods`. The name may end in second stages: "bcl+crt".

    Raises `UsageError`, with the nearest name, for one that does not exist, and for stages that cannot follow.
    """
    base, *then = name.split("+")
    cls: Any = _base_class(base)
    if not then:
        return cls
    from .second_stage import composed

    return composed(cls, base, tuple(then))


def _base_class(name: str) -> type[Method]:
    if name in METHODS:
        module, _, attribute = METHODS[name].where.partition(":")
        return getattr(import_module(f".{module}", __name__), attribute)
    if name not in _given and ":" not in name and name not in installed("longtail.methods"):
        raise _unknown_method(name)
    found = _given[name] if name in _given else find("method", name, "longtail.methods", METHODS)
    from .base import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"'{name}' is no method: expected a class that derives from longtail.methods.base.Method.")
    return found


def _unknown_method(name: str) -> UsageError:
    """A backbone's name is taken for one where no method's is like it."""
    error = unknown_name("method", name, {*METHODS, *installed("longtail.methods")})
    if "Did you mean" in str(error):
        return error
    from ..models import is_backbone

    if is_backbone(name):
        return UsageError(
            f"'{name}' is a backbone, not a method: name how to train it, for instance "
            f"`longtail train balanced_softmax --backbone {name}`. `longtail methods` lists the methods."
        )
    return error
