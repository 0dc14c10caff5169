"""Checkpoints are whole: what processes divide among them is put together to be saved, and divided again to be loaded.

So a run that was stopped on four devices can be resumed, or started from, on any number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..distributed import gather_rows, part
from ..methods.base import Method

Rows = Callable[[Tensor], Tensor]


def whole(state: Mapping[str, Any], method: Method, learning: Sequence[str]) -> dict[str, Any]:
    """A checkpoint of which every process gives its own `state`. Every process must call it.

    `learning`: the names of the parameters in the optimiser, in its order.
    """
    return _convert(state, method, learning, lambda rows: gather_rows(rows, len(method.classes)))


def own(state: Mapping[str, Any], method: Method, learning: Sequence[str]) -> dict[str, Any]:
    """This process's part of a whole checkpoint."""
    return _convert(state, method, learning, _own_rows)


def own_weights(weights: Mapping[str, Tensor], method: Method) -> dict[str, Tensor]:
    """This process's part of a checkpoint's weights."""
    return _convert_weights(weights, method, _own_rows)


def _own_rows(rows: Tensor) -> Tensor:
    first, last = part(len(rows))
    return rows[first:last]


def _convert(state: Mapping[str, Any], method: Method, learning: Sequence[str], convert: Rows) -> dict[str, Any]:
    """`state` with `convert` applied to what `method` divides, and what the optimiser remembers of it."""
    state = {**state, "method": _convert_weights(state["method"], method, convert)}
    if "averaged" in state:
        state["averaged"] = _convert_weights(state["averaged"], method, convert)
    if "optimizer" in state:
        memory = {
            i: {
                key: convert(value) if learning[i] in method.sharded and value.dim() else value
                for key, value in kept.items()
            }
            for i, kept in state["optimizer"]["state"].items()
        }
        state["optimizer"] = {**state["optimizer"], "state": memory}
    return state


def _convert_weights(weights: Mapping[str, Tensor], method: Method, convert: Rows) -> dict[str, Tensor]:
    # An average of the weights has each name once more, under "module".
    return {
        name: convert(value) if name.removeprefix("module.") in method.sharded else value
        for name, value in weights.items()
    }
