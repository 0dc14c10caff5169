import multiprocessing

import numpy as np
import pytest
import torch
from scipy.stats import hmean
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, top_k_accuracy_score

from longtail.classes import Classes
from longtail.errors import LongtailError
from longtail.evaluation.accuracy import Evaluator

COUNTS = (500, 101, 100, 60, 20, 19, 3)  # many, many, medium, medium, medium, few, few
CLASSES = Classes(tuple("abcdefg"), COUNTS)


def scores(images=400, seed=0, classes=7):
    """Scores that are right about half of the time, on an unbalanced test set."""
    random = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, generator=random) ** 2 * classes).long()
    logits = torch.randn(images, classes, generator=random) * 2
    logits[torch.arange(images), labels] += 2
    return logits, labels


def evaluate(logits, labels, classes=CLASSES, batch=64):
    evaluator = Evaluator(classes)
    for start in range(0, len(labels), batch):
        evaluator.update(logits[start : start + batch], labels[start : start + batch])
    return evaluator.compute()


def assert_same(found, expected):
    found, expected = dict(found), dict(expected)
    assert found.pop("per_class") == pytest.approx(expected.pop("per_class"))
    assert found == pytest.approx(expected)


def test_agrees_with_scikit_learn():
    logits, labels = scores()
    metrics = evaluate(logits, labels)
    probabilities = logits.double().softmax(1).numpy()
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted, y = probabilities.argmax(1), labels.numpy()
    assert metrics["top1"] == pytest.approx((predicted == y).mean())
    assert metrics["class_balanced"] == pytest.approx(balanced_accuracy_score(y, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(y, predicted, average="macro"))
    assert metrics["top5"] == pytest.approx(top_k_accuracy_score(y, probabilities, k=5))
    assert metrics["nll"] == pytest.approx(log_loss(y, probabilities), rel=1e-6)
    assert metrics["images"] == 400
    assert 0.2 < metrics["top1"] < metrics["top5"] < 1


def test_worst_tenth_and_harmonic_mean():
    classes = Classes(tuple(map(str, range(21))), (30,) * 21)
    logits, labels = scores(images=2000, classes=20)  # the last class has no image
    logits = torch.cat([logits, torch.full((2000, 1), -99.0)], dim=1)
    metrics = evaluate(logits, labels, classes)
    accuracies = np.array(metrics["per_class"][:20])
    assert metrics["harmonic_mean"] == pytest.approx(hmean(accuracies))
    assert metrics["worst_tenth"] == pytest.approx(np.sort(accuracies)[:2].mean())
    metrics = evaluate(torch.eye(21)[[0, 0, 2]], torch.tensor([0, 1, 2]), classes)
    assert (metrics["harmonic_mean"], metrics["worst_tenth"]) == (0, 0)


def test_calibration_error_agrees_with_a_loop_over_bins():
    logits, labels = scores(seed=1)
    probabilities = logits.double().softmax(1).numpy()
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert evaluate(logits, labels)["ece"] == pytest.approx(expected, rel=1e-5)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    logits = 1000.0 * torch.eye(7)
    assert evaluate(logits, torch.arange(7))["ece"] == 0
    assert evaluate(logits, torch.arange(7).roll(1))["ece"] == 1


def test_shots_are_means_over_their_classes():
    logits, labels = scores()
    metrics = evaluate(logits, labels)
    recall = [(logits.argmax(1)[labels == c] == c).double().mean().item() for c in range(7)]
    assert metrics["per_class"] == pytest.approx(recall)
    assert metrics["many"] == pytest.approx(np.mean(recall[:2]))
    assert metrics["medium"] == pytest.approx(np.mean(recall[2:5]))
    assert metrics["few"] == pytest.approx(np.mean(recall[5:]))


def test_on_a_balanced_test_set_class_balanced_is_top1():
    logits = scores(350)[0]
    metrics = evaluate(logits, torch.arange(7).repeat(50))
    assert metrics["class_balanced"] == pytest.approx(metrics["top1"])


def test_classes_without_test_images_count_nowhere():
    logits, labels = scores()
    keep = (labels != 3) & (labels != 5) & (labels != 6)
    logits, labels = logits[keep], labels[keep]
    metrics = evaluate(logits, labels)
    present, predicted = [0, 1, 2, 4], logits.argmax(1)
    assert (predicted == 3).any()  # it can still be predicted, wrongly
    assert [c for c, value in enumerate(metrics["per_class"]) if value is None] == [3, 5, 6]
    assert metrics["few"] is None
    assert metrics["medium"] == pytest.approx((metrics["per_class"][2] + metrics["per_class"][4]) / 2)
    assert metrics["class_balanced"] == pytest.approx(np.mean([metrics["per_class"][c] for c in present]))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, labels=present, average="macro"))


def test_no_shot_of_a_kind_and_few_classes():
    metrics = evaluate(*scores(classes=3), classes=Classes(("a", "b", "c"), (1000, 500, 200)))
    assert metrics["medium"] is None
    assert metrics["few"] is None
    assert metrics["top5"] is None


def test_among_equal_scores_the_first_class_wins():
    metrics = evaluate(torch.zeros(7, 7), torch.arange(7))
    assert metrics["per_class"] == [1, 0, 0, 0, 0, 0, 0]
    assert metrics["top1"] == pytest.approx(1 / 7)
    assert metrics["top5"] == pytest.approx(5 / 7)


def test_batches_do_not_matter():
    logits, labels = scores()
    assert_same(evaluate(logits, labels, batch=1), evaluate(logits, labels, batch=400))


def test_half_precision_scores_are_evaluated_in_single_precision():
    logits, labels = scores()
    half = logits.bfloat16()
    assert evaluate(half, labels)["nll"] == pytest.approx(evaluate(half.float(), labels)["nll"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_refused(bad):
    logits, labels = scores()
    logits[[3, 200], 2] = bad
    with pytest.raises(LongtailError, match="2 of 400 evaluated images"):
        evaluate(logits, labels)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(LongtailError, match="no image"):
        Evaluator(CLASSES).compute()


def _half(rank, folder, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    logits, labels = scores()
    evaluator = Evaluator(CLASSES)
    evaluator.update(logits[rank::2], labels[rank::2])
    evaluator.reduce()
    results.put(evaluator.compute())
    torch.distributed.destroy_process_group()


def test_two_processes_on_halves_equal_one_on_the_whole(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_half, args=(rank, tmp_path, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join()
    assert found[0] == found[1]
    assert_same(found[0], evaluate(*scores()))
