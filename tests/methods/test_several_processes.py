"""Two processes on halves of a batch equal one process on all of it: losses, gradients, weights and state of every method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from method_cases import TRAINING, Case
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from longtail.distributed import world
from longtail.methods import bce3s
from longtail.methods.base import Batch

RANKS = 2
STEPS = 3
# Methods that divide their classes among the processes are compared in test_margin_methods.
CASES = [case for case in TRAINING if not case.cls.sharded]


def share(batch: Mapping[str, Batch]) -> dict[str, Batch]:
    """This process's part of the whole batch: its contiguous share, as the loaders cut it."""
    rank, size = world()

    def part(x: Tensor) -> Tensor:
        return x.chunk(size)[rank]

    return {name: Batch(tuple(map(part, b.views)), part(b.labels), part(b.index)) for name, b in batch.items()}


def average(x: Tensor) -> Tensor:
    x = x.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(x)
    return x / world()[1]


def train(case: Case, wrapped: bool) -> dict[str, Any]:
    """Losses, gradients and class subsets of a few epochs of one step, and the state they end in.

    Gradients are averaged over processes here, or by DistributedDataParallel where the method is `wrapped` in it.
    """
    method = case.build(batch_norm=False)
    module = DistributedDataParallel(method, find_unused_parameters=True) if wrapped else method
    optimiser = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    record: dict[str, Any] = {"masks": []}
    draw = bce3s.draw_class_mask

    def recorded(*arguments: Any) -> Tensor:
        record["masks"].append(draw(*arguments))
        return record["masks"][-1]

    bce3s.draw_class_mask = recorded
    for epoch in range(STEPS):
        terms = module(share(case.batch(epoch)), case.clock(epoch))
        optimiser.zero_grad()
        sum(terms.values()).backward()
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad if wrapped else average(parameter.grad)
                record[f"{epoch} gradient of {name}"] = parameter.grad.clone()
        record |= {f"{epoch} {name}": average(value) for name, value in terms.items()}
        optimiser.step()
        method.after_step(case.clock(epoch))
        method.after_epoch(case.clock(epoch))
    bce3s.draw_class_mask = draw
    return record | method.state_dict()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    runs = {(case.name, wrapped): train(case, wrapped) for case in CASES for wrapped in (False, True)}
    torch.save(runs, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "ddp"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_equal_one(case: Case, wrapped: bool, ranks: list[dict[Any, dict[str, Any]]]) -> None:
    expected = train(case, wrapped=False)
    for rank in ranks:
        # DistributedDataParallel gives a part that took no part in a step a gradient of zeros instead of none.
        actual = {name: value for name, value in rank[case.name, wrapped].items() if name in expected}
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
