from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from longtail.classes import Classes
from longtail.errors import LongtailError, UsageError
from longtail.faces import scores as verification
from longtail.faces.scores import (
    accuracy_by_shots,
    fold_accuracy,
    identify,
    nearest,
    normalise,
    pair_scores,
    plot_roc,
    pool_templates,
    roc,
)


def _scores(rng: np.random.Generator, pairs: int, share: float = 0.5, digits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    same = rng.random(pairs) < share
    return np.round(rng.normal(size=pairs) + 1.5 * same, digits), same


def _unit(rng: np.random.Generator, rows: int, dim: int = 8) -> np.ndarray:
    x = rng.normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("digits", [6, 1])  # 1: many ties
def test_roc_against_scikit_learn(rng, digits):
    scores, same = _scores(rng, 500, digits=digits)
    curve = roc(scores, same)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(curve.tar, tar)
    np.testing.assert_allclose(curve.thresholds, thresholds)


@pytest.mark.parametrize("digits", [6, 1])
def test_tar_at_far_against_every_threshold(rng, digits):
    scores, same = _scores(rng, 400, digits=digits)
    curve = roc(scores, same)
    for far in (0.5, 0.1, 0.05, 0.01):
        thresholds = [np.inf, *scores]
        allowed = [t for t in thresholds if np.mean(scores[~same] >= t) <= far]
        assert curve.tar_at(far) == pytest.approx(max(np.mean(scores[same] >= t) for t in allowed))


def test_what_the_pairs_cannot_support_is_not_measurable():
    same = np.arange(3100) < 100
    curve = roc(np.linspace(1, 0, 3100), same)
    assert curve.tar_at(1e-3) == 1.0
    assert [curve.tar_at(far) for far in (1e-4, 1e-5, 1e-6)] == [None] * 3
    thousand = roc(np.linspace(1, 0, 1100), same[:1100])
    assert thousand.tar_at(1e-3) == 1.0  # exactly one of 1,000
    assert roc(np.linspace(1, 0, 1099), same[:1099]).tar_at(1e-3) is None
    assert roc(np.zeros(10), np.zeros(10, bool)).tar_at(0.5) is None
    assert roc(np.zeros(10), np.ones(10, bool)).tar_at(0.5) is None


def test_view_2_against_a_search_of_all_thresholds(rng):
    scores, same = _scores(rng, 200)
    folds = np.repeat(np.arange(10), 20)
    result = fold_accuracy(scores, same, folds)
    accuracies = []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        ordered = np.sort(scores[train])[::-1]
        middles = [np.inf, *(ordered[:-1] + ordered[1:]) / 2, ordered[-1]]
        right = [np.mean((scores[train] >= t) == same[train]) for t in middles]
        best = middles[int(np.argmax(right))]
        assert result.thresholds[fold] == pytest.approx(best)
        accuracies.append(np.mean((scores[test] >= best) == same[test]))
    np.testing.assert_allclose(result.accuracies, accuracies)
    assert result.mean == pytest.approx(np.mean(accuracies))
    deviation = np.sqrt(sum((a - np.mean(accuracies)) ** 2 for a in accuracies) / 9)
    assert result.standard_error == pytest.approx(deviation / np.sqrt(10))


def test_a_folds_own_pairs_do_not_choose_its_threshold():
    scores, same = np.array([0.9, 0.1, 0.9, 0.1, 0.4, 0.3]), np.array([1, 0, 1, 0, 0, 1], bool)
    result = fold_accuracy(scores, same, np.array([0, 0, 1, 1, 2, 2]))
    assert result.thresholds[2] == pytest.approx(0.5)
    assert result.accuracies[2] == 0.5


def test_folds_must_be_several():
    with pytest.raises(UsageError, match="at least 2 folds, and these pairs have 1"):
        fold_accuracy(np.zeros(2), np.array([True, False]), np.zeros(2, int))


def test_pair_scores_over_several_chunks(rng, monkeypatch):
    monkeypatch.setattr(verification, "_CHUNK", 7)
    x = _unit(rng, 10)
    left, right = rng.integers(0, 10, 30), rng.integers(0, 10, 30)
    np.testing.assert_allclose(
        pair_scores(x, left, right), [x[a] @ x[b] for a, b in zip(left, right, strict=True)], rtol=1e-5
    )
    assert len(pair_scores(x, left[:0], right[:0])) == 0


def test_zero_and_infinite_embeddings_are_named():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]])
    np.testing.assert_allclose(normalise(x[:1], ["a"]), [[0.6, 0.8]])
    with pytest.raises(
        LongtailError, match=r"2 of 3 embeddings cannot be compared, first that of 'b': its length is 0"
    ):
        normalise(x, ["a", "b", "c"])


def test_templates_are_sums_over_media_of_means_over_frames(rng):
    x = rng.normal(size=(40, 3))
    templates, media = rng.integers(5, 9, 40), rng.integers(0, 4, 40)
    numbers, pooled = pool_templates(x, templates, media)
    assert numbers.tolist() == sorted(set(templates.tolist()))
    for number, vector in zip(numbers, pooled, strict=True):
        mine = templates == number
        expected = sum(x[mine & (media == medium)].mean(0) for medium in set(media[mine].tolist()))
        np.testing.assert_allclose(vector, expected)


def test_nearest_over_several_chunks(rng, monkeypatch):
    monkeypatch.setattr(verification, "_CHUNK", 4)
    probes, gallery = _unit(rng, 11), _unit(rng, 13)
    position, similarity = nearest(probes, gallery)
    np.testing.assert_array_equal(position, (probes @ gallery.T).argmax(1))
    np.testing.assert_allclose(similarity, (probes @ gallery.T).max(1), rtol=1e-6)


@pytest.mark.parametrize("chunk", [4, 8192])
def test_identification_against_brute_force(rng, monkeypatch, chunk):
    monkeypatch.setattr(verification, "_CHUNK", chunk)
    people = np.array([3, 1, 3, 2, 1, 3, 7])  # 2 and 7 have one image: nobody looks for them
    probes = 0.6 * _unit(rng, 8)[people] + _unit(rng, 7) * 0.8
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    distractors = _unit(rng, 30)
    fars = (0.5, 0.1, 0.01, 1e-3)
    result = identify(probes, people, distractors, fars)

    pairs = [(a, b) for a in range(7) for b in range(7) if a != b and people[a] == people[b]]
    genuine = np.array([probes[a] @ probes[b] for a, b in pairs])
    found = [probes[a] @ probes[b] > max(probes[a] @ d for d in distractors) for a, b in pairs]
    assert 0 < np.mean(found) < 1
    assert result.rank1 == pytest.approx(np.mean(found))
    impostor = (probes @ distractors.T).ravel()
    curve = roc(np.concatenate([genuine, impostor]), np.arange(len(genuine) + len(impostor)) < len(genuine))
    for far in fars:
        assert result.tar[far] == pytest.approx(curve.tar_at(far))
    assert result.tar[1e-3] is None


def test_identification_needs_mates_and_distractors(rng):
    with pytest.raises(UsageError, match="at least two images"):
        identify(_unit(rng, 3), np.arange(3), _unit(rng, 2))
    with pytest.raises(UsageError, match="one distractor"):
        identify(_unit(rng, 3), np.zeros(3, int), _unit(rng, 0))


def test_a_mate_no_closer_than_a_distractor_does_not_count():
    x = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert identify(x, np.zeros(2, int), x[:1], fars=(0.5,)).rank1 == 0.0


def test_accuracy_by_shots_weighs_identities_alike():
    classes = Classes(("a", "b", "c", "d"), (500, 200, 50, 120))
    labels = np.array([0, 0, 0, 1, 2])
    correct = np.array([True, True, True, False, True])
    assert accuracy_by_shots(correct, labels, classes) == {"many": 0.5, "medium": 1.0, "few": None}


def test_roc_picture(rng, tmp_path):
    plot_roc({"cosface": roc(*_scores(rng, 300)), "epl": roc(*_scores(rng, 300))}, tmp_path / "roc.png")
    with Image.open(tmp_path / "roc.png") as image:
        assert image.format == "PNG"
        assert image.size == (900, 675)
    assert [path.name for path in tmp_path.iterdir()] == ["roc.png"]
