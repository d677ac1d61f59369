"""Whether a classifier's probabilities are true: reliability bins and temperature scaling.

Shapes: S samples, K classes, M bins of confidence.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

NUM_BINS = 15
# A temperature beyond these says that there is no best one: every sample is right, or wrong.
_LEAST, _MOST = 0.01, 100.0
_HALVINGS = 50  # of 9.2: down to 1e-14


@dataclass(frozen=True)
class ReliabilityBins:
    """Samples by the highest probability that they were given (arXiv 1706.04599, section 2).

    Bins are of equal width over [0, 1]; a sample on an edge is in the bin above it, and one with
    confidence 1 in the last.

    Attributes:
        count_M: int64, samples in each bin.
        confidence_M: mean highest probability; NaN in an empty bin.
        accuracy_M: share of right predictions; NaN in an empty bin.
    """

    count_M: np.ndarray
    confidence_M: np.ndarray
    accuracy_M: np.ndarray


def reliability_bins(
    logits_SK: np.ndarray, labels_S: np.ndarray, *, temperature: float = 1.0
) -> ReliabilityBins:
    """Sort samples into 15 bins of confidence.

    Rows of logits that are not finite have no confidence, and are left out.

    Args:
        logits_SK: logits.
        labels_S: int64 class numbers; samples below 0 are left out.
        temperature: logits are divided by it.
    """
    keep_S = (labels_S >= 0) & np.isfinite(logits_SK).all(1)
    chance_SK = torch.softmax(torch.from_numpy(logits_SK[keep_S]).double() / temperature, dim=1)
    confidence_S, predicted_S = (x.numpy() for x in chance_SK.max(1))
    right_S = predicted_S == labels_S[keep_S]
    bin_S = np.minimum((confidence_S * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    count_M = np.bincount(bin_S, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        return ReliabilityBins(
            count_M=count_M,
            confidence_M=np.bincount(bin_S, confidence_S, NUM_BINS) / count_M,
            accuracy_M=np.bincount(bin_S, right_S, NUM_BINS) / count_M,
        )


def calibration_error(bins: ReliabilityBins) -> float:
    """Return the expected calibration error (arXiv 1706.04599, equation 3), in [0, 1].

    The mean of |accuracy - confidence| over samples, each bin taken as a whole; NaN without any.
    torchmetrics computes the same, except that a confidence of exactly 1 has a bin of its own.

    Args:
        bins: as from `reliability_bins`.
    """
    total = bins.count_M.sum()
    if not total:
        return float("nan")
    gap_M = np.abs(bins.accuracy_M - bins.confidence_M)
    return float(np.where(bins.count_M > 0, bins.count_M * gap_M, 0.0).sum() / total)


def negative_log_likelihood(
    logits_SK: np.ndarray, labels_S: np.ndarray, *, temperature: float = 1.0
) -> float:
    """Return the mean negative log-likelihood of labelled samples, nats; NaN without any.

    Args:
        logits_SK: logits.
        labels_S: int64 class numbers; samples below 0 are left out.
        temperature: logits are divided by it.
    """
    keep_S = labels_S >= 0
    if not keep_S.any():
        return float("nan")
    scaled_SK = torch.from_numpy(logits_SK[keep_S]).double() / temperature
    return float(F.cross_entropy(scaled_SK, torch.from_numpy(labels_S[keep_S]).long()))


def fit_temperature(logits_SK: np.ndarray, labels_S: np.ndarray) -> float:
    """Return the temperature that makes labels most likely (arXiv 1706.04599, section 4.2).

    It changes no prediction. Fit it on other samples than those that it is judged on. The loss is
    convex in the inverse temperature, so its slope is bisected, in float64 (the paper's LBFGS finds
    the same minimum). Where every sample is right, or the logits say nothing, the best temperature
    is 0 or infinite: the result is kept between 0.01 and 100.

    Args:
        logits_SK: logits; rows that are not finite are left out.
        labels_S: int64 class numbers; samples below 0 are left out.

    Returns:
        The temperature; 1 without any labelled sample.
    """
    keep_S = (labels_S >= 0) & np.isfinite(logits_SK).all(1)
    if not keep_S.any():
        return 1.0
    logit_SK = torch.from_numpy(logits_SK[keep_S]).double()
    label_S = torch.from_numpy(labels_S[keep_S]).long()
    mean_right = logit_SK.gather(1, label_S[:, None]).mean()

    def slope(log_temperature: float) -> float:
        """Return the loss's derivative by the inverse temperature; it falls as that falls."""
        chance_SK = torch.softmax(logit_SK / math.exp(log_temperature), dim=1)
        return float((chance_SK * logit_SK).sum(1).mean() - mean_right)

    low, high = math.log(_LEAST), math.log(_MOST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)
