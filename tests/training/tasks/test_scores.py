import math

import numpy as np
import pytest

from qpeft.training.tasks.scores import class_scores, real_scores


def test_two_classes_by_hand():
    """2 true positives, 1 false positive, 2 false negatives, 3 true negatives."""
    predicted, labels = np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 1, 0, 0, 0])
    found = class_scores(predicted, labels, 2)
    assert found["accuracy"] == pytest.approx(5 / 8)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found["matthews"] == pytest.approx((2 * 3 - 1 * 2) / math.sqrt(3 * 4 * 4 * 5))


def test_three_classes_by_hand():
    """F1 is the mean over classes, one of which neither is nor is predicted; Matthews' R_K after Gorodkin (2004)."""
    predicted, labels = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, 0, 1])
    found = class_scores(predicted, labels, 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["f1"] == pytest.approx((2 * 2 / (2 * 2 + 1 + 1) * 2 + 0) / 3)
    correct, count, square = 4, 6, 3 * 3 + 3 * 3
    assert found["matthews"] == pytest.approx((correct * count - square) / (count**2 - square))


def test_what_would_be_nought_over_nought_is_nought():
    assert class_scores(np.zeros(4, int), np.array([0, 0, 0, 1]), 2) == {"accuracy": 0.75, "f1": 0.0, "matthews": 0.0}
    assert real_scores(np.ones(3), np.arange(3.0)) == {"pearson": 0.0, "spearman": 0.0}
    assert real_scores(np.arange(3.0), np.ones(3)) == {"pearson": 0.0, "spearman": 0.0}


def test_correlations_by_hand():
    predicted, labels = np.array([1.0, 2.0, 4.0, 9.0]), np.array([0.0, 2.0, 1.0, 5.0])
    a, b = predicted - 4, labels - 2
    found = real_scores(predicted, labels)
    assert found["pearson"] == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)))
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # two ranks differ by 1
