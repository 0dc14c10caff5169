"""Starts of a classifier, against scikit-learn's and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from longtail.errors import UsageError
from longtail.models.heads import LinearClassifier
from longtail.models.starts import ClassStatistics, discriminant, read_text_rows, start_classifier


@pytest.fixture
def data():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 5, generator=draws) @ torch.randn(5, 5, generator=draws) + 2.0 * labels[:, None]
    return features, labels


def statistics_of(features, labels, classes=3):
    statistics = ClassStatistics(classes, features.shape[1])
    for part in range(0, len(labels), 7):
        statistics.update(features[part : part + 7], labels[part : part + 7])
    return statistics


def test_covariance_is_the_one_within_the_classes(data):
    features, labels = data
    statistics = statistics_of(features, labels)
    centred = features.double() - statistics.means[labels]
    torch.testing.assert_close(statistics.covariance, centred.T @ centred / 90)
    torch.testing.assert_close(statistics.means[1], features[labels == 1].double().mean(0))


def test_discriminant_is_scikit_learns(data):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = data
    rows, bias = discriminant(statistics_of(features, labels), shrinkage=0.5)
    reference = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=0.5, priors=np.full(3, 1 / 3), covariance_estimator=None
    )
    reference.fit(features.double().numpy(), labels.numpy())
    # theirs standardises before it shrinks, so it is asked for the classes, and ours for the formula
    ours = (features @ rows.T + bias).argmax(1)
    assert (ours.numpy() == reference.predict(features.double().numpy())).mean() > 0.95
    plain_rows, plain_bias = discriminant(statistics_of(features, labels), shrinkage=0.0)
    unshrunk = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3)).fit(
        features.double().numpy(), labels.numpy()
    )
    scores = features @ plain_rows.T + plain_bias
    expected = torch.from_numpy(unshrunk.predict_log_proba(features.double().numpy())).float()
    torch.testing.assert_close(scores.log_softmax(1), expected, rtol=1e-3, atol=1e-3)


def test_classifier_predicts_by_the_discriminant_it_starts_from(data):
    features, labels = data
    classifier = LinearClassifier(5, 3)
    statistics = statistics_of(features, labels)
    start_classifier(classifier, "discriminant", statistics)
    rows, bias = discriminant(statistics)
    torch.testing.assert_close(classifier(features), features @ rows.T + bias)
    start_classifier(classifier, "zero", None)
    assert not classifier(features).any()


def test_class_without_images_has_a_row(data):
    features, labels = data
    rows, bias = discriminant(statistics_of(features, labels, classes=4))
    assert rows.isfinite().all()
    assert bias.isfinite().all()


def test_text_rows_are_found_by_class_name(tmp_path):
    file = tmp_path / "text.npz"
    text = np.eye(3, 4, dtype=np.float32)
    np.savez(file, text_features=text, class_names=["cat", "dog", "eel"])
    assert torch.equal(read_text_rows(file, ("eel", "cat"), 4), torch.from_numpy(text[[2, 0]]))
    with pytest.raises(UsageError, match="no text features of class 'ox'"):
        read_text_rows(file, ("cat", "ox"), 4)
    with pytest.raises(UsageError, match=r"have 4 values, the backbone's features 8: .*visual_projection \[8, T\]"):
        read_text_rows(file, ("cat", "dog"), 8)
    np.savez(file, class_names=["cat"])
    with pytest.raises(UsageError, match="no array 'text_features'; it has class_names"):
        read_text_rows(file, ("cat",), 8)
