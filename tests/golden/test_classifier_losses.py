"""The losses on class scores, weighted by class and on mixed images, against the authors' code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from longtail.losses.bbn import branch_share, join_branches
from longtail.losses.class_weights import effective_number_weights
from longtail.losses.classifier import ClassifierLoss
from longtail.losses.softmax import adjust_logits, ldam_margins


def test_ldam_with_deferred_weights(golden, assert_close_relative) -> None:
    v = golden("ldam_drw")
    counts, scale, margin = v["class_counts"], v["scale"].item(), v["max_margin"].item()
    loss = ClassifierLoss("ldam", counts, scale=scale, max_margin=margin)
    assert_close_relative(ldam_margins(counts, margin), v["margins"])
    for i, epoch in enumerate(v["epochs_tried"].tolist()):
        weights = effective_number_weights(counts, v["beta"].item()) if epoch >= 160 else None
        assert_close_relative(weights if weights is not None else torch.ones(10), v["class_weights"][i])
        x, rows = v["features"].clone().requires_grad_(), v["classifier_rows"].clone().requires_grad_()
        cosines = F.normalize(x) @ F.normalize(rows).T
        cosines.retain_grad()
        value = loss(scale * cosines, v["labels"], class_weights=weights)
        value.backward()
        assert_close_relative(cosines, v["cosines"])
        assert_close_relative(value, v["losses"][i])
        for grad, key in ((x, "grad_features"), (rows, "grad_classifier_rows"), (cosines, "grad_cosines")):
            assert_close_relative(grad.grad, v[key][i])


def test_balanced_softmax(golden, assert_close_relative) -> None:
    v = golden("balanced_softmax")
    loss = ClassifierLoss("logit_adjusted", v["class_counts"])
    z = v["logits"].requires_grad_()
    value = loss(z, v["labels"])
    value.backward()
    assert_close_relative(value, v["loss"])
    assert_close_relative(value, v["loss_with_priors_in_place_of_counts"])
    assert_close_relative(loss.per_sample(z, v["labels"]), v["loss_per_sample"])
    assert_close_relative(z.grad, v["grad_logits"])


def test_focal(golden, assert_close_relative) -> None:
    v = golden("focal")
    value = ClassifierLoss("focal", torch.ones(10), gamma=v["gamma"].item())(v["logits"], v["labels"])
    assert_close_relative(value, v["loss"])


@pytest.mark.parametrize(
    ("vector", "name"), [("class_balanced_focal", "sigmoid_focal"), ("class_balanced_softmax", "softmax_bce")]
)
def test_class_balanced(vector: str, name, golden, assert_close_relative) -> None:
    v = golden(vector)
    counts = v["class_counts"]
    loss = ClassifierLoss(name, counts, gamma=v["gamma"].item(), over="batch")
    weights = effective_number_weights(counts, v["beta"].item())
    assert_close_relative(loss(v["logits"], v["labels"], class_weights=weights), v["loss"])


CMO = {
    "cross_entropy": ("ce", False),
    "cross_entropy_deferred_weights": ("ce", True),
    "ldam_deferred_weights": ("ldam", True),
    "balanced_softmax": ("logit_adjusted", False),
}


@pytest.mark.parametrize("key", CMO)
def test_cmo(key: str, golden, assert_close_relative) -> None:
    v, (name, weighted) = golden("cmo_mix"), CMO[key]
    scale, margin = v["scale"].item(), v["max_margin"].item()
    loss = ClassifierLoss(name, v["class_counts"], scale=scale, max_margin=margin)
    weights = effective_number_weights(v["class_counts"], v["deferred_beta"].item()) if weighted else None
    # The released LDAM multiplies what it is given by its scale, having lowered it by the margin.
    z = v["logits"].requires_grad_()
    scores = scale * z if name == "ldam" else z
    lam = v["lam_of_area"].item()
    labels = torch.stack((v["background_labels"], v["foreground_labels"]), 1)
    value = loss(scores, labels, torch.tensor([[lam, 1 - lam]]).expand(6, 2), weights)
    value.backward()
    assert_close_relative(value, v[f"loss_{key}"])
    assert_close_relative(z.grad, v[f"grad_logits_{key}"])
    for part in ("background", "foreground"):
        assert_close_relative(loss(scores, v[f"{part}_labels"], class_weights=weights), v[f"loss_{part}_{key}"])


@pytest.mark.parametrize("epoch", [0, 73, 199])
def test_bbn(epoch: int, golden, assert_close_relative) -> None:
    v = golden(f"bbn_mix_epoch{epoch}")
    share = branch_share(int(v["epoch"]), int(v["epochs"]))
    assert share == pytest.approx(v["alpha"].item(), rel=1e-6)
    learned = ("features_conventional", "features_rebalancing", "classifier_weight", "classifier_bias")
    for name in learned:
        v[name].requires_grad_()
    branches = v["features_conventional"], v["features_rebalancing"]
    joined = join_branches(*branches, share)
    z = F.linear(joined, v["classifier_weight"], v["classifier_bias"])
    labels = torch.stack((v["labels_conventional"], v["labels_rebalancing"]), 1)
    loss = ClassifierLoss("ce", torch.ones(10))(z, labels, torch.tensor([[share, 1 - share]]))
    loss.backward()
    assert_close_relative(joined, v["mixed_features"])
    assert_close_relative(z, v["logits"])
    assert_close_relative(loss, v["loss"])
    for name in learned:
        assert_close_relative(v[name].grad, v[f"grad_{name}"])
    evaluated = F.linear(join_branches(*branches), v["classifier_weight"], v["classifier_bias"])
    assert_close_relative(evaluated, v["evaluation_logits_of_the_same_features"])


def test_bbn_shares(golden, assert_close_relative) -> None:
    v = golden("bbn_alpha")
    for epochs in (200, 180, 90):
        shares = torch.tensor([branch_share(epoch, epochs) for epoch in range(epochs)])
        assert_close_relative(shares, v[f"alpha_{epochs}_epochs"], 1e-6)


def test_logit_adjustment_after_training(golden, assert_close_relative) -> None:
    v = golden("logit_adjustment_posthoc")
    for i, tau in enumerate(v["taus"].tolist()):
        adjusted = adjust_logits(v["logits"], v["class_counts"], tau)
        assert_close_relative(adjusted, v["adjusted_logits"][i])
        assert torch.equal(adjusted.argmax(1), v["predictions"][i])
    probabilities = adjust_logits(v["logits"], v["class_counts"]).softmax(1)
    assert_close_relative(probabilities, v["adjusted_probabilities_tau1"])
