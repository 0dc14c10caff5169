"""Golden vectors: inputs, outputs and gradients of the authors' own implementations, and how agreement is judged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parent))


@pytest.fixture
def golden() -> Callable[[str], dict[str, Tensor]]:
    """``golden("supcon")`` reads that vector; the test is skipped where a custom GOLDEN_DIR does not have it.

    Floating arrays become float32 and integer arrays int64, as training sees them; arrays of strings are left out.
    """

    def load(name: str) -> dict[str, Tensor]:
        path = GOLDEN_DIR / f"{name}.npz"
        if "GOLDEN_DIR" in os.environ and not path.exists():
            pytest.skip(f"{path} is not there: GOLDEN_DIR was set to a folder without this vector")
        with np.load(path, allow_pickle=False) as arrays:
            return {
                key: torch.from_numpy(value.astype(np.float32 if value.dtype.kind == "f" else np.int64))
                for key, value in arrays.items()
                if value.dtype.kind in "fiub"
            }

    return load


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected (over 1e-12 where that is all zeros)."""
    difference = (actual.detach().double() - expected.double()).norm()
    return (difference / expected.double().norm().clamp(min=1e-12)).item()


@pytest.fixture
def assert_close_relative() -> Callable[..., None]:
    """``assert_close_relative(actual, expected, 1e-4)``: same shape, and a relative error (in norm) of at most that."""

    def check(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) <= tolerance

    return check
