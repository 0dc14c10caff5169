"""The methods with several experts, against the authors' own implementations: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longtail.classes import Classes
from longtail.losses.ncl import hard_classes
from longtail.losses.ride import experts_used, first_means, mean_of_first, routing_loss
from longtail.losses.sade import inverse_prior, learn_shares, view_disagreement
from longtail.methods.balpoe import BalPoE
from longtail.methods.base import Method
from longtail.methods.ncl import NCL
from longtail.methods.ride import RIDE
from longtail.methods.sade import SADE
from longtail.models import build_backbone
from longtail.models.experts import Routers

Vector = dict[str, Tensor]


def given_logits(method: Method) -> Method:
    """The method with experts whose features are their logits."""
    method.heads = nn.ModuleList(nn.Identity() for _ in method.heads)
    return method


def build(cls: type[Method], v: Vector, **options: Any) -> Method:
    classes = Classes(tuple(map(str, range(len(v["class_counts"])))), tuple(v["class_counts"].tolist()))
    return given_logits(cls(build_backbone("resnet8"), classes, cls.Options(**options)))


def ride(v: Vector) -> Tensor:
    method = build(
        RIDE,
        v,
        max_margin=v["max_margin"].item(),
        scale=v["scale"].item(),
        diversity=v["diversity_factor"].item(),
        temperature_share=v["reweight_factor"].item(),
        teacher_temperature=v.get("distill_temperature", torch.ones(())).item(),
    )
    late = v["epoch"] > v["reweight_epoch"]  # which the release counts from 1
    classes = method.late if late else (None, None)
    return sum(method.terms(v["expert_logits"], v["labels"], None, *classes, v.get("teacher_logits")).values())


def sade(v: Vector) -> Tensor:
    method = build(SADE, v, tau=v["tau"].item())
    return sum(method.terms(v["expert_logits"], v["labels"], None).values())


def ncl(v: Vector) -> Tensor:
    weights = {"mutual_weight": v["distill_factor"].item(), "hard_mutual_weight": v["distill_factor_hard"].item()}
    method = build(NCL, v, hard=v["hard_classes"].item() / len(v["class_counts"]), **weights)
    return sum(method.terms(v["expert_logits"], v["labels"]).values())


def balpoe(v: Vector) -> Tensor:
    method = build(BalPoE, v, taus=tuple(v["taus"].tolist()))
    labels = torch.stack((v["labels_first"], v["labels_second"]), dim=1)
    shares = torch.stack((v["share_first"], 1 - v["share_first"])).expand(len(labels), 2)
    return sum(method.terms(v["expert_logits"], labels, shares).values())


LOSSES: dict[str, Callable[[Vector], Tensor]] = {
    "ride_epoch10": ride,
    "ride_epoch170": ride,
    "ride_distill_epoch10": ride,
    "ride_distill_epoch170": ride,
    "sade": sade,
    "sade_tau1": sade,
    "ncl": ncl,
    "balpoe": balpoe,
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    v["expert_logits"].requires_grad_()
    loss = LOSSES[name](v)
    loss.backward()
    assert_close_relative(loss, v["loss"])
    assert_close_relative(v["expert_logits"].grad, v["grad_expert_logits"])


@pytest.mark.parametrize("name", ["sade", "sade_tau1"])
def test_inverse_prior(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    assert_close_relative(inverse_prior(v["class_counts"]), v["inverse_prior"])


def test_hard_classes(golden) -> None:
    v = golden("ncl")
    mask = hard_classes(v["expert_logits"][:, 0], v["labels"], int(v["hard_classes"]))
    assert torch.equal(mask, v["hard_mask"].bool())


def test_sade_aggregation(golden, assert_close_relative) -> None:
    v = golden("sade_aggregation")
    weights = v["single_weights"].requires_grad_()
    loss = view_disagreement(weights, v["two_view_expert_logits"][0])
    loss.backward()
    assert_close_relative(loss, v["single_loss"])
    assert_close_relative(weights.grad, v["single_grad_weights"])
    shares = learn_shares(
        lambda: v["two_view_expert_logits"],
        experts=3,
        epochs=len(v["weights_after_each_epoch"]),
        lr=v["lr"].item(),
        weight_decay=v["weight_decay"].item(),
    )
    assert_close_relative(shares, v["shares_after"])


@pytest.mark.parametrize("name", ["ride_routing", "ride_routing_separate"])
def test_ride_routing(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    logits = v["expert_logits"]
    features = v["expert_maps"].mean((3, 4))
    routers = Routers(3, features.shape[2], int(v["top_k"]), separate="output_0_weight" in v)
    keys = {name: name.replace(".", "_") for name, _ in routers.named_parameters()}
    if "output_weight" in v:  # one for all routers
        keys = {name: key.replace("output_0", "output") for name, key in keys.items()}
    routers.load_state_dict({name: v[key] for name, key in keys.items()})
    answers = routers(features, first_means(logits))
    loss = routing_loss(answers, logits, v["labels"], v["positive_weight"].item())
    loss.backward()
    assert_close_relative(loss, v["loss"])
    for name, parameter in routers.named_parameters():
        assert_close_relative(parameter.grad, v[f"grad_{keys[name]}"])
    assert torch.equal(experts_used(answers), v["experts_used"])
    assert_close_relative(mean_of_first(logits, experts_used(answers)), v["routed_logits"])
    assert_close_relative(mean_of_first(logits, torch.full((len(logits),), 3)), v["mean_logits"])
