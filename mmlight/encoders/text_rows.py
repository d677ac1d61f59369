"""Which captions share a row, and which share a group: plans from lengths alone, in NumPy.

Shapes as in `mmlight.batch`: N captions; R rows, C places of a row, T real tokens.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# A further group must save this share of a batch's tokens: a call costs in itself. Chosen, not
# measured.
_COST_OF_A_GROUP = 0.01
_MOST_GROUPS = 8
# Above this share of free places another width is tried.
_FREE = 0.04


@dataclass(frozen=True)
class RowPlan:
    """Where each caption lies in rows of one width; the rest of a row is free.

    Attributes:
        num_rows: rows R.
        width: places C of a row.
        length_N: tokens of each caption.
        row_N: the row of each caption.
        start_N: the place of its first token.
        used_R: taken places of each row, which come first.
    """

    num_rows: int
    width: int
    length_N: Ints
    row_N: Ints
    start_N: Ints
    used_R: Ints

    @property
    def num_places(self) -> int:
        """Places of all rows, R x C."""
        return self.num_rows * self.width


def plan_rows(lengths: Sequence[int], *, multiple: int = 1, most: int | None = None) -> RowPlan:
    """Put captions into rows as wide as the longest: best-fit, longest first.

    On captions of mean 18 and most 77 tokens 1 to 3 % of the places stay free. Where more do (few
    captions, or most longer than half a row), rows of twice that width are tried. O(N log N), half
    a millisecond for 512 captions, and a function of the lengths alone.

    Args:
        lengths: tokens of each caption, 1 or more.
        multiple: the width becomes a multiple of this, unless that is more than `most`.
        most: largest width, no less than the longest caption; None without a limit.
    """
    length_N = np.asarray(lengths, dtype=np.int64)
    longest = int(length_N.max())

    def width(used: int) -> int:
        rounded = -(-used // multiple) * multiple
        return rounded if most is None or rounded <= most else used

    plan = _best_fit(length_N, capacity=width(longest))
    enough = (1 + _FREE) * int(length_N.sum())
    if plan.num_places > enough and (most is None or 2 * longest <= most):
        wider = _best_fit(length_N, capacity=2 * longest)
        if wider.num_rows * width(wider.width) < plan.num_rows * width(plan.width):
            plan = wider
    return replace(plan, width=width(plan.width))


def _best_fit(length_N: Ints, *, capacity: int) -> RowPlan:
    row_N = np.empty_like(length_N)
    start_N = np.empty_like(length_N)
    used: list[int] = []
    free: list[tuple[int, int]] = []  # (free places, row), sorted
    for caption in np.argsort(-length_N, kind="stable").tolist():
        length = int(length_N[caption])
        found = bisect_left(free, (length, 0))
        if found < len(free):
            left, row = free.pop(found)
        else:
            left, row = capacity, len(used)
            used.append(0)
        row_N[caption], start_N[caption] = row, used[row]
        used[row] += length
        if left > length:
            insort(free, (left - length, row))
    return RowPlan(len(used), max(used), length_N, row_N, start_N, np.asarray(used, dtype=np.int64))


@dataclass(frozen=True)
class GroupPlan:
    """Captions of like lengths, each group cut to its longest.

    Attributes:
        members: the captions of each group.
        widths: tokens of the longest caption of each group.
    """

    members: list[Ints]
    widths: list[int]

    @property
    def num_places(self) -> int:
        """Tokens of all groups with their padding."""
        return sum(
            len(group) * width for group, width in zip(self.members, self.widths, strict=True)
        )


def plan_groups(lengths: Sequence[int]) -> GroupPlan:
    """Cut captions, sorted by length, into at most eight groups with the least padding.

    An exact search over the distinct lengths; a further group must save what its call costs.

    Args:
        lengths: tokens of each caption, 1 or more.
    """
    length_N = np.asarray(lengths, dtype=np.int64)
    distinct_U, count_U = np.unique(length_N, return_counts=True)
    below_U = np.concatenate([[0], np.cumsum(count_U)])
    size = len(distinct_U)
    # cost_UU[i, j]: one group of the distinct lengths i to j.
    cost_UU = (below_U[None, 1:] - below_U[:-1, None]) * distinct_U[None].astype(np.float64)
    cost_UU[np.tril_indices(size, -1)] = np.inf
    best_U = cost_UU[0]  # of one group up to each length
    totals = [best_U[-1]]
    cuts: list[Ints] = []
    for _ in range(min(_MOST_GROUPS, size) - 1):
        # candidates_UU[i, j]: the last group starts at i and ends at j.
        candidates_UU = np.concatenate([[np.inf], best_U[:-1]])[:, None] + cost_UU
        cuts.append(candidates_UU.argmin(0))
        best_U = candidates_UU.min(0)
        totals.append(best_U[-1])
    call = _COST_OF_A_GROUP * totals[0]
    number = int(np.argmin([total + call * extra for extra, total in enumerate(totals)]))
    ends = [size]
    for level in range(number - 1, -1, -1):
        ends.append(int(cuts[level][ends[-1] - 1]))
    ends.append(0)
    order_N = np.argsort(length_N, kind="stable")
    return GroupPlan(
        members=[order_N[below_U[a] : below_U[b]] for b, a in pairwise(ends)],
        widths=[int(distinct_U[b - 1]) for b in ends[:-1]],
    )
