"""The losses of methods with several experts, against the authors' own implementations: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
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
    routed_logits,
    routing_loss,
)
from longtail.losses.sade import inverse_prior, learn_shares, skill_diverse, view_disagreement

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
    logits, labels, k = v["expert_logits"], v["labels"], int(v["top_k"])
    learned = [key for key in v if f"grad_{key}" in v]
    for key in learned:
        v[key].requires_grad_()
    features = F.normalize(v["expert_maps"].mean((3, 4)), dim=2)
    answers = []
    for i in range(logits.shape[1] - 1):
        best = logits[:, : i + 1].mean(1).topk(k, dim=1).values
        hidden = F.linear(features[:, i], v[f"hidden_{i}_weight"], v[f"hidden_{i}_bias"]).relu()
        output = f"output_{i}" if f"output_{i}_weight" in v else "output"
        answers.append(F.linear(torch.cat([best, hidden], 1), v[f"{output}_weight"], v[f"{output}_bias"]))
    router_logits = torch.cat(answers, dim=1)
    loss = routing_loss(router_logits, logits, labels, v["positive_weight"].item())
    loss.backward()
    assert_close_relative(loss, v["loss"])
    for key in learned:
        assert_close_relative(v[key].grad, v[f"grad_{key}"])
    assert torch.equal(experts_used(router_logits), v["experts_used"])
    assert_close_relative(routed_logits(logits, router_logits), v["routed_logits"])
