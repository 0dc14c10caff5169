"""LIFT against its release: every module inside a one-block transformer, and the classifier's starts and loss."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from longtail.losses.softmax import logit_adjusted_cross_entropy
from longtail.models.adapters import adapt
from longtail.models.backbone import Backbone
from longtail.models.heads import CosineClassifier
from longtail.models.starts import ClassStatistics, class_mean_rows, text_rows
from longtail.models.timm_backbone import _take_apart_transformer
from longtail.models.torchvision_compat import ensure_torchvision
from longtail.models.weights import load_weights

BLOCK = ("attn.in_proj_", "attn.out_proj.", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
CLIP = ["class_embedding", "positional_embedding", "proj", "conv1.weight"]
CLIP += [f"{part}{kind}" for kind in ("weight", "bias") for part in ("ln_pre.", "ln_post.")]
CLIP += [f"transformer.resblocks.0.{part}{kind}" for kind in ("weight", "bias") for part in BLOCK]
# Each module's parameters: their names and ours.
BOTTLENECK = {
    f"{theirs}_{kind}": f"bottleneck.{ours}.{kind}"
    for theirs, ours in (("ln", "norm"), ("down_proj", "down"), ("up_proj", "up"))
    for kind in ("weight", "bias")
}
NAMES = {
    "adaptformer": {"scale": "scale", **BOTTLENECK},
    "adapter": BOTTLENECK,
    "lora": {"q_lora_A": "query_a", "q_lora_B": "query_b", "v_lora_A": "value_a", "v_lora_B": "value_b"},
    "vpt": {"prompt": "prompts"},
}


def transformer(vector, clip):
    """The vector's backbone, built by timm and loaded as a file of it would be: CLIP's under the names OpenAI gave them."""
    ensure_torchvision()
    from timm.layers import QuickGELU
    from timm.models.vision_transformer import VisionTransformer

    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    options = {"pre_norm": True, "act_layer": QuickGELU, "norm_layer": norm} if clip else {}
    model = VisionTransformer(8, 4, 3, 0, "token", 16, 1, int(vector["heads"]), **options)
    names = [f"visual.{name}" for name in CLIP] if clip else list(model.state_dict())
    flat = {f"backbone_{name.removeprefix('visual.').replace('.', '_')}": name for name in names}
    load_weights(model, {flat[key]: value for key, value in vector.items() if key in flat}, "the vector")
    stages, pool = _take_apart_transformer(model)
    return Backbone(stages, 16, pool).eval()


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [
        ("lift_adaptformer_clip", "adaptformer", 32),
        ("lift_adaptformer_timm", "adaptformer", 32),
        ("lift_adapter_clip", "adapter", 32),
        ("lift_lora_clip", "lora", 32),
        ("lift_vpt_deep_clip", "vpt", 3),
    ],
)
def test_modules(golden, assert_close_relative, name, kind, width):
    vector = golden(name)
    backbone = transformer(vector, clip=name.endswith("clip"))
    assert_close_relative(backbone(vector["images"]), vector["features_without_adapter"])
    new = adapt(backbone, kind, classes=10, width=width)
    if kind != "vpt":  # it starts as nothing
        assert_close_relative(backbone(vector["images"]), vector["features_without_adapter"])
    named = {id(parameter): name for name, parameter in backbone.named_parameters()}
    module = {next(suffix for suffix in NAMES[kind].values() if named[id(p)].endswith(f".{suffix}")): p for p in new}
    head = CosineClassifier(16, 10, float(vector["scale"]))
    with torch.no_grad():
        head.weight.copy_(vector["head_weight"])
        for theirs, ours in NAMES[kind].items():
            module[ours].copy_(vector[f"adapter_{theirs}"])
    features = backbone(vector["images"])
    logits = head(features)
    loss = logit_adjusted_cross_entropy(logits, vector["labels"], vector["class_counts"])
    loss.backward()
    assert_close_relative(features, vector["features"])
    assert_close_relative(logits, vector["logits"])
    assert_close_relative(loss, vector["loss"])
    assert_close_relative(head.weight.grad, vector["grad_head_weight"])
    for theirs, ours in NAMES[kind].items():
        assert_close_relative(module[ours].grad, vector[f"grad_adapter_{theirs}"])


def test_classifier(golden, assert_close_relative):
    vector = golden("lift_head")
    statistics = ClassStatistics(10, 16)
    statistics.update(vector["features"], vector["labels"])
    assert_close_relative(class_mean_rows(statistics), vector["rows_from_class_means"])
    rows = text_rows(vector["text_features"], vector["visual_projection"])
    assert_close_relative(rows, vector["rows_from_text"])
    head = CosineClassifier(16, 10, float(vector["scale"]))
    with torch.no_grad():
        head.weight.copy_(rows)
    features = vector["batch_features"].requires_grad_()
    logits = head(features)
    loss = logit_adjusted_cross_entropy(logits, vector["batch_labels"], vector["class_counts"])
    loss.backward()
    assert_close_relative(logits, vector["logits"])
    assert_close_relative(loss, vector["loss"])
    assert_close_relative(features.grad, vector["grad_features"])
    assert_close_relative(head.weight.grad, vector["grad_rows"])
