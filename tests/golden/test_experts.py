"""The losses of methods with several experts, against the authors' own implementations: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from longtail.losses.balpoe import expert_logit_adjustment
from longtail.losses.class_balanced import effective_number_weights
from longtail.losses.ncl import hard_classes, nested
from longtail.losses.ride import (
    class_temperatures,
    distillation,
    diversity,
    expert_ldam,
    experts_used,
    first_means,
    mean_of_first,
    routing_loss,
)
from longtail.losses.sade import inverse_prior, learn_shares, skill_diverse, view_disagreement
from longtail.models.experts import Routers

Vector = dict[str, Tensor]


def ride(v: Vector) -> Tensor:
    weights = temperatures = None
    if v["epoch"] > v["reweight_epoch"]:  # which the release counts from 1
        weights = effective_number_weights(v["class_counts"], 0.9999)
        temperatures = class_temperatures(v["class_counts"], v["reweight_factor"].item())
    z = v["expert_logits"]
    margins = expert_ldam(z, v["labels"], v["class_counts"], v["max_margin"].item(), v["scale"].item(), weights)
    return margins + v["diversity_factor"] * diversity(z, temperatures)


def distilled_ride(v: Vector) -> Tensor:
    z = v["expert_logits"]
    distilled = distillation(z, v["teacher_logits"], v["distill_temperature"].item())
    return z.shape[1] * (ride(v) + v["distill_factor"] * distilled)


def ncl(v: Vector) -> Tensor:
    terms = nested(v["expert_logits"], v["labels"], v["class_counts"], int(v["hard_classes"]))
    one = torch.ones(())
    return terms @ torch.stack([one, v["distill_factor"], one, v["distill_factor_hard"]])


def balpoe(v: Vector) -> Tensor:
    share = v["share_first"].item()
    first, second = (
        expert_logit_adjustment(v["expert_logits"], v[labels], v["class_counts"], v["taus"].tolist())
        for labels in ("labels_first", "labels_second")
    )
    return share * first + (1 - share) * second


LOSSES: dict[str, Callable[[Vector], Tensor]] = {
    "ride_epoch10": ride,
    "ride_epoch170": ride,
    "ride_distill_epoch10": distilled_ride,
    "ride_distill_epoch170": distilled_ride,
    "sade": lambda v: skill_diverse(v["expert_logits"], v["labels"], v["class_counts"], v["tau"].item()).sum(),
    "sade_tau1": lambda v: skill_diverse(v["expert_logits"], v["labels"], v["class_counts"], v["tau"].item()).sum(),
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
