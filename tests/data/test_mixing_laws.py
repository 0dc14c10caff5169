"""What MixUp, CutMix and their targets keep, whatever the numbers."""

from __future__ import annotations

import pytest
import torch

from longtail.data.mixing import cutmix, cutmix_box, draw_cutmix_box, mixup, soft_target
from longtail.losses.class_weights import class_weights


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_swapping_the_batches_and_lambda_changes_nothing(lam):
    a, b = torch.rand(2, 4, 3, 8, 8)
    labels = torch.randint(5, (2, 4))
    torch.testing.assert_close(mixup(a, b, lam), mixup(b, a, 1 - lam))
    torch.testing.assert_close(soft_target(*labels, lam, 5), soft_target(*labels.flip(0), 1 - lam, 5))


def test_cutmix_takes_the_box_and_nothing_else():
    a, b = torch.zeros(2, 3, 6, 8), torch.ones(2, 3, 6, 8)
    mixed = cutmix(a, b, (1, 2, 4, 7))
    assert mixed.sum() == 2 * 3 * (4 - 1) * (7 - 2)
    assert mixed[:, :, 1:4, 2:7].min() == 1
    assert a.max() == 0  # the input is left alone


def test_lambda_one_cuts_nothing_and_lambda_zero_everything_around_the_middle():
    assert cutmix_box(1.0, 8, 8, (4, 4)) == (4, 4, 4, 4)
    assert cutmix_box(0.0, 8, 8, (4, 4)) == (0, 0, 8, 8)


def test_centres_are_uniform_on_all_pixels():
    generator = torch.Generator().manual_seed(0)
    tops = torch.tensor([draw_cutmix_box(1.0, 4, 6, generator)[:2] for _ in range(2400)])
    counts = torch.bincount(tops[:, 0] * 6 + tops[:, 1], minlength=24).double()
    assert ((counts - 100) ** 2 / 100).sum() < 52  # chi-square, 23 degrees of freedom, p = 0.0005


def test_class_weights_have_mean_one_and_the_asked_ratio():
    weights = class_weights(torch.tensor([1000, 10]), 1.2)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(100.0, dtype=torch.float64) ** 1.2)
