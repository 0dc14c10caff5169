from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp

from longtail.losses import margin_head
from longtail.losses.margin_head import Epl, MarginHead
from longtail.losses.prototypes import update_prototypes

VARIANTS = ("cosface", "arcface", "uniface")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _unit(*size: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*size, dtype=torch.float64), dim=-1)


def _update_one_by_one(prototypes: Tensor, x: Tensor, labels: Tensor, gate: str) -> Tensor:
    prototypes = prototypes.clone()
    for sample, label in zip(x, labels.tolist(), strict=True):
        cosine = (sample @ prototypes[label]).item()
        a = cosine / (1 + abs(cosine)) if gate == "softsign" else 1 / (1 + math.exp(-cosine))
        moved = a * prototypes[label] + (1 - a) * sample
        prototypes[label] = moved / moved.norm()
    return prototypes


@pytest.mark.parametrize("gate", ["softsign", "sigmoid"])
def test_repeated_identities_update_their_prototype_once_per_sample_in_batch_order(gate):
    prototypes, x, labels = _unit(6, 8), _unit(9, 8), torch.tensor([4, 2, 4, 0, 4, 2, 5, 2, 4])
    expected = _update_one_by_one(prototypes, x, labels, gate)
    backwards = _update_one_by_one(prototypes, x.flip(0), labels.flip(0), gate)
    assert not torch.allclose(expected, backwards)  # the order matters, so the test can tell
    update_prototypes(prototypes, x, labels, gate)
    torch.testing.assert_close(prototypes, expected)


def test_a_zero_embedding_moves_no_prototype():
    prototypes = _unit(3, 4)
    before = prototypes.clone()
    update_prototypes(prototypes, torch.zeros(2, 4, dtype=torch.float64), torch.tensor([1, 1]))
    assert prototypes.equal(before)


def _brute_force(head: MarginHead, x: Tensor, labels: Tensor, started: bool, among: list[int]) -> float:
    """The loss one number at a time, in Python floats, over the identities `among`."""
    angular, s = head.variant == "arcface", head.scale

    def row(cosines: list[float], label: int, adaptive: float, margin: float) -> float:
        positive = cosines[label] * (1 - adaptive)
        positive = math.cos(math.acos(positive) + margin) if angular else positive - margin
        negatives = [cosines[j] for j in among if j != label]
        if head.bias is None:
            return math.log(1 + sum(math.exp(s * (n - positive)) for n in negatives))
        terms = [s * n - head.bias.item() for n in negatives] + [head.bias.item() - s * positive]
        return sum(math.log1p(math.exp(max(-s, min(s, term)))) for term in terms)

    total = 0.0
    for sample, label in zip(x, labels.tolist(), strict=True):
        total += row([torch.cosine_similarity(sample, w, dim=0).item() for w in head.weight], label, 0.0, head.margin)
        if started:
            cosines = (head.prototypes @ sample / sample.norm()).tolist()
            total += row(cosines, label, head.epl.k, 0.0 if head.variant == "cosface" else head.margin)
    return total / (len(x) * (1 + started))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sample", [1.0, 0.5])
def test_head_against_brute_force_with_and_without_sampling(variant, sample):
    head = MarginHead(12, 5, variant, epl=Epl(start_epoch=2), sample=sample).double()
    x, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([7, 1, 7, 3])
    for epoch in (0, 1):
        among = list(range(12)) if sample == 1 else head._sample(labels, torch.Generator().manual_seed(epoch)).tolist()
        loss = head(x, labels, epoch, torch.Generator().manual_seed(epoch))
        assert loss.item() == pytest.approx(_brute_force(head, x, labels, started=epoch == 1, among=among), rel=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_head(variant):
    # An exact gradient exists only with ArcFace's exact derivative and without the detached adaptive margin.
    head = MarginHead(6, 4, variant, epl=Epl(k=0.0, start_epoch=1), scale=8.0, angular_gradient="exact").double().eval()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([5, 0, 5])
    assert torch.autograd.gradcheck(lambda x, _: head(x, labels, 0), (x, head.weight))


def test_adaptive_margin_has_no_gradient_and_prototypes_learn_only_from_samples():
    head = MarginHead(6, 4, epl=Epl(k=0.7, start_epoch=1)).double().eval()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([5, 0, 5])
    before = head.prototypes.clone()
    head(x, labels, 0).backward()
    assert head.prototypes.equal(before)  # evaluation mode leaves them
    assert head.prototypes.grad is None
    assert "prototypes" not in dict(head.named_parameters())

    cosine = torch.nn.functional.normalize(x, dim=1) @ head.prototypes.T
    target = torch.nn.functional.one_hot(labels, 6)
    lowered = 64 * (cosine - 0.7 * (cosine * target).detach())
    other = torch.nn.functional.cross_entropy(lowered, labels, reduction="sum") / 6
    plain = MarginHead(6, 4).double()
    plain.load_state_dict({"weight": head.weight})
    expected = torch.autograd.grad(other + plain(x, labels, 0) / 2, x)[0]
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_the_batch_and_of_the_identities_does_not_matter(variant):
    head = MarginHead(7, 5, variant, epl=Epl(start_epoch=1)).double()
    prototypes, weight = head.prototypes.clone(), head.weight.detach().clone()
    x, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([6, 2, 0, 3])
    loss = head(x, labels, 0)
    after = head.prototypes.clone()

    batch, identity = torch.randperm(4), torch.randperm(7)
    head.load_state_dict({**head.state_dict(), "weight": weight[identity], "prototypes": prototypes[identity]})
    torch.testing.assert_close(head(x[batch], identity.argsort()[labels[batch]], 0), loss)
    torch.testing.assert_close(head.prototypes, after[identity])


def test_zero_embedding_gives_a_finite_loss_and_no_gradient():
    head = MarginHead(6, 4, epl=Epl(start_epoch=1))
    x = torch.randn(2, 4)
    x[0] = 0
    loss = head(x.requires_grad_(), torch.tensor([1, 2]), 5)
    loss.backward()
    assert loss.isfinite()
    assert x.grad[0].eq(0).all()
    assert x.grad[1].ne(0).any()


def test_sampling_takes_every_identity_of_the_batch_and_a_random_share_of_the_others():
    head = MarginHead(1000, 2, sample=0.1)
    labels = torch.tensor([3, 999, 3, 500])
    drawn = [head._sample(labels, torch.Generator().manual_seed(seed)) for seed in range(200)]
    for chosen in drawn:
        assert len(chosen) == len(chosen.unique()) == 100
        assert torch.isin(labels, chosen).all()
        assert chosen.equal(chosen.sort().values)
    others = torch.cat(drawn).bincount(minlength=1000)[torch.arange(1000) != 999]
    share = others[[i for i in range(999) if i not in (3, 500)]].double() / 200
    assert share.mean().item() == pytest.approx(97 / 997, rel=1e-9)
    assert share.max().item() < 0.25  # seven standard deviations
    assert drawn[0].equal(head._sample(labels, torch.Generator().manual_seed(0)))
    assert not drawn[0].equal(drawn[1])


def test_more_identities_in_a_batch_than_the_share_are_all_kept():
    head = MarginHead(100, 2, sample=0.01)
    labels = torch.arange(10, 20)
    assert head._sample(labels, torch.Generator().manual_seed(0)).equal(labels)


def test_sampling_needs_a_generator():
    with pytest.raises(ValueError, match="generator"):
        MarginHead(100, 2, sample=0.1)(torch.randn(1, 2), torch.tensor([0]), 0)


def test_sampling_may_leave_no_process_without_identities(monkeypatch):
    monkeypatch.setattr(margin_head, "world", lambda: (0, 4))
    MarginHead(2560, 2, sample=0.1)
    with pytest.raises(ValueError, match="too few for 4 processes"):
        MarginHead(2559, 2, sample=0.1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_head_without_prototypes_and_sampling_compiles_without_a_graph_break(variant):
    head = MarginHead(9, 4, variant)
    x, labels = torch.randn(3, 4), torch.tensor([8, 0, 8])
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, labels, 0), head(x, labels, 0))


IDENTITIES, DIM, BATCH = 301, 6, 8


def _train(rank: int, world: int, variant: str, sample: float) -> dict[str, Tensor]:
    """Three SGD steps of a linear backbone and a head, on this process's share of each batch, averaging as DDP does."""
    torch.manual_seed(1)
    head = MarginHead(IDENTITIES, DIM, variant, epl=Epl(start_epoch=2), sample=sample).double()
    backbone = torch.nn.Linear(10, DIM).double()
    replicated = [*backbone.parameters(), *([head.bias] if head.bias is not None else [])]
    optimiser = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    data = torch.Generator().manual_seed(2)
    losses = []
    for step in range(3):
        images = torch.randn(BATCH, 10, dtype=torch.float64, generator=data).chunk(world)[rank]
        # Few identities, on both sides of the border between the processes, so that some repeat within a batch.
        labels = torch.randint(146, 154, (BATCH,), generator=data).chunk(world)[rank]
        loss = head(backbone(images), labels, epoch=step, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        for parameter in replicated if world > 1 else []:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world
        optimiser.step()
        losses.append(loss.detach())
    return {
        "losses": torch.stack(losses),
        "backbone": backbone.weight.detach(),
        "bias": torch.zeros(1) if head.bias is None else head.bias.detach(),
        "weight": head.weight.detach(),
        "prototypes": head.prototypes,
    }


CASES = [(variant, sample) for variant in VARIANTS for sample in (1.0, 0.5)]


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save([_train(rank, 2, *case) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[list[dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(_worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: f"{CASES[i][0]}-{CASES[i][1]}")
def test_two_processes_equal_one(two_processes, case):
    expected = _train(0, 1, *CASES[case])
    ranks = [results[case] for results in two_processes]
    for key in ("losses", "backbone", "bias"):
        for rank in ranks:
            torch.testing.assert_close(rank[key], expected[key])
    for key in ("weight", "prototypes"):
        assert 0 < len(ranks[0][key]) < IDENTITIES
        torch.testing.assert_close(torch.cat([rank[key] for rank in ranks]), expected[key])
