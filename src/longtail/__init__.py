"""longtail: train, compare and ship image classifiers on long-tailed data.

Whole runs: `train`, `resume`, `evaluate`, `load` and their kin. For a training loop of one's own: the modules `losses`,
`samplers` and `mixing`, the function `carve`, the class `Evaluator`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import losses, mixing, samplers
    from .api import calibrate, evaluate, export, load, push_to_hub, resume, train
    from .data.longtail import carve
    from .evaluation.accuracy import Evaluator

__all__ = [
    "Evaluator",
    "calibrate",
    "carve",
    "evaluate",
    "export",
    "load",
    "losses",
    "mixing",
    "push_to_hub",
    "resume",
    "samplers",
    "train",
]


_MODULES = ("losses", "mixing", "samplers")
_OTHERS = {"Evaluator": ".evaluation.accuracy", "carve": ".data.longtail"}


def __getattr__(name: str) -> Any:
    # `import longtail` and `longtail --help` must not pay for importing torch.
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in __all__:
        return getattr(import_module(_OTHERS.get(name, ".api"), __name__), name)
    raise AttributeError(f"module 'longtail' has no attribute '{name}'")
