"""Metrics of classification and regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def class_scores(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> dict[str, float]:
    """Accuracy, F1 and Matthews' correlation coefficient.

    F1 is that of the second class where there are two, else the unweighted mean over all. Both F1 and Matthews'
    coefficient are 0 where they would be 0 / 0.

    Args:
        predicted: (n,) ids of classes.
        labels: (n,) the true ones.
        num_classes: How many classes there are.

    Example:
        >>> class_scores(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), 2)["accuracy"]
        0.75
    """
    average = "binary" if num_classes == 2 else "macro"
    classes = None if num_classes == 2 else list(range(num_classes))
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average=average, labels=classes, zero_division=0.0)),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }


def real_scores(predicted: NDArray[np.float64], labels: NDArray[np.float64]) -> dict[str, float]:
    """Pearson's and Spearman's correlation; 0 where all predictions or all labels are equal.

    Args:
        predicted: (n,) real numbers, n at least 2.
        labels: (n,) the true ones.

    Example:
        >>> real_scores(np.array([1.0, 2.0, 9.0]), np.array([0.0, 1.0, 2.0]))["spearman"]
        1.0
    """
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(stats.pearsonr(predicted, labels).statistic),
        "spearman": float(stats.spearmanr(predicted, labels).statistic),
    }
