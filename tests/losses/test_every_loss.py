"""What holds for every loss in the table of `loss_cases`."""

from __future__ import annotations

import pytest
import torch
from contrast_cases import CONTRAST_CASES
from expert_cases import EXPERT_CASES
from loss_cases import CASES, Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ORDER = {"b": torch.tensor([3, 0, 5, 1, 2, 4]), "c": torch.tensor([3, 0, 4, 1, 2])}
every_loss = pytest.mark.parametrize("case", [*CASES, *CONTRAST_CASES, *EXPERT_CASES], ids=lambda case: case.name)


@every_loss
def test_value_is_that_of_a_plain_loop(case: Case) -> None:
    assert case.loss(*case.inputs).item() == pytest.approx(case.loop(*case.inputs), rel=1e-6)


@every_loss
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    assert torch.autograd.gradcheck(case.loss, case.inputs_as(torch.float64))


@every_loss
@pytest.mark.parametrize("letter", ["b", "c"])
def test_order_of_samples_and_of_classes_does_not_matter(case: Case, letter: str) -> None:
    order = ORDER[letter]

    def permute(x: Tensor, axes: str) -> Tensor:
        for axis, name in enumerate(axes):
            if name == letter:
                x = x.index_select(axis, order)
        is_label = not x.is_floating_point() and axes.startswith("b")
        return order.argsort()[x] if letter == "c" and is_label else x

    value, gradients = case.run(case.inputs_as(torch.float64))
    inputs = [permute(x.detach(), axes) for x, axes in zip(case.inputs_as(torch.float64), case.axes, strict=True)]
    for i in case.learned:
        inputs[i].requires_grad_()
    permuted_value, permuted_gradients = case.run(inputs)
    torch.testing.assert_close(permuted_value, value)
    for i, permuted, gradient in zip(case.learned, permuted_gradients, gradients, strict=True):
        torch.testing.assert_close(permuted, permute(gradient, case.axes[i]))


@every_loss
def test_enormous_inputs_give_finite_losses_and_gradients(case: Case) -> None:
    inputs = case.inputs_as(torch.float32)
    for i in case.learned:
        inputs[i] = (inputs[i].detach().sign() * 1e4).requires_grad_()
    value, gradients = case.run(inputs)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_inputs_are_computed_in_float32(case: Case, autocast: bool) -> None:
    rounded = [x.bfloat16() if x.is_floating_point() else x for x in case.inputs]
    exact = [
        x.double().requires_grad_(i in case.learned) if x.is_floating_point() else x for i, x in enumerate(rounded)
    ]
    inputs = [x.requires_grad_(i in case.learned) for i, x in enumerate(rounded)]
    value, gradients = case.run(exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        narrow_value = case.loss(*inputs)
    narrow_gradients = torch.autograd.grad(narrow_value, [inputs[i] for i in case.learned])
    # The value is float32's; the gradients are float32's, rounded once, to bfloat16's 8 bits.
    torch.testing.assert_close(narrow_value.detach().double(), value, rtol=1e-5, atol=1e-6)
    for narrow, gradient in zip(narrow_gradients, gradients, strict=True):
        assert narrow.dtype == torch.bfloat16
        torch.testing.assert_close(narrow.double(), gradient, rtol=2**-8, atol=1e-6)


@every_loss
def test_rounding_the_inputs_to_bfloat16_moves_the_loss_by_little(case: Case) -> None:
    value, _ = case.run(case.inputs_as(torch.float32))
    rounded, _ = case.run(case.inputs_as(torch.bfloat16))
    torch.testing.assert_close(rounded, value, rtol=2e-2, atol=2e-3)


@every_loss
def test_compiles_whole(case: Case) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.loss, fullgraph=True, backend="aot_eager")
    value, gradients = case.run(case.inputs_as(torch.float32))
    inputs = case.inputs_as(torch.float32)
    compiled_value = compiled(*inputs)
    compiled_value.backward()
    torch.testing.assert_close(compiled_value.detach(), value)
    for i, gradient in zip(case.learned, gradients, strict=True):
        torch.testing.assert_close(inputs[i].grad, gradient)


class NoSync(TorchDispatchMode):
    """Fails on operations whose result the host must wait for, on devices where it runs ahead."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.waits, f"{func} waits for the device"
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_", "_unsafe_index"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{func} with a mask waits for the device"
        return func(*args, **(kwargs or {}))


@every_loss
def test_never_waits_for_the_device(case: Case) -> None:
    inputs = case.inputs_as(torch.float32)
    with NoSync():
        case.run(inputs)
