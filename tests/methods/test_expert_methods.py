"""What methods with several experts do beside their losses: how a network is split, routing, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from longtail.classes import Classes
from longtail.config import FinetuneConfig
from longtail.errors import UsageError
from longtail.finetune.modes import prepare
from longtail.losses.ride import experts_used, first_means, helps_to_go_on, mean_of_first
from longtail.methods.balpoe import BalPoE
from longtail.methods.base import Method
from longtail.methods.ncl import NCL
from longtail.methods.ride import RIDE, RIDEOptions
from longtail.methods.sade import SADE
from longtail.models import build_backbone, count_parameters


def classes(count: int) -> Classes:
    return Classes(tuple(map(str, range(count))), tuple(range(10 * count, 0, -10)))


def build(cls: type[Method], backbone: str, count: int = 10, **options: Any) -> Method:
    return cls(build_backbone(backbone), classes(count), cls.Options(**options))


@pytest.mark.parametrize(
    ("backbone", "count", "options", "parameters"),
    [  # the released networks
        *(
            ("resnet32", 100, {"experts": e}, n)
            for e, n in ((2, 530_512), (3, 783_856), (4, 1_037_200), (6, 1_543_888))
        ),
        ("resnet32", 100, {"width": 1.0}, 1_362_064),
        ("resnet50", 1000, {}, 43_677_248),
        ("resnext50_32x4d", 1000, {}, 42_889_024),
        ("resnext50_32x4d", 1000, {"experts": 4}, 56_714_560),
    ],
)
def test_ride_has_the_released_parameters(backbone: str, count: int, options: dict[str, Any], parameters: int) -> None:
    assert count_parameters(build(RIDE, backbone, count, **options)) == parameters


def test_routers_of_three_experts_on_cifar_have_the_released_parameters() -> None:
    method = build(RIDE, "resnet32", 100, routers=True, router_top_k=30)
    assert count_parameters(method.routers) == 1615


def test_experts_share_the_early_stages_only() -> None:
    """The scores of one expert pull at the shared stages and at that expert."""
    method = build(RIDE, "resnet8")
    method.expert_answers(torch.randn(4, 3, 8, 8))[0][:, 1].sum().backward()
    pulled = {name for name, parameter in method.named_parameters() if parameter.grad.any()}
    own = ("backbone.", "trunks.1.", "heads.1.")
    assert pulled == {name for name, _ in method.named_parameters() if name.startswith(own)}


@pytest.mark.parametrize("width", [0.1, 0.25, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("backbone", ["resnet8", "timm:test_resnet"])
def test_experts_of_any_width(backbone: str, width: float) -> None:
    method = build(RIDE, backbone, width=width).eval()
    side = 160 if "timm" in backbone else 8
    assert method.logits(torch.rand(2, 3, side, side)).shape == (2, 10)
    assert method.heads[0].weight.shape[1] == round(width * build_backbone(backbone).dim)


@pytest.mark.parametrize(("cls", "start"), [(SADE, 3), (NCL, 0)])
def test_experts_of_a_pretrained_network_start_from_its_weights(cls: type[Method], start: int) -> None:
    backbone = build_backbone("resnet34_cifar")
    backbone.pretrained = True
    options = {} if start == 0 else {"width": 1.0}
    expected = [stage.state_dict() for stage in backbone.stages[start:]]
    method = cls(backbone, classes(10), cls.Options(**options))
    for expert in method.others if start == 0 else method.trunks:
        for stage, weights in zip(expert.stages, expected, strict=True):
            torch.testing.assert_close(stage.state_dict(), weights, rtol=0, atol=0)


def test_experts_of_a_partly_frozen_network() -> None:
    """What they share may be frozen, what is their own may not; norms that stay in evaluation mode do so in every expert."""
    backbone = build_backbone("resnet34_cifar")
    prepare(backbone, FinetuneConfig(mode="partial", last=2, norms="frozen"), 10)
    method = SADE(backbone, classes(10), SADE.Options(width=1.0)).train()
    norms = [part for part in method.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    learning = {name.split(".")[0] for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert learning == {"trunks", "heads"}
    for mode, last in (("partial", 1), ("head", None)):
        backbone = build_backbone("resnet34_cifar")
        prepare(backbone, FinetuneConfig(mode=mode, last=last), 10)
        for cls in (SADE, NCL):
            with pytest.raises(UsageError, match="some of them are frozen"):
                cls(backbone, classes(10), cls.Options())


def test_narrow_experts_of_a_pretrained_network_start_anew_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    backbone = build_backbone("resnet8")
    backbone.pretrained = True
    SADE(backbone, classes(10), SADE.Options())
    assert "only what experts share starts from pretrained weights" in caplog.text


def test_an_expert_of_ncl_is_a_whole_network() -> None:
    method = build(NCL, "resnet8", experts=3)
    alone = count_parameters(build_backbone("resnet8")) + 64 * 10
    assert count_parameters(method) == 3 * alone


def test_features_and_rows_give_the_mean_scores() -> None:
    images = torch.randn(4, 3, 8, 8)
    for cls in (RIDE, SADE, NCL):
        method = build(cls, "resnet8").eval()
        rows, bias = method.classifier_rows()
        assert bias is None
        torch.testing.assert_close(
            method.features(images) @ rows.T * 30 / 3, method.logits(images), rtol=1e-4, atol=1e-4
        )


def random_logits(images: int = 64, experts: int = 4, count: int = 5) -> Tensor:
    return torch.randn(images, experts, count, generator=torch.Generator().manual_seed(0))


def test_who_stopped_never_goes_on() -> None:
    answers = torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
    assert experts_used(answers).tolist() == [1, 2, 4, 3]


def test_the_first_experts_are_averaged() -> None:
    logits, used = random_logits(), torch.arange(64) % 4 + 1
    expected = torch.stack([rows[:n].mean(0) for rows, n in zip(logits, used, strict=True)])
    torch.testing.assert_close(mean_of_first(logits, used), expected)


def test_going_on_helps_where_more_experts_are_right() -> None:
    logits, labels = random_logits(), torch.arange(64) % 5
    right = [
        [bool(rows[:n].mean(0).argmax() == y) for n in range(1, 5)] for rows, y in zip(logits, labels, strict=True)
    ]
    expected = [[not row[i] and any(row[i + 1 :]) for i in range(3)] for row in right]
    assert helps_to_go_on(logits, labels).tolist() == expected
    assert any(map(any, expected))


def test_routers_decide_from_their_stage_on() -> None:
    method = build(RIDE, "resnet8", routers=True).eval()
    with torch.no_grad():
        method.routers.output[0].bias.fill_(-100.0)  # one expert is enough for everyone
        images = torch.randn(4, 3, 8, 8)
        experts, used = method.expert_answers(images)
        assert used.tolist() == [3] * 4
        torch.testing.assert_close(method.logits(images), experts.mean(1))
        method.before_stage(RIDE.stages(method.hp)[1], None)
        assert method.expert_answers(images)[1].tolist() == [1] * 4
        torch.testing.assert_close(method.logits(images), first_means(experts)[:, 0])
    assert {"routing", "routers.output.0.bias"} <= {name for name in method.state_dict() if method.deploys(name)}


def test_reweighting_starts_in_the_last_fifth() -> None:
    options = RIDEOptions()
    assert [round(options.reweight_from * epochs) for epochs in (200, 100, 10)] == [160, 80, 8]


@pytest.mark.parametrize(
    ("cls", "backbone", "options", "message"),
    [
        (RIDE, "timm:test_byobnet", {}, "network of 3 stages or more"),
        (RIDE, "timm:test_convnext", {}, "another width"),
        (SADE, "iresnet18", {}, "second time"),
        (NCL, "iresnet18", {}, "second time"),
    ],
)
def test_networks_that_cannot_be_split(cls: type[Method], backbone: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(cls, backbone, **options)


def test_full_width_experts_work_on_other_networks() -> None:
    method = build(RIDE, "timm:test_convnext", width=1.0).eval()
    assert method.logits(torch.rand(2, 3, 160, 160)).shape == (2, 10)


@pytest.mark.parametrize("experts", [1, 7])
def test_two_to_six_experts(experts: int) -> None:
    with pytest.raises(ValidationError, match="experts"):
        RIDEOptions(experts=experts)


def test_routers_that_look_at_more_logits_than_there_are() -> None:
    with pytest.raises(UsageError, match="5 highest logits, and there are 3 classes"):
        RIDE.check(RIDEOptions(routers=True), classes(3), 128)
    RIDE.check(RIDEOptions(), classes(3), 128)


def test_balpoe_is_balanced_where_strengths_average_one() -> None:
    assert build(BalPoE, "resnet8").prior_exponent() == 0
    assert build(BalPoE, "resnet8", taus=(0.0, 1.25, 2.5)).prior_exponent() == pytest.approx(-0.25)
    assert build(BalPoE, "resnet8", taus=(0.0, 0.0)).prior_exponent() == 1
