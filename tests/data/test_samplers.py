"""Samplers against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longtail.data.samplers import ClassIndex, epoch_draws, share, steps_per_epoch
from longtail.data.streams import Stream
from longtail.errors import UsageError

COUNTS = (60, 0, 25, 12, 3)  # one class has no image
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS))
CLASSES = ClassIndex(LABELS, 5)


def draws(stream, batch_size=50, epoch=0, name="main", seed=0):
    return epoch_draws(CLASSES, stream, name=name, batch_size=batch_size, seed=seed, epoch=epoch)


@pytest.mark.parametrize("batch_size", [7, 64, 100, 256])
def test_instance_shows_every_image_in_whole_batches(batch_size):
    draw = draws(Stream(("none",)), batch_size)
    steps = steps_per_epoch(100, batch_size)
    shown = torch.cat([draw(step) for step in range(steps)])
    assert len(shown) == steps * batch_size
    assert sorted(shown[:100].tolist()) == list(range(100))
    counts = torch.bincount(shown, minlength=100)
    assert counts.max() - counts.min() <= 1  # what is filled up comes from whole permutations too


@pytest.mark.parametrize(
    ("stream", "image_weight"),
    [
        (Stream((), "balanced"), lambda n: 1 / n),
        (Stream((), "power", q=0.0), lambda n: 1.0),
        (Stream((), "power", q=0.5), lambda n: n**-0.5),
        (Stream((), "power", q=1.2), lambda n: n**-1.2),
        (Stream((), "reversed"), lambda n: 1 / n**2),  # class probability 1 / n, spread over its n images
    ],
    ids=["balanced", "power 0", "power 0.5", "power 1.2", "reversed"],
)
def test_each_image_is_drawn_as_often_as_defined(stream, image_weight):
    draw = draws(stream)
    shown = torch.cat([draw(step) for step in range(1200)])
    weights = np.array([image_weight(COUNTS[label]) for label in LABELS])
    expected = weights / weights.sum() * len(shown)
    observed = np.bincount(shown, minlength=len(LABELS))
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 150  # 99 degrees of freedom, p = 0.0007


@pytest.mark.parametrize("stream", [Stream(()), Stream((), "power", q=0.2)], ids=["instance", "power"])
def test_a_batch_depends_on_its_place_alone(stream):
    again = draws(stream)
    later = draws(stream)(1)  # without step 0
    again(0)
    assert torch.equal(again(1), later)
    others = [draws(stream, epoch=1), draws(stream, name="second"), draws(stream, seed=1)]
    assert not any(torch.equal(other(1), later) for other in others)
    assert not torch.equal(again(0), later)


def test_members_are_a_classes_images():
    assert all((LABELS[CLASSES.members(label).numpy()] == label).all() for label in range(5))
    assert [len(CLASSES.members(label)) for label in range(5)] == list(COUNTS)


def test_processes_share_a_batch_without_overlap():
    parts = [list(range(12))[share(12, rank, 3)] for rank in range(3)]
    assert parts[0] + parts[1] + parts[2] == list(range(12))
    with pytest.raises(UsageError, match="Batch size 10 does not divide by 4 processes"):
        share(10, 0, 4)


@pytest.mark.parametrize("q", [float("nan"), float("inf"), 1e9, -1e9])
def test_weights_that_cannot_be_computed(q):
    with pytest.raises(UsageError, match=r"Images cannot be drawn by 1 / n\^q with q = .*resample_weighting"):
        draws(Stream((), "power", q=q))


def test_unknown_sampler():
    with pytest.raises(UsageError, match=r"Unknown sampler 'balance'\. Did you mean 'balanced'"):
        draws(Stream((), "balance"))
