"""The losses on a classifier's scores that papers propose, each `PlainMethod` with their defaults."""

from __future__ import annotations

from .options import with_defaults
from .plain import PlainMethod, PlainOptions


class BalancedSoftmax(PlainMethod):
    """Ren et al., Balanced Meta-Softmax, NeurIPS 2020, eq. 4: softmax over logits plus log class counts."""

    Options = with_defaults(PlainOptions, loss="balanced_softmax")
    variants = ()


class LogitAdjustment(PlainMethod):
    """Menon et al., ICLR 2021, eq. 10."""

    Options = with_defaults(PlainOptions, loss="logit_adjusted")
    main_weight = ("tau", (1.0, 0.5, 1.5))
    variants = ()


class Focal(PlainMethod):
    """Lin et al., ICCV 2017, with softmax probabilities, as LDAM's authors compare with it."""

    Options = with_defaults(PlainOptions, loss="focal")
    main_weight = ("gamma", (1.0, 0.5, 2.0))
    variants = ()


class LDAM(PlainMethod):
    """LDAM-DRW: Cao et al., NeurIPS 2019."""

    Options = with_defaults(PlainOptions, loss="ldam", classifier="cosine", reweight="deferred")
    main_weight = ("max_margin", (0.5, 0.3, 0.8))
    variants = ({"reweight": "none", "sampler": "effective_number"},)


class ClassBalanced(PlainMethod):
    """Class-balanced focal loss: Cui et al., CVPR 2019. With loss=bce its sigmoid form, with loss=ce its softmax form."""

    Options = with_defaults(PlainOptions, loss="sigmoid_focal", reweight="always", weight_mean="batch")
    main_weight = ("beta", (0.9999, 0.99, 0.999))
    variants = ({"loss": "bce"}, {"loss": "ce"})
