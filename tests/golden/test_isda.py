"""Implicit semantic augmentation against the authors' code: statistics, scores, losses and gradients of three steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.losses.class_weights import effective_number_weights
from longtail.losses.classifier import ClassifierLoss
from longtail.losses.isda import confusion_graph, propagate, prototype_shift, spread, update_statistics


def start(v: dict[str, Tensor], diagonal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Means, covariances and counts before the first image."""
    classes, dim = v["classifier_weight"].shape
    covariances = torch.zeros(classes, dim) if diagonal else torch.zeros(classes, dim, dim)
    return torch.zeros(classes, dim), covariances, torch.zeros(classes)


def learned(v: dict[str, Tensor], step: int) -> tuple[Tensor, Tensor, Tensor]:
    values = v["features"][step], v["classifier_weight"], v["classifier_bias"]
    return tuple(value.clone().requires_grad_() for value in values)


def test_isda(golden, assert_close_relative) -> None:
    v = golden("isda_steps")
    state = start(v)
    for i in range(3):
        x, w, b = learned(v, i)
        labels = v["labels"][i]
        z = F.linear(x, w, b)
        update_statistics(x, labels, *state)
        augmented = z + v["strength"][i] / 2 * spread(w, labels, state[1])
        loss = F.cross_entropy(augmented, labels)
        loss.backward()
        for value, key in zip((z, augmented, loss, *state), _KEYS, strict=True):
            assert_close_relative(value, v[key][i])
        for value, key in ((x, "features"), (w, "classifier_weight"), (b, "classifier_bias")):
            assert_close_relative(value.grad, v[f"grad_{key}"][i])


_KEYS = ("logits", "augmented_logits", "loss", "means_after", "covariances_after", "counts_after")


def test_risda_graph_shift_and_weights(golden, assert_close_relative) -> None:
    v = golden("risda_steps")
    confusion = torch.zeros(6, 6)
    places = (v["true_labels_of_training_set"], v["predicted_labels_of_training_set"])
    confusion.index_put_(places, torch.ones(len(places[0])), accumulate=True)
    assert torch.equal(confusion, v["confusion_counts"])
    assert_close_relative(confusion_graph(confusion), v["graph"], 1e-6)
    assert_close_relative(prototype_shift(v["class_means_of_training_set"], v["graph"]), v["prototype_shift"])
    assert_close_relative(effective_number_weights(v["class_counts"], 0.9999), v["class_weights"])


@pytest.mark.parametrize("diagonal", [False, True])
def test_risda(diagonal: bool, golden, assert_close_relative) -> None:
    v = golden("risda_diagonal_steps" if diagonal else "risda_steps")
    state = start(v, diagonal)
    tail = torch.arange(6) >= v["head_classes"]
    if diagonal:
        tail = torch.zeros(6, dtype=torch.bool).index_fill(0, v["tail_class_indices"], True)
    shift = torch.zeros(6, 6) if diagonal else v["prototype_shift"]
    criterion = ClassifierLoss("ce", v["class_counts"])
    for i in range(3):
        x, w, b = learned(v, i)
        labels, alpha, beta = v["labels"][i], 0.0 if diagonal else v["alpha"][i], v["beta"][i]
        shifted = x + alpha * shift[labels]
        z = F.linear(shifted, w, b)
        update_statistics(shifted, labels, *state)
        propagate(state[1], v["graph"], tail)
        moved = ((w - w[labels][:, None]) * shift[labels][:, None]).sum(2)
        augmented = z + beta / 2 * spread(w, labels, state[1]) + alpha * moved
        loss = criterion(augmented, labels, class_weights=v["class_weights"])
        loss.backward()
        spreads = "variances_after" if diagonal else "covariances_after"
        keys = ("augmented_logits", "loss", "means_after", spreads, "counts_after")
        for value, key in zip((augmented, loss, *state), keys, strict=True):
            assert_close_relative(value, v[key][i])
        if not diagonal:
            assert_close_relative(shifted, v["shifted_features"][i])
            assert_close_relative(z, v["logits_of_shifted_features"][i])
            # What the method computes: cross-entropy does not see a number that all scores of an image share.
            plain = F.linear(x, w, b) + 2 * alpha * shift[labels] @ w.T + beta / 2 * spread(w, labels, state[1])
            assert_close_relative(criterion(plain, labels, class_weights=v["class_weights"]), v["loss"][i])
        for value, key in ((x, "features"), (w, "classifier_weight"), (b, "classifier_bias")):
            assert_close_relative(value.grad, v[f"grad_{key}"][i])


def test_metasaug(golden, assert_close_relative) -> None:
    v = golden("metasaug_ldam")
    inputs = ("features", "classifier_weight", "covariances")
    x, w, covariances = (v[name].requires_grad_() for name in inputs)
    labels = v["labels"]
    z = F.linear(x, w, v["classifier_bias"])
    assert_close_relative(z, v["logits"])
    augmented = z + v["strength"] / 2 * spread(w, labels, covariances)
    criterion = ClassifierLoss("ldam", v["class_counts"], max_margin=v["max_margin"].item())
    lowered = augmented.scatter_add(1, labels[:, None], -criterion.margins[labels, None])
    assert_close_relative(lowered, v["augmented_logits"])
    loss = criterion(augmented, labels, class_weights=v["class_weights"])
    loss.backward()
    assert_close_relative(loss, v["loss"])
    for name in inputs:
        assert_close_relative(v[name].grad, v[f"grad_{name}"])


@pytest.mark.parametrize("diagonal", [False, True])
def test_statistics_are_those_of_all_images_at_once(diagonal: bool) -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(60, 4, dtype=torch.float64) + 3, torch.randint(3, (60,))
    means, counts = torch.zeros(3, 4).double(), torch.zeros(3).double()
    covariances = torch.zeros(3, 4).double() if diagonal else torch.zeros(3, 4, 4).double()
    for part in torch.arange(60).split(7):
        update_statistics(x[part], labels[part], means, covariances, counts)
    for c in range(3):
        own = x[labels == c]
        expected = own.T.cov(correction=0)
        torch.testing.assert_close(means[c], own.mean(0))
        torch.testing.assert_close(covariances[c], expected.diagonal() if diagonal else expected)
    assert counts.tolist() == labels.bincount().tolist()
