"""Names that do not exist, and what is suggested for them."""

from __future__ import annotations

import pytest

from longtail.errors import unknown_name
from longtail.methods import method_class

METHODS = ("balanced_softmax", "bce", "ce", "class_balanced", "crt", "focal", "logit_adjustment")
OPTIONS = ("backbone", "batch_size", "epochs", "lr", "momentum", "weight_decay")


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("cross_entropy", METHODS, "ce"),
        ("Cross-Entropy", METHODS, "ce"),
        ("focal_loss", METHODS, "focal"),
        ("Focal", METHODS, "focal"),
        ("class-weights", METHODS, "class_balanced"),
        ("balanced_sofmax", METHODS, "balanced_softmax"),
        ("learning_rate", OPTIONS, "lr"),
        ("wd", OPTIONS, "weight_decay"),
        ("model", OPTIONS, "backbone"),
        ("batchsize", OPTIONS, "batch_size"),
    ],
)
def test_nearest_in_meaning_or_spelling(name, known, meant):
    assert str(unknown_name("name", name, known)) == f"Unknown name '{name}'. Did you mean '{meant}'?"


def test_nothing_is_suggested_where_nothing_is_near():
    assert "Known: backbone, batch_size" in str(unknown_name("option", "xyzzy", OPTIONS))


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "vit_b_16"])
def test_backbone_as_a_method(name):
    with pytest.raises(ValueError, match=f"'{name}' is a backbone, not a method: .* --backbone {name}`"):
        method_class(name)
