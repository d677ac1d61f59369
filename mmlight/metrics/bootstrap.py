"""Scores with their confidence intervals, by the percentile bootstrap (Efron, 1979).

Shapes: S units that are drawn anew (samples, or items with all of their rows), R draws, K classes.
A score is a function of how often each unit was drawn, so that thousands of draws are one product
of matrices.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmlight.metrics.labelled import average_precision

# How often each unit was drawn (R, S), float64, to the score of each draw (R,).
Statistic = Callable[[Tensor], Tensor]
DRAWS = 1000
# Numbers that are drawn at once.
_MOST = 1 << 22


@dataclass(frozen=True)
class Score:
    """A score of a whole set.

    Attributes:
        value: the score.
        low: the lower end of its interval of 95 %.
        high: the upper end.
        sd: its standard deviation over what was fitted several times; None for others.
    """

    value: float
    low: float
    high: float
    sd: float | None = None


def estimate(
    statistics: Mapping[str, Statistic], *, size: int, seed: int = 0, draws: int = DRAWS
) -> dict[str, Score]:
    """Return scores with the intervals that hold 95 % of the scores of sets drawn from this one.

    Args:
        statistics: by name; all see the same draws. Draws in which one is no number (a set without
            any class, say) don't count for it.
        size: S, the number of units.
        seed: of the draws; equal seeds give equal intervals on any machine.
        draws: R.
    """
    once_1S = torch.ones(1, size, dtype=torch.float64)
    found: dict[str, list[Tensor]] = {name: [] for name in statistics}
    for counts_CS in _draw(size, draws=draws, seed=seed):
        for name, statistic in statistics.items():
            found[name].append(statistic(counts_CS))
    scores = {}
    for name, statistic in statistics.items():
        all_R = torch.cat(found[name]).numpy()
        known = all_R[np.isfinite(all_R)]
        value = float(statistic(once_1S)[0])
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (value, value)
        scores[name] = Score(value, float(low), float(high))
    return scores


def _draw(size: int, *, draws: int, seed: int) -> Iterator[Tensor]:
    """Yield how often each unit is drawn in some of the draws (C, S)."""
    # Raw bits: NumPy keeps those between its versions, but not what a Generator makes of them.
    bits = np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64))
    chunk = max(1, _MOST // size)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        drawn_CS = (bits.random_raw(rows * size) % np.uint64(size)).astype(np.int64)
        drawn_CS = drawn_CS.reshape(rows, size) + size * np.arange(rows)[:, None]
        counts = np.bincount(drawn_CS.ravel(), minlength=rows * size)
        yield torch.from_numpy(counts.reshape(rows, size)).double()


def mean_of(value_S: Tensor) -> Statistic:
    """Return the mean of a value of each unit."""
    return ratio_of(value_S, torch.ones_like(value_S, dtype=torch.float64))


def ratio_of(part_S: Tensor, whole_S: Tensor) -> Statistic:
    """Return the sum of one value over that of another: a mean over rows, drawn by their items."""
    part_S, whole_S = part_S.double().cpu(), whole_S.double().cpu()
    return lambda counts_RS: (counts_RS @ part_S) / (counts_RS @ whole_S)


def mean_per_class(value_S: Tensor, label_S: Tensor, *, num_classes: int) -> Statistic:
    """Return the mean over classes, as far as they were drawn, of the mean value of each."""
    one_hot_SK = torch.nn.functional.one_hot(label_S.cpu(), num_classes).double()
    value_SK = one_hot_SK * value_S.double().cpu()[:, None]

    def statistic(counts_RS: Tensor) -> Tensor:
        mean_RK = (counts_RS @ value_SK) / (counts_RS @ one_hot_SK)
        return mean_RK.nanmean(1)

    return statistic


def mean_average_precision(score_SK: Tensor, target_SK: Tensor) -> Statistic:
    """Return the mean average precision of the classes that any drawn unit is of.

    Equal scores are taken together, as in `average_precision`.

    Args:
        score_SK: the higher, the more likely of the class.
        target_SK: 1 for units of the class, else 0.
    """
    score_SK, target_SK = score_SK.double().cpu(), target_SK.double().cpu()

    def statistic(counts_RS: Tensor) -> Tensor:
        if len(counts_RS) == 1 and bool((counts_RS == 1).all()):
            there = (target_SK > 0).any(0).nonzero()[:, 0].tolist()
            each = [average_precision(score_SK[:, k], target_SK[:, k]) for k in there]
            return torch.tensor([sum(each) / len(each) if each else torch.nan])
        per_class = [
            _weighted(score_SK[:, k], target_SK[:, k], counts_RS) for k in range(score_SK.shape[1])
        ]
        return torch.stack(per_class, 1).nanmean(1)

    return statistic


def _weighted(score_S: Tensor, target_S: Tensor, counts_RS: Tensor) -> Tensor:
    """Return the average precision of one class in each draw; nan where no unit of it is in."""
    sorted_S, order_S = score_S.sort(descending=True)
    ends_S = torch.cat([sorted_S[1:] != sorted_S[:-1], torch.ones(1, dtype=torch.bool)])
    drawn_RS = counts_RS[:, order_S]
    right_RT = (drawn_RS * target_S[order_S]).cumsum(1)[:, ends_S]
    seen_RT = drawn_RS.cumsum(1)[:, ends_S]
    new_RT = right_RT.diff(dim=1, prepend=torch.zeros(len(right_RT), 1).double())
    precision_RT = right_RT / seen_RT.clamp(min=1)
    total_R = right_RT[:, -1]
    return torch.where(total_R > 0, (precision_RT * new_RT).sum(1) / total_R, torch.nan)
