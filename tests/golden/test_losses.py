"""The losses that training runs, against the authors' own implementations: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.losses.bce import bce
from longtail.losses.bce3s import prototype_loss, uniform_loss, update_class_memory
from longtail.losses.class_balanced import (
    class_balanced_bce,
    class_balanced_focal,
    class_balanced_sigmoid,
    class_balanced_softmax,
)
from longtail.losses.class_weights import effective_number_weights
from longtail.losses.contrastive import balanced_contrastive, supcon
from longtail.losses.glmc import consistency, conventional_share, mixed_cross_entropy
from longtail.losses.norm import maxnorm_radius, project_rows_
from longtail.losses.softmax import focal, ldam, logit_adjusted_cross_entropy

Vector = dict[str, Tensor]


def class_weights(v: Vector, beta: str = "beta") -> Tensor:
    return effective_number_weights(v["class_counts"], v[beta].item())


LOSSES: dict[str, tuple[tuple[str, ...], Callable[[Vector], Tensor]]] = {  # name: (what has a gradient, the loss)
    "logit_adjusted_cross_entropy": (
        ("logits",),
        lambda v: logit_adjusted_cross_entropy(v["logits"], v["labels"], v["class_counts"], v["tau"].item()),
    ),
    "class_balanced_bce": (("logits",), lambda v: class_balanced_bce(v["logits"], v["labels"], class_weights(v))),
    "class_balanced_sigmoid": (
        ("logits",),
        lambda v: class_balanced_sigmoid(v["logits"], v["labels"], class_weights(v)),
    ),
    "class_balanced_softmax": (
        ("logits",),
        lambda v: class_balanced_softmax(v["logits"], v["labels"], class_weights(v)),
    ),
    "class_balanced_focal": (
        ("logits",),
        lambda v: class_balanced_focal(v["logits"], v["labels"], class_weights(v), v["gamma"].item()),
    ),
    "focal": (("logits",), lambda v: focal(v["logits"], v["labels"], v["gamma"].item())),
    "ldam": (
        ("cosine_logits",),
        lambda v: ldam(
            v["cosine_logits"],
            v["labels"],
            v["class_counts"],
            v["max_margin"].item(),
            v["scale"].item(),
            class_weights(v, "drw_beta"),
        ),
    ),
    "supcon": (
        ("features_two_views",),
        lambda v: supcon(v["features_two_views"], v["labels"], v["temperature"].item()),
    ),
    "bcl_balanced_contrastive": (
        ("features_two_views", "class_centres"),
        lambda v: balanced_contrastive(
            v["features_two_views"], v["labels"], v["class_centres"], v["temperature"].item()
        ),
    ),
    "bce3s_stage2_cb_bce": (
        ("classifier_weight", "classifier_bias"),
        lambda v: class_balanced_bce(
            unit_row_logits(v, v["features"]), v["labels"], class_weights(v), class_mask=partial_mask(v)
        ),
    ),
}
GRADIENTS = {
    "features_two_views": "features",
    "class_centres": "centres",
    "cosine_logits": "logits",
}  # else the input's


def unit_row_logits(v: Vector, features: Tensor) -> Tensor:
    return features @ F.normalize(v["classifier_weight"]).T + v["classifier_bias"]


def partial_mask(v: Vector) -> Tensor:
    mask = torch.zeros(len(v["classifier_weight"]), dtype=torch.bool)
    mask[v["partial_index"]] = True
    return mask


def require_grad(v: Vector, names: tuple[str, ...]) -> None:
    for name in names:
        v[name].requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(name: str, golden, assert_close_relative) -> None:
    inputs, loss = LOSSES[name]
    v = golden(name)
    require_grad(v, inputs)
    value = loss(v)
    value.backward()
    assert_close_relative(value, v["loss"])
    for key in inputs:
        assert_close_relative(v[key].grad, v["grad_" + GRADIENTS.get(key, key)])


def test_effective_number_weights(golden, assert_close_relative) -> None:
    v = golden("ldam")
    assert_close_relative(class_weights(v, "drw_beta"), v["class_weights"])


@pytest.mark.parametrize("name", ["bce3s_r04_epoch0", "bce3s_r04_epoch1", "bce3s_r10_epoch1"])
def test_bce3s(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    views = ("features_origin", "features_mixup", "features_cutmix")
    learned = (*views, "classifier_weight", "classifier_bias", "proj_w1")
    require_grad(v, learned)
    weights, labels = v["soft_target"].topk(2)
    memory, seen = v["memory_before"].clone(), torch.ones(len(v["memory_before"]), dtype=torch.bool)

    def project(features: Tensor) -> Tensor:
        return F.linear(F.linear(features, v["proj_w1"], v["proj_b1"]).relu(), v["proj_w2"], v["proj_b2"])

    joint = bce(unit_row_logits(v, v["features_origin"]), v["labels"], class_mask=partial_mask(v))
    contrastive = torch.zeros(())
    for view in views[1:]:
        joint = joint + bce(unit_row_logits(v, v[view]), labels, weights)
        if v["epoch"] > 0:
            contrastive = contrastive + prototype_loss(project(v[view]), memory, seen, labels, weights)
    joint = joint / 3
    uniform = uniform_loss(v["classifier_weight"])
    total = v["weights_joint_contrastive_uniform"] @ torch.stack((joint, contrastive, uniform))
    update_class_memory(memory, seen, project(v["features_origin"]), v["labels"])
    total.backward()

    for value, key in ((joint, "joint"), (contrastive, "contrastive"), (uniform, "uniform"), (total, "total")):
        assert_close_relative(value, v["loss_" + key])
    assert_close_relative(memory, v["memory_after"])
    for key in learned:
        gradient = torch.zeros_like(v[key]) if v[key].grad is None else v[key].grad
        assert_close_relative(gradient, v["grad_" + key])


def test_glmc(golden, assert_close_relative) -> None:
    v = golden("glmc_loss")
    branches = ("logits", "rebalanced_logits", "predictor")
    learned = tuple(f"{branch}_{view}" for branch in branches for view in ("mixup", "cutmix"))
    require_grad(v, learned)
    share = conventional_share(v["epoch"].item(), v["epochs"].item())
    conventional = mixed_cross_entropy(v["logits_mixup"], v["logits_cutmix"], v["soft_target"])
    rebalanced = mixed_cross_entropy(
        v["rebalanced_logits_mixup"], v["rebalanced_logits_cutmix"], v["weighted_soft_target"]
    )
    agreement = consistency(v["predictor_mixup"], v["predictor_cutmix"], v["projector_mixup"], v["projector_cutmix"])
    total = share * conventional + (1 - share) * rebalanced + v["contrast_weight"] * agreement
    total.backward()

    assert_close_relative(torch.tensor(share), v["alpha"])
    assert_close_relative(conventional, v["loss_mixup"] + v["loss_cutmix"])
    assert_close_relative(rebalanced, v["loss_mixup_weighted"] + v["loss_cutmix_weighted"])
    assert_close_relative(agreement, v["loss_consistency"])
    assert_close_relative(total, v["loss_total"])
    for key in learned:
        assert_close_relative(v[key].grad, v["grad_" + key])


def test_maxnorm(golden, assert_close_relative) -> None:
    v = golden("maxnorm_projection")
    radius = maxnorm_radius(v["weight_at_start"], v["thresh"].item())
    assert_close_relative(radius, v["radius"])
    project_rows_(v["weight_before"], radius)
    assert_close_relative(v["weight_before"], v["weight_after"])
