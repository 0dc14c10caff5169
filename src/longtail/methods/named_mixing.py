"""The mixing of images that papers propose, each `PlainMethod` with their defaults: see `mixing` for what each does."""

from __future__ import annotations

from .options import with_defaults
from .plain import PlainMethod, PlainOptions


class MixUp(PlainMethod):
    """Zhang et al., ICLR 2018."""

    Options = with_defaults(PlainOptions, mix="mixup")
    main_weight = ("mix_alpha", (1.0, 0.2, 0.4))
    variants = ()


class CutMix(PlainMethod):
    """Yun et al., ICCV 2019."""

    Options = with_defaults(PlainOptions, mix="cutmix")
    main_weight = ("mix_alpha", (1.0, 0.2, 0.5))
    variants = ()


class Remix(PlainMethod):
    """Chou et al., ECCV workshops 2020."""

    Options = with_defaults(PlainOptions, mix="remix")
    main_weight = ("mix_alpha", (1.0, 0.2, 0.4))
    variants = ()


class CMO(PlainMethod):
    """Context-rich minority oversampling: Park et al., CVPR 2022."""

    Options = with_defaults(PlainOptions, mix="cmo")
    main_weight = ("mix_prob", (0.5, 0.3, 1.0))
    variants = ({"loss": "ldam", "classifier": "cosine", "reweight": "deferred", "mix_pause": 0, "mix_prob": 1.0},)
