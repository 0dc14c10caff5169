"""longtail: train, compare and ship image classifiers on long-tailed data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import calibrate, evaluate, export, load, push_to_hub, resume, train

__all__ = ["calibrate", "evaluate", "export", "load", "push_to_hub", "resume", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `import longtail` and `longtail --help` must not pay for importing torch.
    if name in __all__:
        return getattr(import_module(".api", __name__), name)
    raise AttributeError(f"module 'longtail' has no attribute '{name}'")
