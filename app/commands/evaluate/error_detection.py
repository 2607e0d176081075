"""How well a number that comes with each answer finds the wrong ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RISK_SHARES = (0.5, 0.7, 0.8, 0.9, 1.0)
_FOLDS = 5
_STEPS = 25  # of Newton's method
_RIDGE = 1e-6  # keeps a separable fit finite
_LEAST_SHARE = 1e-12

Numbers = NDArray[np.float64]  # (images,)
Correct = NDArray[np.bool_]  # (images,)


@dataclass(frozen=True)
class ErrorDetection:
    """What a number says of which answers are wrong.

    Attributes:
        auroc: the probability that a wrong answer is less trusted than a correct one (0.5 is chance).
        aurc: the mean share of wrong answers among the most trusted ones, over all shares of images that are answered
            (area under the risk-coverage curve, Geifman and El-Yaniv 2017); less is better.
        risks: the share of wrong answers among the most trusted RISK_SHARES of the images.
    """

    auroc: float
    aurc: float
    risks: dict[float, float]


def detections(score: Numbers, disagreement: Numbers, correct: Correct) -> dict[str, ErrorDetection]:
    """Of the best class's score, of the branches' agreement, and of a logistic regression on both.

    That is cross-fitted: each fifth of the images is judged by what was fitted to the others. Empty if all answers are
    correct, or all wrong.
    """
    if correct.all() or not correct.any():
        return {}
    features = np.stack([_log_odds(score), _log_odds(disagreement), np.ones_like(score)], axis=1)
    trust = {"top score": score, "agreement": -disagreement, "both": _cross_fitted(features, correct)}
    return {name: detection(each, correct) for name, each in trust.items()}


def detection(trust: Numbers, correct: Correct) -> ErrorDetection:
    """Of `trust`, which should be higher for correct answers."""
    risks = risk_curve(trust, correct)
    counts = {share: max(1, round(share * len(risks))) for share in RISK_SHARES}
    return ErrorDetection(
        auroc=auroc(trust, correct),
        aurc=float(risks.mean()),
        risks={share: float(risks[count - 1]) for share, count in counts.items()},
    )


def auroc(trust: Numbers, correct: Correct) -> float:
    """The probability that a correct image has more trust than a wrong one; equal trust counts half."""
    _, places, counts = np.unique(trust, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]  # of equal ones the mean
    positives, negatives = int(correct.sum()), int((~correct).sum())
    return float((ranks[correct].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def risk_curve(trust: Numbers, correct: Correct) -> Numbers:
    """The share of wrong answers among the 1, 2, … most trusted images."""
    order = np.argsort(-trust, kind="stable")
    risks: Numbers = np.cumsum(~correct[order]) / np.arange(1, len(order) + 1)
    return risks


def _cross_fitted(features: NDArray[np.float64], correct: Correct) -> Numbers:
    trust = np.empty(len(correct))
    folds = np.random.default_rng(0).permutation(len(correct)) % _FOLDS
    for fold in range(_FOLDS):
        inside = folds == fold
        trust[inside] = features[inside] @ _logistic_regression(features[~inside], correct[~inside])
    return trust


def _logistic_regression(features: NDArray[np.float64], correct: Correct) -> Numbers:
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-np.clip(features @ weights, -500, 500)))
        slope = features.T @ (correct - expected) - _RIDGE * weights
        curvature = (features * (expected * (1 - expected))[:, None]).T @ features
        weights += np.linalg.solve(curvature + _RIDGE * np.eye(len(weights)), slope)
    return weights


def _log_odds(shares: Numbers) -> Numbers:
    clipped = np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE)
    found: Numbers = np.log(clipped) - np.log1p(-clipped)
    return found
