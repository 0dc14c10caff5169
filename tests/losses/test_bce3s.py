"""BCE3S's class subset and class memory, and MaxNorm's projection: state and draws rather than losses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from longtail.losses.bce import bce
from longtail.losses.bce3s import draw_class_mask, prototype_loss, uniform_loss, update_class_memory
from longtail.losses.norm import maxnorm_radius, project_rows_
from longtail.losses.softmax import cross_entropy


def test_class_mask_is_the_batch_filled_up_at_random() -> None:
    labels = torch.tensor([7, 2, 2, 19])
    drawn = torch.zeros(20)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        mask = draw_class_mask(labels, 0.4, torch.rand(2, 20, generator=generator))
        assert mask.sum() == 8
        assert mask[labels].all()
        drawn += mask
    absent = torch.ones(20, dtype=torch.bool).index_fill(0, labels, False)
    # 5 of 17 absent classes each time: 600 draws stay within 5 standard deviations of their mean.
    expected, deviation = 600 * 5 / 17, (600 * 5 / 17 * 12 / 17) ** 0.5
    assert (drawn[absent] - expected).abs().max() < 5 * deviation


@pytest.mark.parametrize("r", [0.0, 0.1, 0.2])
def test_class_mask_keeps_every_class_of_the_batch(r: float) -> None:
    labels = torch.tensor([4, 1, 3, 1])
    assert draw_class_mask(labels, r, torch.rand(2, 10)).nonzero().flatten().tolist() == [1, 3, 4]


def test_released_class_mask_leaves_classes_of_the_batch_out() -> None:
    """As the released lines do it: a permutation of the classes, 0 for those in the batch, the floor(r C) smallest kept."""
    labels, present = torch.tensor([0, 1, 2, 3, 4, 5, 0]), 6
    generator = torch.Generator().manual_seed(0)
    masks = torch.stack(
        [draw_class_mask(labels, 0.4, torch.rand(2, 10, generator=generator), "released") for _ in range(2000)]
    )
    assert (masks.sum(1) == 4).all()
    drawn = masks.double().mean(0)
    # A class of the batch is among seven candidates where a class outside drew 0 (4 times in 10), else among six; the
    # class that drew 0 is one of the seven.
    expected_present = 0.4 * 4 / 7 + 0.6 * 4 / 6
    torch.testing.assert_close(drawn[:present], torch.full((6,), expected_present).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(drawn[present:], torch.full((4,), 0.1 * 4 / 7).double(), atol=0.03, rtol=0)


def test_memory_keeps_the_last_sample_of_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    memory, seen = torch.zeros(6, 3), torch.zeros(6, dtype=torch.bool)
    expected, expected_seen = memory.clone(), seen.clone()
    for _ in range(4):
        features = torch.randn(9, 3, generator=generator, requires_grad=True)
        labels = torch.randint(5, (9,), generator=generator)
        update_class_memory(memory, seen, features, labels)
        for feature, label in zip(features.detach(), labels.tolist(), strict=True):
            expected[label], expected_seen[label] = feature, True
        assert torch.equal(memory, expected)
        assert torch.equal(seen, expected_seen)
        assert not memory.requires_grad
    assert not seen[5]


def test_memory_may_be_updated_between_the_loss_and_its_gradient() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, weights = torch.tensor([[0, 1], [1, 2], [2, 0], [3, 1]]), torch.full((4, 2), 0.5)
    gradients = []
    for update in (False, True):
        memory, seen = torch.eye(5, 3), torch.tensor([True, True, False, False, True])
        loss = prototype_loss(features, memory, seen, labels, weights)
        if update:
            update_class_memory(memory, seen, features, labels[:, 0])
        gradients += torch.autograd.grad(loss, features)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("loss", [bce, cross_entropy])
def test_classes_not_seen_yet_take_no_part(loss: Callable[..., torch.Tensor]) -> None:
    features, memory = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    labels, weights = torch.tensor([[0, 1], [1, 2], [2, 0]]), torch.full((3, 2), 0.5)
    features.requires_grad_()
    value = prototype_loss(features, memory, torch.zeros(3, dtype=torch.bool), labels, weights, loss=loss)
    value.backward()
    assert value == 0
    assert not features.grad.any()


@pytest.mark.parametrize("thresh", [0.0, 0.1, 1.0])
def test_projection_shortens_long_rows_and_leaves_the_others(thresh: float) -> None:
    weight = torch.cat((torch.zeros(1, 4), torch.randn(9, 4, generator=torch.Generator().manual_seed(0))))
    norms = torch.linalg.vector_norm(weight.double(), dim=1)
    radius = maxnorm_radius(weight, thresh)
    assert radius.item() == pytest.approx((thresh * norms.max()).item())
    projected = weight.clone()
    project_rows_(projected, radius)
    short = norms <= radius.double()
    assert torch.equal(projected[short], weight[short])
    torch.testing.assert_close(projected.double().norm(dim=1), norms.clamp(max=radius.double()))
    torch.testing.assert_close(projected * norms[:, None].float(), weight * projected.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("loss", [bce, cross_entropy])
def test_uniform_loss_in_parts_is_that_in_one(loss):
    rows = torch.randn(23, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    whole, parts = uniform_loss(rows, loss), uniform_loss(rows, loss, block=50)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(value, rows)[0] for value in (parts, whole)), rtol=1e-5, atol=1e-7)
