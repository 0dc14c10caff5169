"""Two processes on halves of a batch equal one process on all of it: losses, gradients, class memory, class subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from contrast_cases import CONTRAST_CASES
from loss_cases import CASES, B, C, Case, D
from torch import Tensor

from longtail import distributed
from longtail.distributed import all_gather_with_grad, gather_rows, world
from longtail.losses.bce3s import draw_class_mask, update_class_memory

RANKS = 2
GATHERED = [*CASES, *CONTRAST_CASES]


def part_of(x: Tensor, axes: str) -> Tensor:
    """This process's share of `x` along its batch axis."""
    rank, size = world()
    return x.chunk(size)[rank] if axes.startswith("b") else x


def run_case(case: Case) -> tuple[Tensor, list[Tensor]]:
    inputs = [part_of(x.detach(), axes) for x, axes in zip(case.inputs_as(torch.float64), case.axes, strict=True)]
    for i in case.learned:
        inputs[i].requires_grad_()
    return case.run(inputs)


def run_state() -> dict[str, Tensor]:
    """Three steps of class memory and class subset."""
    draw = torch.Generator().manual_seed(1)
    memory, seen, masks = torch.zeros(C, D), torch.zeros(C, dtype=torch.bool), []
    for _ in range(3):
        labels, features = torch.randint(C - 1, (B,), generator=draw), torch.randn(B, D, generator=draw)
        masks.append(draw_class_mask(part_of(labels, "b"), 0.8, torch.rand(2, C, generator=draw)))
        update_class_memory(memory, seen, part_of(features, "bd"), part_of(labels, "b"))
    return {"memory": memory, "seen": seen, "masks": torch.stack(masks)}


def run_all() -> dict[str, Any]:
    return {"state": run_state(), **{case.name: run_case(case) for case in GATHERED}}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    torch.save(run_all(), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", GATHERED, ids=lambda case: case.name)
def test_losses_and_gradients(case: Case, ranks: list[dict[str, Any]]) -> None:
    value, gradients = run_case(case)
    values, rank_gradients = zip(*(rank[case.name] for rank in ranks), strict=True)
    torch.testing.assert_close(sum(values) / RANKS, value)
    # DDP averages parameter gradients. A sample is on one rank only; what all ranks share is on each.
    for i, gradient, shares in zip(case.learned, gradients, zip(*rank_gradients, strict=True), strict=True):
        whole = torch.cat(shares) if case.axes[i].startswith("b") else sum(shares)
        torch.testing.assert_close(whole / RANKS, gradient)


def test_memory_and_subset(ranks: list[dict[str, Any]]) -> None:
    expected = run_state()
    for rank in ranks:
        for name, tensor in expected.items():
            assert torch.equal(rank["state"][name], tensor), name


def test_one_process_gathers_nothing() -> None:
    x = torch.randn(3, 2)
    assert world() == (0, 1)
    assert all_gather_with_grad(x) is x
    assert gather_rows(x, 3) is x


@pytest.mark.parametrize("count", [5, 6, 8])
def test_rows_of_all_processes_are_put_together_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, shards = torch.randn(count, 3), []
    for rank in range(4):
        monkeypatch.setattr(distributed, "world", lambda rank=rank: (rank, 4))
        first, last = distributed.part(count)
        shards.append(whole[first:last])
    longest = max(map(len, shards))
    padded = torch.cat([torch.nn.functional.pad(shard, (0, 0, 0, longest - len(shard))) for shard in shards])
    monkeypatch.setattr(distributed, "all_gather_with_grad", lambda own: padded)
    assert gather_rows(shards[-1], count).equal(whole)
