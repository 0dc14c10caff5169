"""GLMC's own rules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_cases import COUNTS, EPOCHS, SIZE, B, Case
from torch import Tensor, nn

from longtail.data.streams import Batch
from longtail.engine.results import deployed_parameters
from longtail.methods.glmc import GLMC


class Recorder(nn.Module):
    """A backbone that keeps the images it was shown."""

    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return images.mean((2, 3))


def test_one_lambda_mixes_images_boxes_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("glmc")
    method: Any = case.build()
    method.backbone = Recorder()
    seen = []
    monkeypatch.setattr(method, "terms", lambda *arguments: seen.append(arguments) or {})
    # A pixel of value v in view k of the first stream is k + v = 1 or 2; all others are 0, so a mixture's pixels say its origin.
    labels, others = torch.arange(B) % 3, torch.full((B,), 5)
    ones = torch.ones(B, 3, SIZE, SIZE)
    batch = {
        "instance": Batch((ones, 2 * ones), labels, torch.arange(B)),
        "inverse": Batch((0 * ones, 0 * ones), others, torch.arange(B)),
    }

    method.losses(batch, case.clock(1))

    mixup, cutmix = method.backbone.shown
    lam = mixup[0, 0, 0, 0].item()
    assert 0 < lam < 1
    torch.testing.assert_close(mixup, torch.full_like(mixup, lam))
    assert set(cutmix.unique().tolist()) == {0.0, 2.0}  # of the second views alone
    box = (cutmix[0, 0] == 0).nonzero()
    assert (box.amax(0) - box.amin(0) + 1 <= math.ceil(SIZE * math.sqrt(1 - lam))).all()
    assert (cutmix == cutmix[0]).all()
    _, _, target, weighted, share = seen[0]
    expected = lam * F.one_hot(labels, 6) + (1 - lam) * F.one_hot(others, 6)
    torch.testing.assert_close(target, expected)
    inverse = [n**-1.2 for n in COUNTS]
    weights = torch.tensor([6 * w / sum(inverse) for w in inverse])
    torch.testing.assert_close(weighted, weights * expected)
    assert share == 1 - (1 / EPOCHS) ** 2


def test_training_moves_from_the_conventional_to_the_rebalanced_classifier() -> None:
    case = Case("glmc")
    method = case.build()
    parts = []
    for epoch in range(EPOCHS):
        clock = case.clock(epoch)
        clock.generator.manual_seed(0)
        parts.append(method.losses(case.batch(), clock))
    first = parts[0]
    assert first["rebalanced"] == 0
    for epoch, terms in enumerate(parts[1:], 1):
        progress = (epoch / EPOCHS) ** 2
        torch.testing.assert_close(terms["conventional"], (1 - progress) * first["conventional"])
        torch.testing.assert_close(terms["rebalanced"] / progress, parts[1]["rebalanced"] * EPOCHS**2)
        torch.testing.assert_close(terms["consistency"], first["consistency"])


def test_contrast_weight_multiplies_the_consistency_alone() -> None:
    single, tenfold = (
        case.build().losses(case.batch(), case.clock(2))
        for case in (Case("glmc"), Case("glmc", options={"contrast_weight": 10.0}))
    )
    torch.testing.assert_close(tenfold["consistency"], 10 * single["consistency"])
    torch.testing.assert_close(tenfold["conventional"], single["conventional"])


def test_balanced_form_has_one_classifier_and_unweighted_labels() -> None:
    case = Case("glmc", options={"rebalance": False})
    method = case.build()
    terms = [
        method.losses(case.batch(), case.clock(0)),
        method.losses(case.batch(), case.clock(EPOCHS - 1)),
    ]
    assert all(list(t) == ["conventional", "consistency"] for t in terms)
    whole = Case("glmc").build()
    classifier = sum(p.numel() for p in method.classifier.parameters())
    assert sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in method.parameters()) == classifier
    assert deployed_parameters(method) == deployed_parameters(whole)
    # What predicts is what was trained.
    terms[0]["conventional"].backward()
    assert method.classifier.weight.grad.abs().max() > 0
    # The conventional term keeps its full weight to the end.
    clock = case.clock(EPOCHS - 1)
    clock.generator.manual_seed(0)
    torch.testing.assert_close(method.losses(case.batch(), clock)["conventional"], terms[0]["conventional"])


def test_without_mixture_the_two_views_are_classified_and_compared_as_they_are() -> None:
    case = Case("glmc", options={"mixture": False})
    method: Any = case.build_plain()
    main = case.batch()["instance"]
    terms = method.losses(case.batch(), case.clock(1))
    share, labels = 1 - (1 / EPOCHS) ** 2, main.labels
    features = [method.backbone(view) for view in main.views]
    conventional = sum(F.cross_entropy(method.conventional(f), labels) for f in features)
    rebalanced = sum(
        (method.weights[labels] * F.cross_entropy(method.classifier(f), labels, reduction="none")).mean()
        for f in features
    )
    first, second = (method.projector(f) for f in features)
    simsiam = -F.cosine_similarity(method.predictor(first), second).mean()
    simsiam = simsiam - F.cosine_similarity(method.predictor(second), first).mean()
    torch.testing.assert_close(terms["conventional"], share * conventional)
    torch.testing.assert_close(terms["rebalanced"], (1 - share) * rebalanced)
    torch.testing.assert_close(terms["consistency"], simsiam)


def test_streams() -> None:
    method = Case("glmc", options={"resample_weighting": 0.2, "augment": "flip"}).build()
    (stage,) = method.stages(method.hp)
    assert {name: (s.sampler, s.q, s.views) for name, s in stage.streams.items()} == {
        "instance": ("instance", 0.0, ("flip", "flip")),
        "inverse": ("power", 0.2, ("flip", "flip")),
    }


@pytest.mark.parametrize("kind", ["maxnorm", "balanced_softmax"])
def test_second_stage_loss(kind: str) -> None:
    case = Case("glmc", kind, {"finetune": kind})
    method: GLMC = case.build()  # type: ignore[assignment]
    batch = case.batch()
    main = batch["main"]
    (value,) = method.losses(batch, case.clock(0)).values()
    logits = method.classifier(method.backbone(main.views[0])).detach()
    if kind == "balanced_softmax":
        expected = F.cross_entropy(logits + torch.tensor(COUNTS).log(), main.labels)
    else:
        effective = torch.tensor([(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS], dtype=torch.float64)
        weights = effective / effective.mean()
        expected = (weights[main.labels] * F.cross_entropy(logits, main.labels, reduction="none")).mean()
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=0)
