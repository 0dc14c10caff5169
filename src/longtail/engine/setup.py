"""Where and how a method computes: devices, precision, memory layout, compilation. Decided here for training and scoring."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from ..config import TrainConfig
from ..errors import LongtailError, UsageError
from ..hardware import computes_bf16
from ..memory import keep_freed_memory
from ..methods.base import Method, Stage
from ..models.depthwise import learn_depthwise_in_float32


def make_fabric(train: TrainConfig) -> Fabric:
    """The devices that the run trains on. Raises `UsageError` where they cannot be had."""
    torch.use_deterministic_algorithms(train.deterministic)
    # Batches are of one shape: it pays to try which of a GPU's convolutions is fastest.
    torch.backends.cudnn.benchmark = not train.deterministic
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses
    try:
        fabric = Fabric(
            accelerator=train.accelerator,
            devices=train.devices,
            # Methods skip parts in some epochs (BCE3S its projector in the first), which DDP must be told to expect.
            strategy=DDPStrategy(find_unused_parameters=True) if train.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"Cannot use {train.devices} device(s) of train.accelerator={train.accelerator}: {error}"
        ) from error
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


def use_bf16(train: TrainConfig, device: torch.device) -> bool:
    """Whether backbones compute under bf16 autocast: as asked, or where the device has instructions for it."""
    return computes_bf16(device) if train.precision == "auto" else train.precision == "bf16"


def set_precision(method: Method, train: TrainConfig, device: torch.device) -> None:
    """Let every backbone in `method` compute in the run's precision."""
    precision = torch.bfloat16 if use_bf16(train, device) else None
    for backbone in method.backbones():
        backbone.precision = precision


def place(method: Method, train: TrainConfig, device: torch.device) -> None:
    """Put `method` on the device, in the run's precision and layout."""
    set_precision(method, train, device)
    if device.type == "cpu":
        learn_depthwise_in_float32(method)
    method.to(device)
    if train.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def built_to_learn(method: Method) -> frozenset[str]:
    """The parameters that a newly built method lets learn: a momentum encoder's, say, are built not to."""
    return frozenset(name for name, parameter in method.named_parameters() if parameter.requires_grad)


def freeze_all_but(method: Method, stage: Stage, able: frozenset[str]) -> dict[str, torch.nn.Parameter]:
    """Have require gradients what `stage` trains of the parameters that are `able` to learn, and nothing else.

    Returns it by name.
    """
    wanted = ("",) if stage.trains is None else stage.trains
    parameters = dict(method.named_parameters(remove_duplicate=False))  # one that two parts share has two names
    for part in wanted:
        if not any(within(name, part) for name in parameters):
            raise ValueError(f"stage '{stage.name}' trains '{part}': {type(method).__name__} has no such parameters")
    learns = {id(value) for name, value in parameters.items() if any(within(name, part) for part in wanted)}
    learns -= {id(value) for name, value in parameters.items() if any(within(name, part) for part in stage.frozen)}
    method.requires_grad_(False)
    learning = {name: value for name, value in method.named_parameters() if name in able and id(value) in learns}
    for parameter in learning.values():
        parameter.requires_grad_(True)
    return learning


def within(name: str, part: str) -> bool:
    """Whether the parameter, buffer or module `name` is of `part`, "" being all."""
    return not part or name == part or name.startswith(f"{part}.")


def set_train_mode(method: Method, stage: Stage) -> None:
    """Put the submodules that the stage says in training mode, the rest in evaluation mode."""
    modules = dict(method.named_modules())
    method.eval()
    for part in stage.in_train_mode:
        if part in modules:  # single parameters have no mode
            modules[part].train()


@contextmanager
def telling_why_nothing_compiles(compiled: bool) -> Iterator[None]:
    """Raise `LongtailError` where `torch.compile` fails within."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().split("\n\n")[0].split())
        raise LongtailError(
            f"train.compile=true, but torch.compile failed: {reason}. It needs a C++ compiler, such as g++: install one, "
            "or train with train.compile=false."
        ) from error
