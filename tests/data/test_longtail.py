import hashlib
import struct

import numpy as np
import pytest

from longtail.data.images import ArraySet
from longtail.data.longtail import carve, check_labels, holdout, profile_counts, subset_hash
from longtail.errors import UsageError

CIFAR10, CIFAR100 = np.arange(50_000) % 10, np.arange(50_000) % 100


@pytest.mark.parametrize(
    ("n_max", "classes", "imbalance", "total"),
    # the training set sizes that the literature states
    [(5000, 10, 100, 12_406), (5000, 10, 50, 13_996), (5000, 10, 10, 20_431), (500, 100, 100, 10_847)],
)
def test_published_totals(n_max: int, classes: int, imbalance: float, total: int) -> None:
    assert profile_counts(n_max, classes, imbalance).sum() == total


@pytest.mark.parametrize("imbalance", [1, 10, 20, 50, 100, 200])
def test_counts_are_those_of_the_usual_loop(imbalance: float) -> None:
    for n_max, classes in ((5000, 10), (500, 100)):
        usual = [int(n_max * (1 / imbalance) ** (c / (classes - 1.0))) for c in range(classes)]
        assert profile_counts(n_max, classes, imbalance).tolist() == usual


def test_step_profile() -> None:
    assert profile_counts(500, 6, 100, "step").tolist() == [500] * 3 + [5] * 3
    assert profile_counts(500, 5, 7, "step").tolist() == [500] * 2 + [71] * 3


def test_the_smallest_class_of_an_exact_ratio_keeps_its_image() -> None:
    for n in range(2, 200):
        assert profile_counts(n, 10, n)[-1] == 1


def test_ldam_rule_is_the_loop_of_the_released_code() -> None:
    np.random.seed(0)
    kept = []
    for c, n in enumerate(profile_counts(500, 100, 100)):
        members = np.where(np.equal(CIFAR100, c))[0]
        np.random.shuffle(members)
        kept.append(members[:n])
    chosen = carve(CIFAR100, 100, 100, rule="ldam", seed=7)
    np.testing.assert_array_equal(chosen, np.sort(np.concatenate(kept)))
    assert len(chosen) == 10_847


def test_first_rule() -> None:
    labels = np.array([1, 0, 0, 1, 1, 0, 0, 1])
    assert carve(labels, 2, 4, rule="first").tolist() == [0, 1, 2, 5, 6]


def test_random_rule_follows_its_seed_and_draws_every_image_alike() -> None:
    np.testing.assert_array_equal(carve(CIFAR10, 10, 100, rule="random"), carve(CIFAR10, 10, 100, rule="random"))
    labels = np.arange(100) % 10
    drawn = sum(np.bincount(carve(labels, 10, 5, "step", "random", seed), minlength=100) for seed in range(400))
    few = drawn[labels >= 5] / 400  # 2 of 10 kept
    assert abs(few.mean() - 0.2) < 1e-9
    assert np.abs(few - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 400)


@pytest.mark.parametrize("rule", ["ldam", "first", "random"])
def test_every_rule_keeps_the_profile(rule: str) -> None:
    chosen = carve(CIFAR10, 10, 50, rule=rule)
    assert np.bincount(CIFAR10[chosen]).tolist() == profile_counts(5000, 10, 50).tolist()
    assert (np.diff(chosen) > 0).all()
    assert chosen.dtype == np.int64


@pytest.mark.parametrize(
    ("imbalance", "message"),
    [(0.5, "0.5 is impossible"), (float("nan"), "impossible"), (5001, "leaves class 9 with no image.*at most 5,000")],
)
def test_impossible_imbalance(imbalance: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        carve(CIFAR10, 10, imbalance)


def test_carving_what_is_already_imbalanced() -> None:
    with pytest.raises(UsageError, match=r"class 1 has 10 images and the profile asks for 33.*already imbalanced"):
        carve(np.repeat([0, 1, 2], [100, 10, 50]), 3, 9)


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="profile 'exponential'"):
        carve(CIFAR10, 10, 10, profile="exponential")
    with pytest.raises(UsageError, match="Did you mean 'ldam'"):
        carve(CIFAR10, 10, 10, rule="lda")


def test_subset_hash_does_not_depend_on_order_or_platform() -> None:
    expected = hashlib.sha256(struct.pack("<3q", 1, 5, 70_000)).hexdigest()[:12]
    assert subset_hash(np.array([70_000, 1, 5])) == expected
    assert subset_hash(np.array([5, 1, 70_000], dtype=np.int32)) == expected
    assert subset_hash(np.array([5, 1, 70_001])) != expected


def test_holdout_is_stratified_and_leaves_every_class_an_image() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, 5], [100, 20, 5, 2, 1]))
    train, validation = holdout(labels, 0.2, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    assert np.bincount(labels[validation], minlength=6).tolist() == [20, 4, 1, 0, 0, 0]
    train, validation = holdout(labels, 0.9, seed=3)
    assert np.bincount(labels[train], minlength=6).tolist() == [10, 2, 1, 1, 0, 1]


def test_holdout_follows_its_seed() -> None:
    np.testing.assert_array_equal(holdout(CIFAR10, 0.1, 1)[1], holdout(CIFAR10, 0.1, 1)[1])
    assert (holdout(CIFAR10, 0.1, 1)[1] != holdout(CIFAR10, 0.1, 2)[1]).any()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_impossible_holdout(fraction: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        holdout(CIFAR10, fraction, 0)


def test_holdout_of_nothing() -> None:
    with pytest.raises(UsageError, match="holds out no image"):
        holdout(np.array([0, 1]), 0.1, 0)


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["cat"], [0, 0], r"one class only \('cat'\)"),
        (["cat", "dog", "eel"], [0, 1, 0], r"class 2 \('eel'\) has no training image"),
        (["cat", "dog"], [0, 1, 2], r"label 2 of image train#2 is out of range; expected 0 to 1"),
        (["cat", "dog"], [0, -1, 1], r"label -1 of image train#1"),
    ],
)
def test_labels_that_cannot_be_trained_on(names: list[str], labels: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_labels(ArraySet("pets (train)", names, labels, np.zeros((len(labels), 2, 2), np.uint8), "train"))
    assert "pets (train)" in str(caught.value)
    assert caught.value.exit_code == 2


def test_good_labels() -> None:
    check_labels(ArraySet("pets", ["cat", "dog"], [1, 0], np.zeros((2, 2, 2), np.uint8), "train"))
