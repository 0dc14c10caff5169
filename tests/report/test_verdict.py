"""The sentences of a verdict say what was put in, and advice appears where it should and not elsewhere."""

from __future__ import annotations

import re

import numpy as np
import pytest

from longtail.classes import Classes
from longtail.evaluation.predictions import Predictions
from longtail.report.verdict import advice, findings, listing

COUNTS = (500, 300, 50, 10, 5)
NAMES = ("oak", "elm", "ash", "yew", "box")


def predictions(matrix, probability=None, counts=COUNTS):
    """A model whose confusion matrix (rows: true) is `matrix`."""
    matrix = np.array(matrix)
    labels, predicted = (np.repeat(index.ravel(), matrix.ravel()) for index in np.indices(matrix.shape))
    if probability is None:
        probability = (labels == predicted).mean()
    sure = np.full(len(labels), probability)
    images = [f"{i}.png" for i in range(len(labels))]
    return Predictions(Classes(NAMES, counts), "test", images, labels, predicted, sure, sure, None)


def text(sentences):
    return "\n".join(sentence.text for sentence in sentences).replace("\N{NO-BREAK SPACE}", " ")


GOOD = np.eye(5, dtype=int) * 19 + 1  # 20 of 24 right, whatever the class
MUTUAL = [[14, 10, 0, 0, 0], [6, 18, 0, 0, 0], *GOOD[2:]]
BIASED = [[24, 0, 0, 0, 0], [0, 24, 0, 0, 0], [2, 0, 22, 0, 0], [12, 0, 0, 12, 0], [6, 12, 0, 0, 6]]


def test_findings():
    said = text(findings(predictions(BIASED)))
    assert "class-balanced accuracy is 73.3 % (95 % interval" in said
    assert "on 120 test images of 5 classes" in said
    assert "many-shot classes reach 100.0 % and the few-shot ones 37.5 %: rare classes are 62.5 points behind" in said
    assert "box (25.0 %, most often taken for elm), yew (50.0 %, most often taken for oak)" in said
    assert "62.5 % of the images of few-shot classes are taken for a many-shot class (false head rate)" in said
    assert "the other way round it is 0.0 %" in said


@pytest.mark.parametrize(
    ("matrix", "probability", "method", "expected"),
    [
        (BIASED, None, "ce", "predicted 0.38 times as often as they occur.*such as balanced_softmax"),
        (BIASED, None, "glmc", "predicted 0.38 times.*Compare glmc with other methods"),
        (np.array(BIASED)[::-1, ::-1], None, "bcl", "predicted 1.\\d\\d times as often.*weaker correction"),
        (BIASED, None, "ce", "Collect: training images of box \\(5 so far\\)"),
        (GOOD, 0.99, "ce", "Probabilities are 15.7 points too high on average \\(calibration error 15.7\\)"),
        (GOOD, 0.6, "ce", "Probabilities are 23.3 points too low"),
        (MUTUAL, None, "ce", "oak and elm \\(41.7 % and 25.0 %\\) are taken for each other"),
        (np.eye(5, dtype=int) * 3, None, "ce", "5 of 5 classes have fewer than 10"),
    ],
)  # fmt: skip
def test_advice(matrix, probability, method, expected):
    assert re.search(expected, text(advice(predictions(matrix, probability), method, [], 0)), re.DOTALL)


def test_no_advice_where_nothing_stands_out():
    assert text(advice(predictions(GOOD), "ce", [], 0)).startswith("Nothing stands out")


def test_train_longer_where_accuracy_still_rises():
    def lines(scores):
        return [{"test": {"class_balanced": score}} for score in scores]

    rising = text(advice(predictions(GOOD), "ce", lines(np.linspace(0.1, 0.6, 20)), 0))
    assert "Train longer: the class-balanced accuracy still rose by 10.5 points" in rising
    level = text(advice(predictions(GOOD), "ce", lines([*np.linspace(0.1, 0.6, 10), *[0.6] * 10]), 0))
    assert "Train longer" not in level


def test_doubtful_labels_are_told():
    assert "the labels of 7 images look doubtful" in text(advice(predictions(GOOD), "ce", [], 7))


def test_classes_that_are_never_right_are_counted():
    matrix = np.zeros((5, 5), int)
    matrix[:, 0] = 24
    assert "4 classes are never right" in text(findings(predictions(matrix)))


def test_balanced_training_has_no_rare_classes():
    said = text(findings(predictions(GOOD, counts=(9,) * 5)))
    assert "behind" not in said
    assert "false head rate" not in said


def test_listing():
    assert listing(["a"]) == "a"
    assert listing(["a", "b"]) == "a and b"
    assert listing(["a", "b"], 1200) == "a, b and 1,200 more"
