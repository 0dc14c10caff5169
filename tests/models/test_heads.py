from functools import partial

import pytest
import torch

from longtail.models.heads import CosineClassifier, LinearClassifier, UnitRowClassifier, mlp


@pytest.fixture
def features():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def cosines(features, classifier):
    x, w = features.double(), classifier.weight.double()
    return torch.stack([x @ row / row.norm() / x.norm(dim=1) for row in w], 1)


def test_cosine_classifier(features):
    classifier = CosineClassifier(6, 4, scale=30)
    torch.testing.assert_close(classifier(features), (30 * cosines(features, classifier)).float())
    assert classifier(1e4 * features).abs().max() <= 30.0001
    assert classifier.bias is None


def test_unit_row_classifier(features):
    classifier = UnitRowClassifier(6, 4)
    torch.nn.init.uniform_(classifier.weight, 1, 3)
    torch.nn.init.normal_(classifier.bias)
    expected = cosines(features, classifier) * features.double().norm(dim=1, keepdim=True) + classifier.bias
    torch.testing.assert_close(classifier(features), expected.float())


@pytest.mark.parametrize(
    "build",
    [LinearClassifier, partial(CosineClassifier, scale=16), UnitRowClassifier],
    ids=["linear", "cosine", "unit"],
)
def test_rows_and_bias_are_what_ranks_the_classes(build, features):
    """The scores are rows.x + bias, up to a positive factor per image."""
    torch.manual_seed(0)
    classifier, features = build(6, 4).double(), features.double()
    linear = features @ classifier.rows.T + (0 if classifier.bias is None else classifier.bias)
    scores = classifier(features)
    factor = scores[:, :1] / linear[:, :1]
    assert (factor > 0).all()
    torch.testing.assert_close(scores, factor * linear)
    assert classifier.weight.shape == classifier.rows.shape == (4, 6)
    scores.square().sum().backward()
    assert classifier.weight.grad.abs().sum() > 0


def test_linear_classifier_starts_from_kaiming_normal():
    torch.manual_seed(0)
    classifier = LinearClassifier(64, 1000)
    assert classifier.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert not classifier.bias.any()


def test_mlp():
    with_norm, without = mlp(6, 8, 3, norm=True), mlp(6, 8, 3, norm=False)
    assert sum(p.numel() for p in with_norm.parameters()) == 6 * 8 + 8 + 2 * 8 + 8 * 3 + 3
    assert sum(p.numel() for p in without.parameters()) == 6 * 8 + 8 + 8 * 3 + 3
    x = torch.randn(5, 6)
    first, last = without[0], without[-1]
    torch.testing.assert_close(without(x), (x @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias)
    torch.testing.assert_close(with_norm(1000 * x), with_norm(x), rtol=1e-2, atol=1e-2)  # the scale is normalised away
