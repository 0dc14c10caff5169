"""Margin methods: which parts they have, what their logits are, and that processes which share identities agree with one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from method_cases import B, Case, without_batch_norm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from longtail.classes import Classes
from longtail.distributed import world
from longtail.engine import shards
from longtail.errors import UsageError
from longtail.losses import margin_head
from longtail.methods import method_class
from longtail.methods.base import Batch
from longtail.models import build_backbone

PLAIN = ("cosface", "arcface", "uniface")
EPL = tuple(f"{name}_epl" for name in PLAIN)
# Prototypes in the loss from the second epoch.
CASES = [Case(name) for name in PLAIN] + [Case(name, options={"start_epoch": 2}) for name in EPL]


@pytest.mark.parametrize("name", PLAIN + EPL)
def test_only_epl_forms_have_prototypes_and_only_the_backbone_is_deployed(name):
    method = Case(name).build()
    assert (method.head.prototypes is not None) == (name in EPL)
    assert method.head.variant == name.removesuffix("_epl")
    assert method.deployed == ("backbone",)
    assert not method.classifies()


def test_logits_are_scaled_cosines_with_the_rows():
    method = Case("arcface", options={"scale": 20.0}).build().eval()
    images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    rows, bias = method.classifier_rows()
    for x, logits in zip(method.features(images), method.logits(images), strict=True):
        expected = [20 * torch.cosine_similarity(x, w, dim=0) for w in method.head.weight]
        torch.testing.assert_close(logits, torch.stack(expected))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(6, dtype=torch.float64))
    assert bias is None


def test_slopes_are_kept_from_falling_below_one_hundredth_after_a_step():
    cls = method_class("cosface")
    method = cls(build_backbone("iresnet18", image_size=16), Classes(("a", "b"), (2, 1)), cls.Options())
    slopes = [part.weight for part in method.backbone.modules() if isinstance(part, nn.PReLU)]
    with torch.no_grad():
        slopes[0][0], slopes[0][1] = -0.3, 0.2
    method.after_step(Case("cosface").clock(0))
    assert slopes[0][:2].tolist() == pytest.approx([0.01, 0.2])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_learns_to_tell_a_batch_apart(case):
    method = case.build()
    batch = case.batch()
    optimiser = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        (loss,) = method.losses(batch, case.clock(2)).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_share_of_identities_too_small_for_the_processes_is_a_wrong_request(monkeypatch):
    monkeypatch.setattr(margin_head, "world", lambda: (0, 4))
    with pytest.raises(UsageError, match=r"Option sample: 0\.5 of 6 identities are too few for 4 processes"):
        Case("cosface", options={"sample": 0.5}).build()


def _train(case: Case) -> dict[str, Tensor]:
    """Three steps, each an epoch, on this process's share; the logits after them, and what a checkpoint would hold."""
    rank, size = world()
    method = without_batch_norm(case.build())
    images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    module = DistributedDataParallel(method) if size > 1 else method
    optimiser = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in range(3):
        whole = case.batch(epoch)["main"]
        part = slice(rank * B // size, (rank + 1) * B // size)
        share = Batch((whole.views[0][part],), whole.labels[part], whole.index[part])
        (loss,) = module({"main": share}, case.clock(epoch)).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    method.before_evaluation()
    logits = method.logits(images).detach()
    learning = [name for name, _ in method.named_parameters()]
    checkpoint = shards.whole({"method": method.state_dict(), "optimizer": optimiser.state_dict()}, method, learning)
    divided = shards.own(checkpoint, method, learning)
    for name, value in method.state_dict().items():
        assert divided["method"][name].equal(value), name
    for i, kept in optimiser.state_dict()["state"].items():
        assert divided["optimizer"]["state"][i]["momentum_buffer"].equal(kept["momentum_buffer"])
    return {"losses": torch.stack(losses), "logits": logits, **checkpoint["method"]} | {
        f"momentum of {i}": kept["momentum_buffer"] for i, kept in checkpoint["optimizer"]["state"].items()
    }


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save([_train(case) for case in CASES], Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[list[dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_two_processes_that_share_the_identities_equal_one(number, ranks):
    expected = _train(CASES[number])
    for rank in ranks:
        torch.testing.assert_close(rank[number], expected, rtol=1e-9, atol=1e-12)
