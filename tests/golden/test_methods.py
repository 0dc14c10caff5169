"""The methods' own code, as training runs it, against the authors' numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from longtail.classes import Classes
from longtail.losses.glmc import conventional_share
from longtail.methods.base import Batch, Clock
from longtail.methods.bce3s import BCE3S, BCE3SOptions
from longtail.methods.bcl import BCL, BCLOptions
from longtail.methods.glmc import GLMC, GLMCOptions
from longtail.models.heads import mlp


class Features(nn.Module):
    """A backbone whose images are features already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return images


class Outputs(nn.Module):
    """A head that answers with given outputs, one a call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.outputs.pop(0)


def classes(counts: Tensor) -> Classes:
    return Classes(tuple(map(str, range(len(counts)))), tuple(counts.tolist()))


def clock(stage: str, epoch: int) -> Clock:
    return Clock(stage, epoch, 200, 0, 1, torch.Generator())


def two_labels(soft_target: Tensor) -> tuple[Tensor, Tensor]:
    """The (at most two) classes of each row of a soft target and their shares."""
    shares, labels = soft_target.topk(2, dim=1)
    return labels, shares


@pytest.mark.parametrize("name", ["bce3s_r04_epoch0", "bce3s_r04_epoch1", "bce3s_r10_epoch1"])
def test_bce3s(golden, assert_close_relative, name):
    v = golden(name)
    dim = v["features_origin"].shape[1]
    _, contrastive, uniform = (
        v["weights_joint_contrastive_uniform"] / v["weights_joint_contrastive_uniform"][0]
    ).tolist()
    options = BCE3SOptions(contrastive_weight=contrastive, uniform_weight=uniform, subsample=v["r"].item())
    method = BCE3S(Features(dim), classes(torch.ones(10, dtype=torch.int64)), options)
    method.projector = mlp(dim, dim, v["proj_w2"].shape[0], norm=False)
    first, _, second = method.projector
    for parameter, value in (
        (first.weight, "proj_w1"),
        (first.bias, "proj_b1"),
        (second.weight, "proj_w2"),
        (second.bias, "proj_b2"),
        (method.classifier.weight, "classifier_weight"),
        (method.classifier.bias, "classifier_bias"),
    ):
        parameter.data = v[value].clone()
    method.memory, method.seen = v["memory_before"].clone(), torch.ones(10, dtype=torch.bool)
    features = [v[f"features_{view}"].requires_grad_() for view in ("origin", "mixup", "cutmix")]
    mask = torch.zeros(10, dtype=torch.bool).index_fill(0, v["partial_index"], True)
    # The golden soft target lists classes, not which of them is the image's own: put that first.
    labels, shares = two_labels(v["soft_target"])
    swapped = labels[:, 0] != v["labels"]
    labels[swapped], shares[swapped] = labels[swapped].flip(1), shares[swapped].flip(1)
    labels[:, 0] = v["labels"]

    terms = method.terms(torch.cat(features), labels, shares, mask, int(v["epoch"]))

    total = sum(terms.values())
    total.backward()
    assert_close_relative(terms["joint"], v["loss_joint"])
    assert_close_relative(terms["uniform"] / uniform, v["loss_uniform"])
    if "contrastive" in terms:
        assert_close_relative(terms["contrastive"] / contrastive, v["loss_contrastive"])
    else:
        assert v["loss_contrastive"] == 0
    assert_close_relative(total, v["loss_total"])
    assert_close_relative(method.memory, v["memory_after"])
    for view, value in zip(("origin", "mixup", "cutmix"), features, strict=True):
        assert_close_relative(value.grad, v[f"grad_features_{view}"])
    assert_close_relative(method.classifier.weight.grad, v["grad_classifier_weight"])
    assert_close_relative(method.classifier.bias.grad, v["grad_classifier_bias"])
    if "contrastive" in terms:
        assert_close_relative(first.weight.grad, v["grad_proj_w1"])


def test_bce3s_second_stage(golden, assert_close_relative, monkeypatch):
    v = golden("bce3s_stage2_cb_bce")
    method = BCE3S(Features(16), classes(v["class_counts"]), BCE3SOptions(finetune="maxnorm", beta=v["beta"].item()))
    method.classifier.weight.data, method.classifier.bias.data = v["classifier_weight"], v["classifier_bias"]
    mask = torch.zeros(10, dtype=torch.bool).index_fill(0, v["partial_index"], True)
    monkeypatch.setattr("longtail.methods.bce3s.draw_class_mask", lambda *_: mask)
    batch = {"main": Batch((v["features"],), v["labels"], torch.arange(6))}

    loss = sum(method.losses(batch, clock("maxnorm", 0)).values())

    loss.backward()
    assert_close_relative(method.logits(v["features"]), v["logits"])
    assert_close_relative(loss, v["loss"])
    assert_close_relative(method.classifier.weight.grad, v["grad_classifier_weight"])
    assert_close_relative(method.classifier.bias.grad, v["grad_classifier_bias"])


@pytest.mark.parametrize(
    "build",
    [
        lambda c: BCE3S(Features(16), c, BCE3SOptions(finetune="maxnorm")),
        lambda c: GLMC(Features(16), c, GLMCOptions(finetune="maxnorm")),
    ],
)
def test_maxnorm_stage(golden, assert_close_relative, build):
    v = golden("maxnorm_projection")
    method = build(classes(torch.ones(10, dtype=torch.int64)))
    stage = next(s for s in method.stages(method.Options(finetune="maxnorm")) if s.name == "maxnorm")
    method.classifier.weight.data, method.classifier.bias.data = v["weight_at_start"].clone(), v["bias_before"].clone()
    method.before_stage(stage, None)
    assert_close_relative(method.radius, v["radius"])
    method.classifier.weight.data = v["weight_before"].clone()

    method.after_epoch(clock("maxnorm", 0))

    assert_close_relative(method.classifier.weight, v["weight_after"])
    assert_close_relative(method.classifier.bias, v["bias_after"])


def test_glmc(golden, assert_close_relative):
    v = golden("glmc_loss")
    weight = v["contrast_weight"].item()
    method = GLMC(Features(8), classes(torch.ones(10, dtype=torch.int64)), GLMCOptions(contrast_weight=weight))
    heads = {
        "conventional": ("logits_mixup", "logits_cutmix"),
        "classifier": ("rebalanced_logits_mixup", "rebalanced_logits_cutmix"),
        "predictor": ("predictor_mixup", "predictor_cutmix"),
        "projector": ("projector_mixup", "projector_cutmix"),
    }
    for head, names in heads.items():
        setattr(method, head, Outputs(*(v[name].requires_grad_() for name in names)))
    share = conventional_share(int(v["epoch"]), int(v["epochs"]))
    features = torch.zeros(5, 8)

    terms = method.terms(features, features, v["soft_target"], v["weighted_soft_target"], share)

    total = sum(terms.values())
    total.backward()
    assert share == pytest.approx(v["alpha"].item(), rel=1e-6)
    assert_close_relative(terms["conventional"], share * (v["loss_mixup"] + v["loss_cutmix"]))
    assert_close_relative(terms["rebalanced"], (1 - share) * (v["loss_mixup_weighted"] + v["loss_cutmix_weighted"]))
    assert_close_relative(terms["consistency"], weight * v["loss_consistency"])
    assert_close_relative(total, v["loss_total"])
    for name in ("logits", "rebalanced_logits", "predictor"):
        for view in ("mixup", "cutmix"):
            assert_close_relative(v[f"{name}_{view}"].grad, v[f"grad_{name}_{view}"])


def test_bcl_contrastive_term(golden, assert_close_relative):
    v = golden("bcl_balanced_contrastive")
    images, dim = v["features_two_views"].shape[0], v["features_two_views"].shape[2]
    options = BCLOptions(tau=v["temperature"].item(), contrast_weight=1.0)
    method = BCL(Features(dim), classes(v["class_counts"]), options)
    method.projector, method.centre_projector = nn.Identity(), nn.Identity()
    method.classifier.weight.data = v["class_centres"].clone()
    # Unit vectors stay as they are when normalised, but their gradient loses its radial part.
    views = [view.clone().requires_grad_() for view in v["features_two_views"].unbind(1)]
    batch = {"main": Batch((torch.zeros(images, dim), *views), v["labels"], torch.arange(images))}

    loss = method.losses(batch, clock("train", 0))["contrastive"]

    loss.backward()
    assert_close_relative(loss, v["loss"])
    grad = torch.stack([view.grad for view in views], dim=1)
    for actual, vectors, expected in (
        (grad, v["features_two_views"], v["grad_features"]),
        (method.classifier.weight.grad, v["class_centres"], v["grad_centres"]),
    ):
        assert_close_relative(actual, expected - vectors * (vectors * expected).sum(-1, keepdim=True))
