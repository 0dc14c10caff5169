"""Averaged weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longtail.engine.average import WeightAverage


def test_is_pytorchs_average():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours, theirs = (
        WeightAverage(model, 0.9),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    )
    for _ in range(4):
        model(torch.randn(5, 3, 8, 8)).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        ours.update_parameters(model)
        theirs.update_parameters(model)
        for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            if value.is_floating_point():
                assert torch.equal(value, expected), name
    counted = ours.module[1].num_batches_tracked
    assert counted == model[1].num_batches_tracked == 4
    assert ours.n_averaged == theirs.n_averaged


def test_a_model_without_whole_numbers_is_averaged_too():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    before = model.weight.detach().clone()
    average.update_parameters(model)
    with torch.no_grad():
        model.weight += 2
    average.update_parameters(model)
    torch.testing.assert_close(average.module.weight.detach(), before + 1)
