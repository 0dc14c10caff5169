from __future__ import annotations

import math

import pytest
import torch

from longtail.losses.margin import lower, sigmoid_rows, softmax_rows, unit

DOUBLE = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_softmax_rows_against_the_formula_in_a_loop():
    positive, negatives = torch.randn(4, **DOUBLE), torch.randn(4, 7, **DOUBLE)
    expected = [
        math.log(1 + sum(math.exp(n - p) for n in row))
        for p, row in zip(positive.tolist(), negatives.tolist(), strict=True)
    ]
    torch.testing.assert_close(softmax_rows(positive, negatives), torch.tensor(expected, **DOUBLE))


def test_softmax_rows_are_cross_entropy():
    logits, labels = torch.randn(5, 9, **DOUBLE), torch.tensor([0, 8, 3, 3, 1])
    own = torch.nn.functional.one_hot(labels, 9).bool()
    rows = softmax_rows(logits[own], logits[~own].view(5, 8))
    torch.testing.assert_close(rows, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_sigmoid_rows_against_the_formula_in_a_loop():
    positive, negatives, bias = (
        30 * torch.randn(4, **DOUBLE),
        30 * torch.randn(4, 7, **DOUBLE),
        torch.tensor([2.5], **DOUBLE),
    )

    def clamped(logit: float) -> float:
        return max(-64.0, min(64.0, logit - 2.5))

    expected = [
        math.log1p(math.exp(-clamped(p))) + sum(math.log1p(math.exp(clamped(n))) for n in row)
        for p, row in zip(positive.tolist(), negatives.tolist(), strict=True)
    ]
    torch.testing.assert_close(sigmoid_rows(positive, negatives, bias, 64.0), torch.tensor(expected, **DOUBLE))


def test_gradients():
    positive = torch.rand(4, **DOUBLE).requires_grad_()
    negatives = torch.randn(4, 5, **DOUBLE).requires_grad_()
    bias = torch.randn(1, **DOUBLE).requires_grad_()
    vectors = torch.randn(3, 4, **DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(softmax_rows, (positive, negatives))
    assert torch.autograd.gradcheck(lambda p, n, b: sigmoid_rows(p, n, b, 64.0), (positive, negatives, bias))
    assert torch.autograd.gradcheck(lambda p: lower(p, "arcface", 0.4, "exact"), positive)
    assert torch.autograd.gradcheck(unit, vectors)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits_stay_finite(extreme):
    positive = torch.full((2,), extreme).requires_grad_()
    negatives = torch.full((2, 3), -extreme).requires_grad_()
    bias = torch.zeros(1, requires_grad=True)
    for rows in (softmax_rows(positive, negatives), sigmoid_rows(positive, negatives, bias, 64.0)):
        gradients = torch.autograd.grad(rows.sum(), (positive, negatives))
        assert all(tensor.isfinite().all() for tensor in (rows, *gradients))
    assert softmax_rows(positive, negatives).max().item() == pytest.approx(max(0.0, -2 * extreme + math.log(3)))


def test_arcface_adds_its_margin_to_the_angle_and_by_default_passes_the_plain_cosines_gradient():
    angle = torch.tensor([0.1, 1.0, 2.0], **DOUBLE)
    for choice, slope in (("cosface", torch.ones(3, **DOUBLE)), ("exact", torch.sin(angle + 0.4) / torch.sin(angle))):
        positive = angle.cos().requires_grad_()
        lowered = lower(positive, "arcface", 0.4, choice)
        torch.testing.assert_close(lowered, torch.cos(angle + 0.4))
        torch.testing.assert_close(torch.autograd.grad(lowered.sum(), positive)[0], slope)


@pytest.mark.parametrize("choice", ["cosface", "exact"])
def test_arcface_is_finite_where_the_arc_cosines_slope_is_not(choice):
    positive = torch.tensor([1.0, -1.0, 1 + 1e-6], requires_grad=True)
    lowered = lower(positive, "arcface", 0.4, choice)
    assert lowered.isfinite().all()
    assert torch.autograd.grad(lowered.sum(), positive)[0].isfinite().all()


def test_a_zero_vector_stays_zero_without_gradient():
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    units = unit(vectors)
    torch.testing.assert_close(units, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    gradient = torch.autograd.grad(units.sum(), vectors)[0]
    assert gradient[0].eq(0).all()
    assert gradient[1].ne(0).all()
