import copy

import pytest
import torch
from torch import nn

from longtail.models import build_backbone
from longtail.models.batch_norm import FusableBatchNorm2d, make_fusable

SHAPES = [(8, 16, 6, 6), (3, 5, 4, 7), (2, 3, 1, 1)]


def trained_on(norm: nn.BatchNorm2d, x: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    """What one step computes and leaves behind, in float64."""
    x = x.clone().requires_grad_()
    y = norm.train()(x)
    y.backward(gradient)
    found = {"y": y, "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad, **norm.state_dict()}
    return {name: value.detach().double() for name, value in found.items()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.0, 3.0, -40.0])
def test_is_as_near_to_float64_as_pytorchs_own(shape, mean):
    torch.manual_seed(0)
    x = (mean + torch.randn(shape)).bfloat16().to(memory_format=torch.channels_last)
    gradient = torch.randn(shape).bfloat16()
    plain = nn.BatchNorm2d(shape[1])
    nn.init.uniform_(plain.weight, 0.5, 2)
    nn.init.normal_(plain.bias)
    fusable, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    make_fusable(fusable)
    assert type(fusable) is FusableBatchNorm2d
    expected = trained_on(exact, x.double(), gradient.double())
    theirs, ours = trained_on(plain, x, gradient), trained_on(fusable, x, gradient)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        bound = 1.01 * (theirs[name] - value).abs().max() + 2**-8 * value.abs().max().clamp(min=1e-3)
        assert (ours[name] - value).abs().max() <= bound, name
    torch.testing.assert_close(ours["running_mean"], expected["running_mean"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["running_var"], expected["running_var"], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_types_and_evaluation_are_pytorchs_to_the_bit(dtype):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 5)
    plain = nn.BatchNorm2d(3)
    fusable = copy.deepcopy(plain)
    make_fusable(fusable)
    assert torch.equal(plain.to(dtype)(x.to(dtype)), fusable.to(dtype)(x.to(dtype)))
    x = x.bfloat16()
    assert torch.equal(plain.float().eval()(x), fusable.float().eval()(x))


def test_leaves_alone_what_it_does_not_know():
    network = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm1d(4))
    before = [type(module) for module in network]
    make_fusable(network)
    assert [type(module) for module in network] == before


def test_one_value_per_channel_is_refused_as_before():
    norm = nn.Sequential(nn.BatchNorm2d(4))
    make_fusable(norm)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 4, 1, 1).bfloat16())


@pytest.mark.slow
def test_compiled_network_is_the_network():
    torch.manual_seed(0)
    eager = build_backbone("resnet8").to(memory_format=torch.channels_last)
    eager.precision = torch.bfloat16
    compiled = copy.deepcopy(eager)
    compiled.compile()
    images = torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last)
    for backbone in (eager, compiled):
        backbone(images).square().mean().backward()
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    for theirs, ours in zip(eager.parameters(), compiled.parameters(), strict=True):
        assert torch.nn.functional.cosine_similarity(theirs.grad.flatten(), ours.grad.flatten(), 0) > 0.99
    torch.testing.assert_close(compiled.eval()(images), eager.eval()(images), rtol=2e-2, atol=2e-2)
