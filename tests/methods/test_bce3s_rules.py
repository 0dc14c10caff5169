"""BCE3S's own rules: the ablation, the first epoch, the class memory, the class subset."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_cases import COUNTS, B, Case
from torch import Tensor

from longtail.methods import bce3s

C = len(COUNTS)


def inputs(method: Any, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of three views, pairs of different labels, and their shares."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randint(C, (B,), generator=draw)
    labels = torch.stack([first, (first + 1 + torch.randint(C - 1, (B,), generator=draw)) % C], 1)
    features = torch.randn(3 * B, method.backbone.dim, generator=draw, dtype=torch.float64, requires_grad=True)
    return features, labels, torch.tensor([0.7, 0.3], dtype=torch.float64).expand(B, 2)


def loop_bce(logits: Tensor, targets: Tensor, mask: Tensor, weight: float = 1.0) -> Tensor:
    """Positives by their share, negatives where there is none, one number at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for row, target in zip(logits, targets, strict=True):
        for c in range(C):
            if mask[c]:
                total += target[c] * F.softplus(-row[c]) if target[c] > 0 else weight * F.softplus(row[c])
    return total / len(logits)


def soft_ce(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    chosen = logits[:, mask].log_softmax(1)
    return -(targets[:, mask] * chosen).sum(1).mean()


@pytest.mark.parametrize("form", ["bce", "ce"])
def test_terms_are_those_of_plain_loops(form: str) -> None:
    options = {"joint": form, "contrastive": form, "uniform": form, "tau": 0.5, "contrastive_weight": 0.3}
    method: Any = Case("bce3s", options=options | {"negative_weight": 0.7, "uniform_weight": 2.0}).build()
    features, labels, shares = inputs(method)
    mask = torch.tensor([True, True, True, True, False, True])
    labels[labels == 4] = 0  # the subset has every class of the batch
    labels[labels[:, 0] == labels[:, 1], 1] = 5
    filled = torch.tensor([True, True, True, True, False, True])
    method.memory.normal_(generator=torch.Generator().manual_seed(1))
    method.seen.copy_(filled)
    memory = method.memory.clone()

    terms = method.terms(features, labels, shares, mask, epoch=1)

    plain, mixup, cutmix = features.detach().chunk(3)
    hard = F.one_hot(labels[:, 0], C).double()
    soft = 0.7 * hard + 0.3 * F.one_hot(labels[:, 1], C)
    everything = torch.ones(C, dtype=torch.bool)
    rows = F.normalize(method.classifier.weight.detach())
    bias, unit = method.classifier.bias.detach(), torch.eye(C, dtype=torch.float64)

    def loss(logits: Tensor, target: Tensor, classes: Tensor, weight: float = 1.0) -> Tensor:
        return loop_bce(logits, target, classes, weight) if form == "bce" else soft_ce(logits, target, classes)

    views = [
        (plain, hard, mask if form == "bce" else everything),
        (mixup, soft, everything),
        (cutmix, soft, everything),
    ]
    joint = sum(loss(x @ rows.T + bias, target, classes, 0.7) for x, target, classes in views) / 3
    cosines = [F.normalize(method.projector(x).detach()) @ F.normalize(memory).T / 0.5 for x in (mixup, cutmix)]
    contrastive = 0.3 * sum(loss(cosine, soft, filled) for cosine in cosines)
    expected = {"joint": joint, "contrastive": contrastive, "uniform": 2 * loss(rows @ rows.T, unit, everything)}
    torch.testing.assert_close({name: value.detach() for name, value in terms.items()}, expected)


@pytest.mark.parametrize("term", ["joint", "contrastive", "uniform"])
def test_each_term_can_be_switched_off(term: str) -> None:
    whole, without = Case("bce3s"), Case("bce3s", options={term: "off"})
    expected, actual = (
        [method.losses(case.batch(epoch), case.clock(epoch)) for epoch in (0, 1)][1]
        for case, method in ((case, case.build()) for case in (whole, without))
    )
    assert set(expected) - set(actual) == {term}
    torch.testing.assert_close(actual, {name: expected[name] for name in actual})


def test_contrast_starts_in_the_second_epoch_with_the_memory_of_the_first() -> None:
    case = Case("bce3s")
    method: Any = case.build_plain()
    batch = case.batch()
    assert not method.seen.any()
    assert set(method.losses(batch, case.clock(0))) == {"joint", "uniform"}
    labels = batch["main"].labels
    projected = method.projector(method.backbone(batch["main"].views[0])).detach()
    for c in range(C):
        of_class = (labels == c).nonzero()[:, 0]
        assert method.seen[c] == bool(len(of_class))
        expected = projected[of_class[-1]] if len(of_class) else torch.zeros(128)
        torch.testing.assert_close(method.memory[c].double(), expected.double())
    assert set(method.losses(batch, case.clock(1))) == {"joint", "contrastive", "uniform"}


def test_classes_not_seen_yet_take_no_part() -> None:
    method: Any = Case("bce3s").build()
    features, labels, shares = inputs(method)
    labels[:, 1] = C - 1  # mixed with images of a class the memory does not have
    labels[labels[:, 0] == C - 1, 0] = 0
    values = []
    for content in (1.0, 100.0):
        method.memory.copy_(torch.eye(C, 128))
        method.memory[C - 1] = content * torch.arange(128)
        method.seen.copy_(torch.arange(C) < C - 1)
        values.append(method.terms(features, labels, shares, torch.ones(C, dtype=torch.bool), epoch=1)["contrastive"])
        values.append(torch.autograd.grad(values[-1], features)[0])
    torch.testing.assert_close(values[:2], values[2:])


@pytest.mark.parametrize(("r", "expected"), [(1.0, 6), (0.9, 5), (0.5, 3), (0.01, 2)])
def test_subset_has_the_batch_s_classes_and_others_up_to_r(
    r: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("bce3s", options={"subsample": r})
    method: Any = case.build()
    masks: list[Tensor] = []
    terms = method.terms
    monkeypatch.setattr(method, "terms", lambda *arguments: masks.append(arguments[3]) or terms(*arguments))
    batch = case.batch()
    batch["main"].labels.copy_(torch.arange(B) % 2 + 3)
    for epoch in range(8):
        method.losses(batch, case.clock(epoch))
    assert {int(mask.sum()) for mask in masks} == {expected}
    assert all(mask[3] and mask[4] for mask in masks)
    drawn = torch.stack(masks).any(0)
    assert drawn.all() or r == 0.01  # the others differ from step to step


def test_unit_rows_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("bce3s")
    method: Any = case.build()
    images = case.batch()["main"].views[0]
    expected = method.logits(images)
    method.classifier.weight.data *= torch.rand(C, 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(method.logits(images), expected)


def test_three_views_pass_the_backbone_together() -> None:
    case = Case("bce3s")
    method: Any = case.build()
    sizes = []
    method.backbone.register_forward_hook(lambda module, arguments, output: sizes.append(len(arguments[0])))
    method.losses(case.batch(), case.clock(0))
    assert sizes == [3 * B]


def test_streams_are_instance_balanced_by_default() -> None:
    method = Case("bce3s", options={"finetune": "maxnorm"}).build()
    train, second = method.stages(method.hp)
    assert {name: (s.sampler, s.q, len(s.views)) for name, s in train.streams.items()} == {
        "main": ("instance", 0.0, 1),
        "second": ("power", 0.0, 1),
    }
    assert list(second.streams) == ["main"]
    assert bce3s.BCE3S.train_defaults["epochs"] == 320
