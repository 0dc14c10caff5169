"""What holds for every stage of every method. A new method is tested here without a line being added."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from method_cases import CASES, EPOCHS, SIZE, TRAINING, B, Case
from torch import Tensor

from longtail.methods import method_class
from longtail.methods.base import Batch, Method

every_training = pytest.mark.parametrize("case", TRAINING, ids=lambda case: case.name)


def step(case: Case, method: Method, batch: dict[str, Batch], epoch: int = 1) -> dict[str, Tensor]:
    """One step's terms, after their gradients were computed."""
    method.before_epoch(case.clock(epoch))
    terms = method.losses(batch, case.clock(epoch))
    sum(terms.values()).backward()
    return terms


@every_training
def test_gradients_reach_what_the_stage_trains_and_nothing_else(case: Case) -> None:
    method = case.build()
    wanted = case.find_stage().trains
    for epoch in range(EPOCHS):
        terms = step(case, method, case.batch(epoch), epoch)
        assert all(value.shape == () and value.isfinite() for value in terms.values())
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert wanted is None or any(name == part or name.startswith(f"{part}.") for part in wanted), name
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@every_training
def test_one_step_moves_down_its_own_loss(case: Case) -> None:
    method = case.build()
    step(case, method, case.batch())  # fills memories and queues, which would otherwise change the loss
    state = {name: value.clone() for name, value in method.named_buffers()}
    method.zero_grad()
    batch = case.batch()
    before = sum(step(case, method, batch).values())
    with torch.no_grad():
        for name, value in method.named_buffers():
            value.copy_(state[name])
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 1e-5 * parameter.grad / max(1.0, float(parameter.grad.norm()))
    assert sum(method.losses(batch, case.clock(1)).values()) < before


@every_training
def test_repeats_itself_for_the_same_clock(case: Case) -> None:
    values = [step(case, method, case.batch()) for method in (case.build(), case.build())]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)


@every_training
def test_float32_is_close_to_float64(case: Case) -> None:
    exact, single = case.build(), case.build().float()
    for epoch in range(2):
        expected = step(case, exact, case.batch(epoch), epoch)
        actual = step(case, single, case.batch(epoch, torch.float32), epoch)
    for name, value in actual.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)


@every_training
def test_never_waits_for_the_device(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there is nothing to wait for: asking for a value, or for how many are true, is an error."""
    if case.cls.waits is not None:
        pytest.skip(case.cls.waits)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the meta device
    method = case.build().to("meta")
    batch = {
        name: Batch(tuple(view.to("meta") for view in b.views), b.labels.to("meta"), b.index.to("meta"))
        for name, b in case.batch().items()
    }
    step(case, method, batch)
    method.after_step(case.clock(1))
    method.after_epoch(case.clock(1))


COMPILED = [case for case in TRAINING if not case.options and case.cls.waits is None]


@pytest.mark.parametrize("case", COMPILED, ids=lambda case: case.name)
def test_compiles_whole(case: Case) -> None:
    torch._dynamo.reset()
    method, compiled = case.build(), case.build()
    # Where `losses` draws random numbers, all that is computed from them is in `terms`.
    part = "terms" if compiled.terms is not None else "losses"
    setattr(compiled, part, torch.compile(getattr(compiled, part), fullgraph=True, backend="aot_eager"))
    for epoch in range(2):
        batch = case.batch(epoch)
        torch.testing.assert_close(step(case, compiled, batch, epoch), step(case, method, batch, epoch))
    for (name, parameter), expected in zip(compiled.named_parameters(), method.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(method.named_buffers()))


# Their steps write to memories, queues and statistics, of which a compiled backward pass must not see the new values.
REMEMBER = ("bce3s", "cosface_epl", "isda", "kcl", "paco", "proco", "ssd", "tsc")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [case for case in TRAINING if case.method in REMEMBER and not case.options],
    ids=lambda case: case.name,
)
def test_ten_compiled_steps_are_ten_steps(case: Case) -> None:
    torch._dynamo.reset()
    states = []
    for compiled in (False, True):
        method = case.build()
        if compiled:
            method.compile()
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.02, momentum=0.9)
        for i in range(10):
            optimizer.zero_grad()
            step(case, method, case.batch(i), min(i // 3, EPOCHS - 1))
            optimizer.step()
            method.after_step(case.clock(min(i // 3, EPOCHS - 1)))
        states.append({name.replace("._orig_mod", ""): value for name, value in method.state_dict().items()})
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_deployed_is_enough_to_predict(case: Case) -> None:
    """A fresh method with the deployed parts alone gives the same scores, and features that its rows read."""
    method = case.build(torch.float32).eval()
    method.before_evaluation()
    images = torch.randn(B, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    other = Case(case.method, case.stages[0].name, case.options).build(torch.float32).eval()
    deployed = {name: value for name, value in method.state_dict().items() if method.deploys(name)}
    other.load_state_dict(deployed, strict=False)
    with torch.no_grad():
        if not method_class(case.method).classifies():
            torch.testing.assert_close(other.features(images), method.features(images))
            return
        other.before_evaluation()
        logits = method.logits(images)
        assert logits.shape == (B, len(method.classes))
        assert logits.isfinite().all()
        torch.testing.assert_close(other.logits(images), logits)
        rows, bias = method.classifier_rows()
        assert rows.shape == (len(method.classes), method.features(images).shape[1])
        assert bias is None or bias.shape == (len(method.classes),)
