"""What a learning-rate range test says (arXiv 1506.01186, section 3.3): a rate to begin with."""

from dataclasses import dataclass

import numpy as np

_SMOOTHED = 0.04  # standard deviation of the window, as a share of the curve
_DIVERGED = 4.0


@dataclass(frozen=True)
class LrSuggestion:
    """What the curve of losses says.

    Attributes:
        lr: the rate to begin with: where the smoothed loss falls fastest over the logarithm of the
            rate.
        lowest: the rate with the lowest smoothed loss; training is about to diverge there.
        smoothed_N: the smoothed losses.
    """

    lr: float
    lowest: float
    smoothed_N: np.ndarray


def lr_at(step: int, *, lowest: float, highest: float, num_steps: int) -> float:
    """Return the rate of a step: from `lowest` to `highest` in equal ratios."""
    return float(lowest * (highest / lowest) ** (step / max(1, num_steps - 1)))


def has_diverged(losses: list[float]) -> bool:
    """Return whether the last losses are not finite, or four times the best of their kind.

    Args:
        losses: of each step so far; the median of five is compared, so one bad batch ends nothing.
    """
    recent = np.array(losses[-5:])
    if not np.isfinite(recent).all():
        return True
    if len(losses) < 10:
        return False
    medians = np.median(np.lib.stride_tricks.sliding_window_view(np.array(losses), 5), axis=1)
    # Losses below 0 have no multiples: what counts is the height above the best.
    first, best, now = medians[0], medians.min(), medians[-1]
    return bool(now > best + (_DIVERGED - 1) * max(abs(best), 0.1 * abs(first)))


def suggest(lrs: list[float], losses: list[float]) -> LrSuggestion | None:
    """Return the rate to begin with, or None where the loss never fell.

    Losses are smoothed by a Gaussian over the steps, forwards and backwards alike (a running mean
    alone would shift the curve to higher rates). The last step, at which training diverged, counts
    like any other.

    Args:
        lrs: rate of each step, in equal ratios.
        losses: the batch's loss at each step; trailing ones that are not finite are left out.
    """
    finite = np.isfinite(losses)
    count = int(np.argmin(finite)) if not finite.all() else len(losses)
    if count < 10:
        return None
    smoothed_N = _gaussian(np.array(losses[:count]), width=max(1.0, _SMOOTHED * len(losses)))
    bottom = int(np.argmin(smoothed_N))
    slope_N = np.gradient(smoothed_N, np.log(lrs[:count]))
    # A few steps in the beginning have no smooth neighbours, and nothing counts after the bottom.
    first = count // 20
    if bottom <= first or smoothed_N[bottom] >= smoothed_N[first]:
        return None
    steepest = first + int(np.argmin(slope_N[first : bottom + 1]))
    return LrSuggestion(lr=lrs[steepest], lowest=lrs[bottom], smoothed_N=smoothed_N)


def _gaussian(values_N: np.ndarray, *, width: float) -> np.ndarray:
    reach = int(3 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights_N = np.convolve(np.ones_like(values_N), kernel, mode="full")[
        reach : reach + len(values_N)
    ]
    return np.convolve(values_N, kernel, mode="full")[reach : reach + len(values_N)] / weights_N
