"""What a run saves of itself, how it goes on from that, and how another run starts from it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import LongtailError, UsageError
from ..hardware import cores
from ..methods.base import Method
from .run import Run
from .shards import own, own_weights

logger = logging.getLogger("longtail")


@dataclass
class Progress:
    """How far a run is. `finished` names the stages that need not be run (again); `epoch` and `step` are the next to do;
    `lines` of metrics are written; `totals` are the loss terms summed over the steps of an epoch that was interrupted;
    `trained` says how many epochs each finished stage took; `best` belongs to the authors' protocol."""

    finished: list[str] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    lines: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)


def identity(name: str, method: Method) -> dict[str, Any]:
    """What a checkpoint says of the method called `name` beside its weights: enough to match them to another's."""
    kinds = {part: type(module).__name__ for part, module in method.named_children()}
    return {"method_name": name, "classes": list(method.classes.names), "kinds": kinds}


def load_state(run: Run, method_name: str) -> dict[str, Any]:
    """The run's checkpoint. Raises `UsageError` where it is of another method."""
    state = run.load_checkpoint()
    if state["method_name"] != method_name:
        raise UsageError(
            f"{run.checkpoint_file} is a checkpoint of '{state['method_name']}', "
            f"not of '{method_name}', which {run.config_file.name} beside it names."
        )
    return state


def progress_of(run: Run, state: Mapping[str, Any]) -> Progress:
    """Raises `UsageError` where another version wrote it, `LongtailError` where nobody can have come so far."""
    try:
        progress = Progress(**state["progress"])
    except TypeError:
        raise UsageError(
            f"{run.checkpoint_file} was written by another version of longtail, which alone can go on with it. "
            "Its weights can still start a new run: --from."
        ) from None
    if not _is_possible(progress):
        raise LongtailError(f"{run.checkpoint_file} is damaged: its 'progress' is none that a run can have made.")
    return progress


def _is_possible(progress: Progress) -> bool:
    counts = (progress.epoch, progress.step, progress.lines)
    return (
        all(type(count) is int and 0 <= count < 2**53 for count in counts)
        and isinstance(progress.finished, list)
        and all(isinstance(name, str) for name in progress.finished)
        and isinstance(progress.seconds, (int, float))
        and 0 <= progress.seconds < math.inf
        and isinstance(progress.totals, dict)
        and all(isinstance(value, float) for value in progress.totals.values())
        and isinstance(progress.trained, dict)
        and all(type(epochs) is int and 0 <= epochs < 2**53 for epochs in progress.trained.values())
        and isinstance(progress.best, dict)
        and all(isinstance(best, dict) and {"top1", "line"} <= best.keys() for best in progress.best.values())
    )


def train_on(progress: Progress, run: Run, epochs: Mapping[str, int]) -> bool:
    """Have a finished run's last stage go on where its config asks for more epochs by now; whether it does.

    `epochs`: how many each stage of the run's config has, by name. Raises `UsageError` where one has fewer than it was
    trained for, or where another stage was trained since on what the one with more had learned.
    """
    for name in progress.finished:
        if epochs.get(name, math.inf) < progress.trained.get(name, 0):
            raise UsageError(
                f"{run.path} has trained for {progress.trained[name]} epochs in stage {name}, more than {epochs[name]}: a "
                "shorter training is one of its own, in another folder."
            )
    more = [name for name in progress.finished if epochs.get(name, 0) > progress.trained.get(name, math.inf)]
    if not more:
        return False
    name, done = more[0], progress.trained[more[0]]
    if name != progress.finished[-1] or progress.epoch or progress.step:
        raise UsageError(
            f"{run.config_file} asks for {epochs[name]} epochs of stage {name}, which ended after {done}, and later stages were "
            f"trained on what it had learned. Train anew in another folder, for instance with --from {run.path} --stages {name}."
        )
    progress.finished.remove(name)
    progress.epoch = done
    logger.info(
        "stage %s was trained for %d epochs and goes on to %d: from here on with the learning rates of a schedule of %d",
        name, done, epochs[name], epochs[name],
    )  # fmt: skip
    return True


def same_threads(run: Run) -> None:
    """Compute with as many threads as the run was begun with: they decide in which order numbers are added up, and with it
    the last bits of the weights. Where that cannot be, or OMP_NUM_THREADS says otherwise, a warning is logged."""
    then, now = (run.environment() or {}).get("threads"), torch.get_num_threads()
    if not isinstance(then, int) or then == now:
        return
    if 0 < then <= cores() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(then)
        logger.info("computing with %d threads, as the run was begun, not %d", then, now)
    else:
        logger.warning(
            "the run was begun with %d threads and goes on with %d: its weights will not be those of an uninterrupted run to "
            "the last bit. OMP_NUM_THREADS=%d gives the same.", then, now, then,
        )  # fmt: skip


def check_within(progress: Progress, run: Run, stage: str, epochs: int, steps: int | None = None) -> None:
    """Raise `UsageError` where a checkpoint is further than its stage goes, which has `epochs` of `steps` (where known)."""
    too_far = steps is not None and progress.step > steps
    if too_far or progress.epoch > epochs or (progress.epoch == epochs and progress.step):
        length = f"{epochs} epochs" + ("" if steps is None else f" of {steps} steps")
        raise UsageError(
            f"{run.checkpoint_file} is at epoch {progress.epoch}, step {progress.step} of stage {stage}, which has {length}: "
            f"was {run.config_file.name} changed? Bring it back, or train anew in another folder."
        )


def own_state(run: Run, state: Mapping[str, Any], method: Method, learning: list[str]) -> dict[str, Any]:
    """This process's part of its run's checkpoint, see `own`. Raises `LongtailError` where it has none."""
    try:
        return own(state, method, learning)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise LongtailError(
            f"{run.checkpoint_file} is damaged: what it says of the optimiser does not fit the weights."
        ) from error


def restore_optimizer(optimizer: torch.optim.Optimizer, run: Run, state: Any) -> None:
    """Give `optimizer` the state of its own run's checkpoint. Raises `LongtailError` where it is of other weights."""
    try:
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for value in optimizer.state[parameter].values():
                    if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                        raise ValueError("other shapes")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise LongtailError(
            f"{run.checkpoint_file} is damaged: what it says of the optimiser does not fit the weights."
        ) from error


def restore(method: Method, run: Run, weights: Mapping[str, Tensor]) -> None:
    """Give `method` the weights of its own run's checkpoint. Raises `UsageError` where they do not fit."""
    try:
        method.load_state_dict(own_weights(weights, method))
    except RuntimeError as error:
        raise UsageError(
            f"{run.checkpoint_file} does not fit {run.config_file.name} and the data: were they changed "
            f"since the run started? {str(error).splitlines()[-1].strip()}"
        ) from error


def check_trained(source: Run, progress: Progress) -> None:
    """Raise `LongtailError` where `source`, a run to start from, has not trained for an epoch."""
    if not progress.lines:
        raise LongtailError(f"{source.path} has not finished an epoch: there is nothing to start from yet.")


def stages_done(source: Run, method_name: str, learned_before: tuple[str, ...]) -> list[str]:
    """The stages that a run of `method_name` need not do where it starts from `source`.

    Raises `LongtailError` where `source` has not trained for an epoch.
    """
    state = source.load_checkpoint()
    progress = progress_of(source, state)
    check_trained(source, progress)
    if f"{method_name}+".startswith(f"{state['method_name']}+"):  # the same, or going on with second stages
        return progress.finished
    return list(learned_before)


@torch.no_grad()
def start_from(method: Method, source: Run, load: bool = True) -> None:
    """Take another run's weights, and log which: parts of the same name, kind and shape; of classifiers the rows of the
    classes that both have, by name. Without `load`, only see whether they fit.

    What belongs to classes, in a part or in a buffer of the method, is not taken where the classes are others or in
    another order. Raises `UsageError` where the two runs' backbones differ, or there is no classifier to go on with, and
    `LongtailError` where `source` has not trained for an epoch.
    """
    state = source.load_checkpoint()
    check_trained(source, progress_of(source, state))
    if not {"classes", "kinds"} <= state.keys():
        raise UsageError(
            f"{source.checkpoint_file} was written by an earlier version of longtail: train that run anew."
        )
    theirs, ours = own_weights(state["method"], method), method.state_dict()
    names = tuple(state["classes"])
    same_classes, position = names == method.classes.names, {name: i for i, name in enumerate(names)}
    shared = [(i, position[name]) for i, name in enumerate(method.classes.names) if name in position]
    children = dict(method.named_children())
    taken: dict[str, Tensor] = {}
    by_row = set()
    for name, value in ours.items():
        part, other = name.split(".")[0], theirs.get(name)
        if other is None or state["kinds"].get(part) != (type(children[part]).__name__ if part in children else None):
            continue
        has_rows = part in children and hasattr(children[part], "rows")
        of_classes = has_rows or (part not in children and value.shape[:1] == (len(method.classes),))
        if same_classes or not of_classes:
            if other.shape == value.shape:
                taken[name] = other
        elif has_rows and shared and other.shape[1:] == value.shape[1:] and len(other) == len(names):
            to, at = (list(places) for places in zip(*shared, strict=True))
            taken[name] = value.index_copy(0, torch.tensor(to, device=value.device), other[at].to(value))
            by_row.add(part)
    absent = [name for name in ours if name.split(".")[0] in method.needed_from and name not in taken]
    if absent and not absent[0].startswith("backbone."):
        raise UsageError(
            f"{source.path} has no {absent[0].split('.')[0]} to go on with: it is of another kind, shape or set of classes. "
            f"Go on with that run as it is, by longtail train --from {source.path} --then STAGE, or start from another."
        )
    if absent:
        raise UsageError(
            f"{source.path} has another backbone ({source.config().backbone}), or grey images where these are RGB: "
            f"'{absent[0]}' does not fit."
        )
    if not load:
        return
    method.load_state_dict(taken, strict=False)
    parts = list(dict.fromkeys(name.split(".")[0] for name in ours))
    fresh = [part for part in parts if any(name.split(".")[0] == part and name not in taken for name in ours)]
    whole = [part for part in parts if part not in fresh and part not in by_row]
    logger.info(
        "started from %s: took %s%s%s", source.path, ", ".join(whole),
        f"; of {', '.join(sorted(by_row))} the rows of {_listed([method.classes.names[i] for i, _ in shared])}" if by_row else "",
        f"; newly initialised: {', '.join(fresh)}" if fresh else "",
    )  # fmt: skip
    if not same_classes:
        new = [name for name in method.classes.names if name not in position]
        gone = [name for name in names if name not in method.classes.names]
        logger.warning(
            "the classes of %s are not the same%s%s", source.path,
            f"; new here: {_listed(new)}" if new else "", f"; only there: {_listed(gone)}" if gone else "",
        )  # fmt: skip


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
