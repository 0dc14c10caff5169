"""BCL's own rules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from method_cases import COUNTS, B, Case

CASE = Case("bcl", options={"ce_weight": 2.0, "contrast_weight": 0.6})
CONTRASTED = Case("bcl", options={**CASE.options, "projected": "contrasted"})


def test_first_view_is_classified_and_the_others_contrasted_in_one_pass() -> None:
    method: Any = CASE.build_plain()
    (stage,) = method.stages(method.hp)
    assert stage.streams["main"].views == ("autoaugment_cutout", "simaugment", "simaugment")
    sizes = []
    method.backbone.register_forward_hook(lambda module, arguments, output: sizes.append(len(arguments[0])))
    batch = CASE.batch()
    views = [view.requires_grad_() for view in batch["main"].views]
    terms = method.losses(batch, CASE.clock(0))
    assert sizes == [3 * B]
    moved = {
        name: [bool(grad.abs().max() > 0) for grad in torch.autograd.grad(value, views, retain_graph=True)]
        for name, value in terms.items()
    }
    assert moved["ce"] == [True, False, False]
    # As released, the classified view is in the projector's batch statistics, and in nothing else of the contrast.
    assert moved["contrastive"] == [True, True, True]
    method = CONTRASTED.build_plain()
    loss = method.losses(batch, CONTRASTED.clock(0))["contrastive"]
    gradients = torch.autograd.grad(loss, views)
    assert [bool(grad.abs().max() > 0) for grad in gradients] == [False, True, True]


def test_classification_is_cross_entropy_with_the_class_prior() -> None:
    method: Any = CASE.build_plain()
    batch = CASE.batch()
    main = batch["main"]
    features = method.backbone(main.views[0])
    cosines = F.cosine_similarity(features[:, None], method.classifier.weight[None], dim=2)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    expected = 2.0 * F.cross_entropy(30 * cosines + prior.log(), main.labels)
    torch.testing.assert_close(method.losses(batch, CASE.clock(0))["ce"], expected)
    # The prior is for training only.
    torch.testing.assert_close(method.logits(main.views[0]), 30 * cosines)


def test_every_class_is_contrasted_through_its_centre() -> None:
    method: Any = CASE.build_plain()
    batch = CASE.batch()
    absent = set(range(len(COUNTS))) - set(batch["main"].labels.tolist())
    assert absent
    loss = method.losses(batch, CASE.clock(0))["contrastive"]
    (gradient,) = torch.autograd.grad(loss, method.classifier.weight)
    assert (gradient.abs().amax(1) > 0).all()


def test_contrastive_term_is_that_of_plain_loops() -> None:
    method: Any = CASE.build_plain()
    batch = CASE.batch()
    main = batch["main"]
    value = method.losses(batch, CASE.clock(0))["contrastive"]

    projected = method.projector(method.backbone(torch.cat(main.views)))[B:]  # batch norm sees the classified view too
    points = [*F.normalize(projected), *F.normalize(method.centre_projector(method.classifier.weight))]
    labels = [*main.labels.tolist(), *main.labels.tolist(), *range(len(COUNTS))]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(2 * B):
        score = [torch.exp(points[i] @ point / 0.1) for point in points]
        denominator = torch.zeros((), dtype=torch.float64)
        for c in range(len(COUNTS)):
            others = [score[k] for k in range(len(points)) if labels[k] == c and k != i]
            denominator += sum(others) / len(others)
        positives = [k for k in range(len(points)) if labels[k] == labels[i] and k != i]
        total -= sum((score[k] / denominator).log() for k in positives) / len(positives)
    torch.testing.assert_close(value, 0.6 * total / (2 * B))
