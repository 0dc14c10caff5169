"""What the contrastive methods keep beside their weights: momentum encoder, queue, class means, a teacher."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import pytest
import torch
from method_cases import CLASSES, Case, RandomPasses
from torch import Tensor
from torch.testing import assert_close

import longtail
from longtail.classes import Classes
from longtail.data.streams import Stream
from longtail.engine.reporter import Reporter
from longtail.errors import LongtailError
from longtail.methods.base import Clock
from longtail.methods.contrast_parts import Queue


def clock(stage: str) -> Clock:
    return Clock(stage, 0, 1, 0, 1, torch.Generator().manual_seed(0))


def test_the_queue_holds_the_last_keys_the_oldest_being_overwritten() -> None:
    queue, written = Queue.random(6, 2), []
    for batch in range(5):
        keys, labels = torch.randn(4, 2), torch.arange(4) + 4 * batch
        written += list(zip(keys, labels, strict=True))
        queue.push(keys, labels)
        kept = {int(label): key for key, label in written[-6:]}
        held = {int(y): k for k, y in zip(queue.keys, queue.labels, strict=True) if y >= 0}
        assert held.keys() == kept.keys()
        assert all(torch.equal(held[label], key) for label, key in kept.items())
        assert int(queue.position) == len(written) % 6


def test_the_queue_is_filled_with_keys_of_the_images_in_as_many_passes_as_it_takes() -> None:
    method: Any = Case("kcl", "contrast", {"queue": 16}).build()
    seen = torch.arange(8) % 6
    assert torch.equal(method.queue.labels, torch.cat((seen, seen)))
    queue, sixteen_images = Queue.random(40, 128).double(), Classes(CLASSES.names, (3, 3, 3, 3, 2, 2))
    queue.fill(method.key, RandomPasses(torch.float64), Stream(("",)), sixteen_images)
    assert torch.equal(queue.labels, seen.repeat(5))
    assert_close(queue.keys.norm(dim=1), torch.ones(40, dtype=torch.float64))
    assert not method.key.training


def test_the_momentum_encoder_follows_parameters_and_keeps_its_own_statistics() -> None:
    method: Any = Case("paco").build()
    encoder, images = method.key, torch.randn(4, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(dict(encoder.backbone.state_dict()))
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    method.backbone(images)  # moves the network's batch-norm statistics, not the encoder's
    encoder.follow(method.backbone, method.projector, 0.9)
    for name, value in encoder.backbone.named_parameters():
        assert_close(value, 0.9 * before[name] + 0.1 * dict(method.backbone.named_parameters())[name])
    for name, value in encoder.backbone.named_buffers():
        assert torch.equal(value, before[name])
    keys = encoder(images)
    assert not keys.requires_grad
    assert_close(keys.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "stage"), [("kcl", "contrast"), ("tsc", "kcl"), ("paco", "train"), ("ssd", "features")]
)
def test_what_was_never_written_into_an_empty_queue_takes_no_part(name: str, stage: str) -> None:
    def first_loss(scale: float) -> dict[str, Tensor]:
        case = Case(name, stage, {"queue_start": "empty", "queue": 16})
        method: Any = case.build()
        method.queue.keys.mul_(scale)
        return method.losses(case.batch(), clock(stage))

    assert_close(first_loss(1.0), first_loss(-3.0))


def test_ssd_swaps_the_trained_network_for_the_start_that_it_had() -> None:
    method: Any = Case("ssd", "features").build()
    start = copy.deepcopy(method.backbone.state_dict())
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        for name, value in method.teacher_backbone.state_dict().items():
            value.copy_(start[name])  # the noise above is training, which the teacher has none of
    scored = method.eval().logits(images)
    distil = next(stage for stage in method.stages(method.hp) if stage.name == "distil")
    method.before_stage(distil, RandomPasses(torch.float64))
    assert_close(method.teacher_classifier(method.teacher_backbone(images)), scored)
    assert all(torch.equal(value, start[name]) for name, value in method.backbone.state_dict().items())
    assert method.scales.unique().tolist() == [1.0]


def test_proco_turns_its_estimates_at_the_end_of_an_epoch() -> None:
    case = Case("proco")
    method: Any = case.build()
    for seed in range(2):
        method.losses(case.batch(seed), clock("train"))
    labels = torch.cat([case.batch(seed)["main"].labels for seed in range(2)])
    seen = labels.bincount(minlength=6)
    assert torch.equal(method.next_amounts.long(), 2 * seen)  # two views
    assert torch.equal(method.amounts, method.next_amounts)
    gathered = method.next_means.clone()
    method.after_epoch(clock("train"))
    assert torch.equal(method.means, gathered)
    assert torch.equal(method.amounts.long(), 2 * seen)
    assert not method.next_amounts.any()
    assert_close(method.next_means.norm(dim=1), torch.full((6,), 0.9, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_tsc_gives_every_class_a_target_of_its_own_that_fits() -> None:
    case = Case("tsc", "tsc")
    method: Any = case.build()
    before = method.class_means.clone()
    batch = case.batch()
    method.losses(batch, clock("tsc"))
    assert sorted(method.assignment.tolist()) == list(range(6))
    present = torch.zeros(6, dtype=torch.bool).index_fill(0, batch["main"].labels, True)
    moved = (method.class_means != before).any(1)
    assert torch.equal(moved, present)
    fit = (method.class_means * method.targets[method.assignment]).sum()
    assert fit >= (method.class_means * method.targets).sum()


# Small enough for the photographs' 20 images in batches of 4.
SETTINGS: dict[str, dict[str, Any]] = {
    "supcon": {"target_repeat": 1, "classifier_epochs": 1},
    "kcl": {"queue": 16, "classifier_epochs": 1},
    "tsc": {"queue": 16, "classifier_epochs": 1},
    "paco": {"queue": 16},
    "gpaco": {"queue": 16},
    "ssd": {"queue": 16, "scale_epochs": 1},
    "proco": {},
}


class StopAt(Reporter):
    """Ends the process's training, as a signal does, when so many steps are done."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, steps: int = 1) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", SETTINGS)
def test_all_of_it_is_the_same_after_a_stop(name: str, photos, tmp_path) -> None:
    train = {"epochs": 2, "batch_size": 4, "precision": "fp32", "accelerator": "cpu", "warmup_epochs": 0, "lr": 0.01}
    settings = {"data": str(photos), "backbone": "resnet8", "train": train, "options": SETTINGS[name]}
    results = longtail.train(name, out=tmp_path / "whole", **settings)
    assert results["metrics"]["images"] == 6
    with pytest.raises(LongtailError, match="Stopped"):
        longtail.train(name, out=tmp_path / "run", reporter=StopAt(7), **settings)
    longtail.resume(tmp_path / "run")
    state, expected = (torch.load(tmp_path / run / "last.ckpt")["method"] for run in ("run", "whole"))
    assert_close(state, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("kcl", "--set", "queue=100"),
            "A queue of 100 is not written in whole batches of 64: use --set queue=64 or 128",
        ),
        (("paco", "--set", "queue=10"), "use --set queue=64, or"),
        (("ssd", "--set", "queue=200"), "use --set queue=192 or 256"),
        (("proco", "--set", "dim=8"), "dim should be greater than or equal to 16"),
        (("tsc", "--set", "masks=none"), "masks"),
    ],
)
def test_what_cannot_work_is_said_before_any_image_is_decoded(words, message, longtail, photos, tmp_path) -> None:
    broken = photos / "train" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    command = ("train", words[0], "--data", photos, "--out", tmp_path / "run", "--set", "batch_size=64", *words[1:])
    code, _, errors = longtail(*command)
    assert code == 2
    assert message in errors.replace("\n", " ")
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
