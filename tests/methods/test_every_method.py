"""What holds for every stage of every method."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from method_cases import CASES, EPOCHS, Case
from torch import Tensor

from longtail.methods.base import Batch, Method

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def step(case: Case, method: Method, batch: dict[str, Batch], epoch: int = 1) -> dict[str, Tensor]:
    """One step's terms, after their gradients were computed."""
    terms = method.losses(batch, case.clock(epoch))
    sum(terms.values()).backward()
    return terms


@every_case
def test_terms_are_finite_scalars_and_all_that_trains_learns_from_them(case: Case) -> None:
    method = case.build()
    for epoch in range(EPOCHS):
        terms = step(case, method, case.batch(method, epoch), epoch)
        assert all(value.shape == () and value.isfinite() for value in terms.values())
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@every_case
def test_later_stages_train_the_classifier_alone(case: Case) -> None:
    trained = {name for name, parameter in case.build().named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in case.build().named_parameters()}
    assert trained == (everything if case.stage == "train" else {"classifier.weight", "classifier.bias"})


@every_case
def test_one_step_moves_down_its_own_loss(case: Case) -> None:
    method = case.build()
    step(case, method, case.batch(method))  # fills BCE3S's memory, which would otherwise change the loss
    method.zero_grad()
    batch = case.batch(method)
    before = sum(step(case, method, batch).values())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
    assert sum(method.losses(batch, case.clock(1)).values()) < before


@every_case
def test_repeats_itself_for_the_same_clock(case: Case) -> None:
    values = [step(case, method, case.batch(method)) for method in (case.build(), case.build())]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)


@every_case
def test_float32_is_close_to_float64(case: Case) -> None:
    exact, single = case.build(), case.build().float()
    for epoch in range(2):
        expected = step(case, exact, case.batch(exact, epoch), epoch)
        actual = step(case, single, case.batch(single, epoch, torch.float32), epoch)
    for name, value in actual.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


@every_case
def test_never_waits_for_the_device(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there is nothing to wait for: asking for a value, or for how many are true, is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the meta device
    method = case.build().to("meta")
    batch = {
        name: Batch(tuple(view.to("meta") for view in b.views), b.labels.to("meta"), b.index.to("meta"))
        for name, b in case.batch(method).items()
    }
    step(case, method, batch)
    method.after_step(case.clock(1))
    method.after_epoch(case.clock(1))


COMPILED = [case for case in CASES if not case.options]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_compiles_whole(case: Case) -> None:
    torch._dynamo.reset()
    method, compiled = case.build(), case.build()
    # Where `losses` draws random numbers, all that is computed from them is in `terms`.
    part = "terms" if hasattr(method, "terms") else "losses"
    setattr(compiled, part, torch.compile(getattr(compiled, part), fullgraph=True, backend="aot_eager"))
    for epoch in range(2):
        batch = case.batch(method, epoch)
        torch.testing.assert_close(step(case, compiled, batch, epoch), step(case, method, batch, epoch))
    for (name, parameter), expected in zip(compiled.named_parameters(), method.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(method.named_buffers()))
