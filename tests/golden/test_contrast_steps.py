"""Whole steps of the contrastive methods, as training runs them, against the authors' own: encoders, queue, loss, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from longtail.classes import Classes
from longtail.methods.base import Batch, Clock, Method
from longtail.methods.kcl import KCL
from longtail.methods.paco import GPaCo, PaCo
from longtail.methods.ssd import SSD
from longtail.methods.tsc import TSC

Vector = dict[str, Tensor]


class Body(nn.Sequential):
    """The vectors' backbone: a linear layer and a ReLU, or nothing where images are features already."""

    def __init__(self, width: int | None, dim: int) -> None:
        super().__init__(*([] if width is None else [nn.Linear(width, dim), nn.ReLU()]))
        self.dim = dim


def build(cls: type[Method], v: Vector, width: int | None, **options: Any) -> Any:
    counts = v.get("class_counts", torch.ones(10, dtype=torch.int64))
    classes = Classes(tuple(map(str, range(len(counts)))), tuple(counts.tolist()))
    method = cls(Body(width, 12), classes, cls.Options.model_validate(options))  # type: ignore[arg-type]
    return method.train()


def put(module: nn.Module, v: Vector, prefix: str) -> None:
    """Give `module` the vector's state: its names are the module's, with _ for dots."""
    state = module.state_dict()
    module.load_state_dict({name: v.get(f"{prefix}_{name.replace('.', '_')}", value) for name, value in state.items()})


def put_queue(method: Any, v: Vector) -> None:
    method.queue.keys.copy_(v["queue_before"])
    method.queue.labels.copy_(v["queue_labels_before"])
    method.queue.position.copy_(v["pointer_before"])


def check_queue_after(method: Any, v: Vector, assert_close_relative: Any) -> None:
    assert_close_relative(method.queue.keys, v["queue_after"])
    assert torch.equal(method.queue.labels, v["queue_labels_after"])
    assert torch.equal(method.queue.position, v["pointer_after"])


def check_gradients(module: nn.Module, v: Vector, prefix: str, assert_close_relative: Any) -> None:
    for name, parameter in module.named_parameters():
        assert_close_relative(parameter.grad, v[f"{prefix}_{name.replace('.', '_')}"])


def step(method: Any, v: Vector, stage: str) -> dict[str, Tensor]:
    """The terms of the vector's step, after their gradients were computed. The releases move the key encoder first."""
    clock = Clock(stage, 0, 1, 0, 1, torch.Generator().manual_seed(0))
    method.after_step(clock)
    batch = Batch((v["query_inputs"], v["key_inputs"]), v["labels"], torch.arange(len(v["labels"])))
    terms: dict[str, Tensor] = method.losses({"main": batch}, clock)
    torch.stack(list(terms.values())).sum().backward()
    return terms


@pytest.mark.parametrize(
    ("name", "unused", "stage"),
    [
        ("kcl_all_denominator", "negatives", "contrast"),
        ("kcl_unused_zeroed", "zeroed", "contrast"),
        ("kcl_random_positives", "negatives", "contrast"),
        ("tsc", "negatives", "tsc"),
        ("tsc_shared_mask", "negatives", "tsc"),
    ],
)
def test_kcl_and_tsc(name: str, unused: str, stage: str, golden, assert_close_relative, monkeypatch) -> None:
    v = golden(name)
    options = {
        **{"dim": 8, "projector": "mlp", "queue": len(v["queue_before"]), "unused": unused},
        **{"tau": v["temperature"].item(), "momentum": v["momentum"].item(), "positives": v["positives_k"].item()},
    }
    if stage == "tsc":
        options |= {"target_weight": v["target_weight"].item()}
        options["masks"] = "shared" if name == "tsc_shared_mask" else "separate"
    method = build(TSC if stage == "tsc" else KCL, v, None, **options)
    for index in (0, 2):
        put(method.projector[index], v, f"query_fc_{index}")
        put(method.key.projector[index], v, f"key_before_fc_{index}")
    put_queue(method, v)
    if stage == "tsc":
        method.targets.copy_(v["targets"])
        method.class_means.copy_(v["class_means_before"])
    # Which positives are drawn is chance: take the vector's. Its targets stand in their own order, ours in the classes'.
    if "positive_mask" in v:
        positive = v["positive_mask"].bool()
    else:
        positive = v["positive_mask_class"][:, 1:].bool()
        if stage == "tsc":
            positive = positive | v["positive_mask_target"][:, 1:].bool()
            queue = positive[:, : options["queue"]]
            positive = torch.cat((queue, positive[:, options["queue"] :][:, v["assignment"]]), 1)
    monkeypatch.setattr(method, "draw", lambda same, draws: positive)

    terms = step(method, v, stage)

    assert_close_relative(method.key(v["key_inputs"]), v["key_features"])
    if "key_after_fc_0_weight" in v:
        for index in (0, 2):
            for kind in ("weight", "bias"):
                expected = v[f"key_after_fc_{index}_{kind}"]
                assert_close_relative(getattr(method.key.projector[index], kind), expected)
    assert_close_relative(terms["contrastive"], v["loss"])
    for index in (0, 2):
        check_gradients(method.projector[index], v, f"grad_query_fc_{index}", assert_close_relative)
    check_queue_after(method, v, assert_close_relative)
    if stage == "tsc":
        assert_close_relative(method.class_means, v["class_means_after"])
        assert torch.equal(method.assignment, v["assignment"])


@pytest.mark.parametrize("name", ["paco_step", "paco_step_weights", "gpaco_step", "gpaco_step_smooth"])
def test_paco_and_gpaco(name: str, golden, assert_close_relative) -> None:
    v = golden(name)
    has_key = not name.startswith("gpaco")
    options = {
        **{"dim": 8, "queue": len(v["queue_before"]), "tau": v["temperature"].item(), "alpha": v["alpha"].item()},
        **{"beta": v["beta"].item(), "gamma": v["gamma"].item(), "supervised_tau": v["supervised_temperature"].item()},
    }
    options |= {"momentum": v["momentum"].item()} if has_key else {"smoothing": v["label_smoothing"].item()}
    method = build(PaCo if has_key else GPaCo, v, 6, **options)
    put(method.backbone[0], v, "before_query_body")
    put(method.projector, v, "before_query_fc")
    put(method.classifier, v, "before_centres")
    if has_key:
        put(method.key.backbone[0], v, "before_key_body")
        put(method.key.projector, v, "before_key_fc")
    put_queue(method, v)

    terms = step(method, v, "train")

    assert_close_relative(terms["parametric_contrastive"], v["loss"])
    check_gradients(method.backbone[0], v, "grad_query_body", assert_close_relative)
    check_gradients(method.classifier, v, "grad_centres", assert_close_relative)
    for layer, index in zip(method.projector, range(9), strict=False):
        if has_key and index == 0:  # batch norm takes its bias out again
            assert_close_relative(layer.weight.grad, v["grad_query_fc_0_weight"])
        else:
            check_gradients(layer, v, f"grad_query_fc_{index}", assert_close_relative)
    check_queue_after(method, v, assert_close_relative)
    if has_key:
        for name, value in method.key.projector.state_dict().items():
            assert_close_relative(value, v[f"after_key_fc_{name.replace('.', '_')}"])
        assert_close_relative(method.key.backbone[0].weight, v["after_key_body_weight"])
        assert_close_relative(method.projector[1].running_mean, v["after_query_fc_1_running_mean"])
        assert_close_relative(method.projector[1].running_var, v["after_query_fc_1_running_var"])


def test_ssd_features(golden, assert_close_relative) -> None:
    v = golden("ssd_stage1")
    method = build(SSD, v, 6, dim=8, queue=16, tau=v["temperature"].item(), momentum=v["momentum"].item())
    put(method.backbone[0], v, "before_query_body")
    put(method.projector, v, "before_query_projector")
    put(method.classifier, v, "before_classifier")
    put(method.key.backbone[0], v, "before_key_body")
    put(method.key.projector, v, "before_key_projector")
    put_queue(method, v)

    terms = step(method, v, "features")

    assert_close_relative(terms["ce"], v["loss_classification"])
    assert_close_relative(terms["contrastive"], v["loss_contrastive"])
    check_gradients(method.backbone[0], v, "grad_query_body", assert_close_relative)
    check_gradients(method.projector, v, "grad_query_projector", assert_close_relative)
    check_gradients(method.classifier, v, "grad_classifier", assert_close_relative)
    check_queue_after(method, v, assert_close_relative)
    for name, value in method.key.projector.state_dict().items():
        assert_close_relative(value, v[f"after_key_projector_{name.replace('.', '_')}"])
    assert_close_relative(method.key.backbone[0].weight, v["after_key_body_weight"])


def put_classifier(classifier: nn.Linear, v: Vector, prefix: str) -> None:
    classifier.load_state_dict({"weight": v[f"{prefix}weight"], "bias": v[f"{prefix}bias"]})


def test_ssd_scales(golden, assert_close_relative) -> None:
    v = golden("ssd_stage2")
    method = build(SSD, v, None)
    put_classifier(method.classifier, v, "")
    method.scales.data.copy_(v["scales"])
    batch = Batch((v["features"],), v["labels"], torch.arange(5))
    loss = method.losses({"main": batch}, Clock("scales", 0, 1, 0, 1, torch.Generator()))["ce"]
    loss.backward()
    assert_close_relative(method.logits(v["features"]), v["logits"])
    rows, bias = method.classifier_rows()
    assert_close_relative(v["features"] @ rows.T + bias, v["logits"])
    assert_close_relative(loss, v["loss"])
    assert_close_relative(method.scales.grad, v["grad_scales"])


def test_ssd_distillation(golden, assert_close_relative) -> None:
    v = golden("ssd_stage3")
    method = build(SSD, v, 6, distil_tau=v["temperature"].item())
    put(method.backbone[0], v, "teacher_body")
    put_classifier(method.classifier, v, "teacher_")
    method.scales.data.copy_(v["teacher_scales"])
    start = {name: value.clone() for name, value in method.teacher_backbone.state_dict().items()}
    distil = next(stage for stage in SSD.stages(method.hp) if stage.name == "distil")
    method.before_stage(distil, None)
    assert all(torch.equal(method.backbone.state_dict()[name], value) for name, value in start.items())
    assert_close_relative(method.teacher_classifier(method.teacher_backbone(v["inputs"])), v["teacher_logits"])

    hard, soft = v["hard_logits"].requires_grad_(), v["soft_logits"].requires_grad_()
    method.hard_classifier, method.classifier = Answer(hard), Answer(soft)
    batch = Batch((v["inputs"],), v["labels"], torch.arange(5))
    terms = method.losses({"main": batch}, Clock("distil", 0, 1, 0, 1, torch.Generator()))
    total = terms["ce"] + terms["distillation"]
    total.backward()
    assert_close_relative(terms["ce"], v["loss_classification"])
    assert_close_relative(terms["distillation"], v["loss_distillation"])
    assert_close_relative(total, v["loss_total"])
    assert_close_relative(hard.grad, v["grad_hard_logits"])
    assert_close_relative(soft.grad, v["grad_soft_logits"])


class Answer(nn.Module):
    """A head that answers with given scores."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, features: Tensor) -> Tensor:
        return self.scores
