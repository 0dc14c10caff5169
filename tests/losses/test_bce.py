"""What is particular to BCE: its clamp and the memory it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from longtail.losses.bce import bce

B, C = 16, 20_000
TENSOR = B * C * 4  # bytes of one float32 [B, C]


def test_logits_beyond_64_count_as_64_and_receive_no_gradient() -> None:
    logits = torch.tensor([[-65.0, 3.0, 80.0], [80.0, -80.0, 3.0]], requires_grad=True)
    value = bce(logits, torch.tensor([0, 2]))
    value.backward()
    nearer = logits.detach().clamp(-64, 64).requires_grad_()
    plain_value = F.binary_cross_entropy_with_logits(nearer, F.one_hot(torch.tensor([0, 2])).float()) * 3
    plain_value.backward()
    torch.testing.assert_close(value, plain_value)
    torch.testing.assert_close(logits.grad, nearer.grad * (logits.detach().abs() <= 64))


def plain_bce(logits: Tensor, labels: Tensor, weights: Tensor, class_mask: Tensor | None) -> Tensor:
    """The formula as one would write it, on dense targets."""
    target = torch.zeros_like(logits).scatter_add(1, labels, weights)
    scores = logits.clamp(-64, 64)
    terms = target * F.softplus(-scores) + (target == 0) * F.softplus(scores)
    return (terms if class_mask is None else terms * class_mask).sum(1).mean()


def peak_bytes(folder: Path, loss: Callable[..., Tensor], *inputs: Tensor | None) -> int:
    """The most bytes held at once, beyond the inputs, in a forward and backward pass; the gradient is among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss(*inputs).backward()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = [event["args"] for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    return max(event["Total Allocated"] for event in events) - events[0]["Total Allocated"] + events[0]["Bytes"]


@pytest.mark.parametrize("subsampled", [False, True])
@pytest.mark.parametrize("labels_per_image", [1, 2])
def test_holds_at_most_two_tensors_of_the_size_of_the_logits(
    subsampled: bool, labels_per_image: int, tmp_path: Path
) -> None:
    logits = torch.randn(B, C, requires_grad=True)
    labels = torch.randint(C, (B, labels_per_image))
    weights = torch.full(labels.shape, 1 / labels_per_image)
    class_mask = torch.rand(C) < 0.4 if subsampled else None
    ours = peak_bytes(tmp_path, bce, logits, labels, weights, class_mask)
    gradient, logits.grad = logits.grad, None
    plain = peak_bytes(tmp_path, plain_bce, logits, labels, weights, class_mask)
    torch.testing.assert_close(gradient, logits.grad)
    assert ours <= 2 * TENSOR
    assert plain > 4 * TENSOR  # the measure sees what the plain formula holds
