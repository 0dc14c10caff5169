"""The contrastive methods' losses and state against the authors' own implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.losses.paco import paco
from longtail.losses.proco import concentration, proco_logits, update_means
from longtail.losses.queue_contrast import queue_contrastive
from longtail.losses.softmax import logit_adjusted_cross_entropy
from longtail.losses.targets import (
    assign_targets,
    optimised_targets,
    simplex_targets,
    targeted_positives,
    targeted_supcon,
    uniformity,
    update_class_means,
)

Vector = dict[str, Tensor]


def queries(v: Vector) -> Tensor:
    """Unit query features from the vector's own, which are given before they are normalised and get the gradient."""
    return F.normalize(v["query_features"].requires_grad_())


@pytest.mark.parametrize("name", ["kcl_all_denominator", "kcl_unused_zeroed"])
def test_kcl(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    positive = v["positive_mask"].bool()
    same = v["labels"][:, None] == v["queue_labels_before"]
    zeroed = same & ~positive if name == "kcl_unused_zeroed" else None
    loss = queue_contrastive(
        queries(v), v["key_features"], v["queue_before"], positive, v["temperature"].item(), zeroed=zeroed
    )
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(v["query_features"].grad, v["grad_query_features"])


def test_kcl_with_random_positives(golden, assert_close_relative) -> None:
    v = golden("kcl_random_positives")
    positive = v["positive_mask_class"][:, 1:].bool()
    loss = queue_contrastive(queries(v), v["key_features"], v["queue_before"], positive, v["temperature"].item())
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(v["query_features"].grad, v["grad_query_features"])


@pytest.mark.parametrize("name", ["tsc", "tsc_shared_mask"])
def test_tsc(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    means, labels = v["class_means_before"].clone(), v["labels"]
    unit = queries(v)
    update_class_means(means, unit.detach(), labels)
    assert_close_relative(means, v["class_means_after"])
    assert torch.equal(assign_targets(means, v["targets"]), v["assignment"])

    entries = torch.cat((v["queue_before"], v["targets"]))
    weights = torch.ones(len(entries))
    weights[len(v["queue_before"]) :] = v["target_weight"]
    of_class, of_target = v["positive_mask_class"][:, 1:].bool(), v["positive_mask_target"][:, 1:].bool()
    positive = of_class | of_target
    loss = queue_contrastive(unit, v["key_features"], entries, positive, v["temperature"].item(), weights=weights)
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(v["query_features"].grad, v["grad_query_features"])


def test_tsc_in_the_batch(golden, assert_close_relative) -> None:
    v = golden("tsc_cifar")
    repeat, k = int(v["target_repeat"]), int(v["positives_k"])
    targets, positive = v["targets"].repeat_interleave(repeat, 0), v["positive_mask"].bool()
    loss = targeted_supcon(
        v["features_two_views"].requires_grad_(), v["labels"], targets, v["temperature"].item(), positive
    )
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(v["features_two_views"].grad, v["grad_features"])

    # Which positives are drawn is chance; how many, and among which, is not.
    target_labels = torch.arange(len(v["targets"])).repeat_interleave(repeat)
    drawn = targeted_positives(v["labels"], target_labels, k, torch.rand(len(positive)), torch.rand(len(positive)))
    assert torch.equal(drawn.sum(1), positive.sum(1))
    everything = torch.cat((v["labels"], target_labels)).repeat(2)
    assert (everything[:, None] == everything)[drawn].all()
    twins = torch.arange(len(positive)).roll(len(positive) // 2)
    assert drawn[torch.arange(len(positive)), twins].all()
    assert not drawn.diagonal().any()


def test_tsc_targets(golden) -> None:
    v = golden("tsc_targets")
    tau, lr, iterations = v["temperature"].item(), v["lr"].item(), v["iterations"].item()
    found = optimised_targets(v["initial"], tau, lr, iterations)
    assert uniformity(found.double(), tau).item() == pytest.approx(v["optimum_loss"].item(), abs=1e-5)
    in_3d = optimised_targets(v["initial_3d"], tau, lr, iterations)
    assert uniformity(in_3d, tau) <= v["loss_3d"] + 1e-3
    simplex = simplex_targets(*v["initial"].shape, torch.Generator().manual_seed(0)).double()
    assert uniformity(simplex, tau).item() == pytest.approx(v["optimum_loss"].item(), abs=1e-6)
    cosines = (simplex @ simplex.T)[~torch.eye(len(simplex), dtype=torch.bool)]
    torch.testing.assert_close(cosines, v["optimum_cosine"].double().expand_as(cosines), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["paco", "paco_step", "paco_step_weights", "gpaco_step", "gpaco_step_smooth"])
def test_paco(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    features = v["features_query_key_queue" if name == "paco" else "features"].requires_grad_()
    labels = v["labels_query_key_queue" if name == "paco" else "features_labels"]
    logits = v["centre_logits"].requires_grad_()
    count = len(logits)
    loss = paco(
        features[:count],
        labels[:count],
        features[count:],
        labels[count:],
        logits,
        v["class_counts"],
        v["temperature"].item(),
        v["alpha"].item(),
        beta=v["beta"].item(),
        gamma=v["gamma"].item(),
        supervised_tau=v["supervised_temperature"].item(),
        smoothing=v["label_smoothing"].item() if "label_smoothing" in v else 0.0,
    )
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(features.grad, v["grad_features"])
    assert_close_relative(logits.grad, v["grad_centre_logits"])


def test_ssd_contrast(golden, assert_close_relative) -> None:
    v = golden("ssd_stage1")
    same = v["labels"][:, None] == v["queue_labels_before"]
    loss = queue_contrastive(
        F.normalize(v["query_features"]),
        F.normalize(v["key_features"]),
        v["queue_before"],
        torch.zeros_like(same),
        v["temperature"].item(),
        removed=same,
    )
    assert_close_relative(loss, v["loss_contrastive"])


def test_proco(golden, assert_close_relative) -> None:
    v = golden("proco")
    means, amounts = v["means_before"].clone(), v["amounts_before"].clone()
    update_means(means, amounts, v["features"], v["labels"])
    assert_close_relative(means, v["means_after"])
    assert_close_relative(amounts, v["amounts_after"])
    accumulating, none_yet = v["accumulating_means_before"].clone(), torch.zeros_like(amounts)
    update_means(accumulating, none_yet, v["features"], v["labels"])
    assert_close_relative(accumulating, v["accumulating_means_after"])
    assert_close_relative(none_yet, v["accumulating_amounts_after"])
    assert_close_relative(concentration(means), v["kappa_after"], 1e-3)

    features = v["features"].requires_grad_()
    logits = proco_logits(features, means, v["temperature"].item())
    loss = logit_adjusted_cross_entropy(logits, v["labels"], v["class_counts"])
    loss.backward()
    assert_close_relative(logits, v["contrast_logits_exact"], 1e-6)
    assert_close_relative(loss, v["loss_exact"], 1e-6)
    # The release's Bessel values come from a recurrence that is right to three digits here, its derivatives to one.
    assert_close_relative(logits, v["contrast_logits"], 5e-3)
    assert_close_relative(loss, v["loss"], 5e-3)
    assert_close_relative(features.grad, v["grad_features"], 0.1)
