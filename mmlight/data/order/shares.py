"""Which source each sample of a mixture comes from, as exact as counting allows.

At any moment each source has given within one sample of its share, also where shares change
(Tijdeman 1980, "The chairman assignment problem"). While shares stay the same, what is dealt
repeats after a while, so the count of each source at any place is a matter of one look-up.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mmlight.errors import UserError

# Longest pattern. Weights without a common denominator up to this are rounded to multiples of
# 1 / 65536; where they change, several patterns are dealt for each set of them.
_MAX_PERIOD, _MAX_PERIOD_OF_MANY = 1 << 16, 1 << 13
Weight = float | Fraction


class Shares:
    """Deals numbers of sources.

    Attributes:
        changes: the first number that is dealt by each set of shares; the first one is 0.
        shares: of each source, from each of `changes` on; they sum to 1.
    """

    def __init__(self, weights: Mapping[int, Sequence[Weight]]) -> None:
        """Lay out what is dealt.

        Args:
            weights: of the sources, from so many dealt numbers on; 0 among the keys. Only their
                ratios count.

        Raises:
            UserError: a weight that is too small beside others.
        """
        self.changes = sorted(weights)
        assert self.changes[0] == 0
        longest = _MAX_PERIOD if len(weights) == 1 else _MAX_PERIOD_OF_MANY
        quotas = [_quotas(weights[change], longest) for change in self.changes]
        self.shares = [[quota / sum(each) for quota in each] for each in quotas]
        lengths = [after - before for before, after in itertools.pairwise(self.changes)]
        dealer = _Dealer(quotas, [*lengths, None])
        self._phases = [dealer.phase(number) for number in range(len(quotas))]
        given = np.cumsum([0 * self._phases[0].whole] + [p.whole for p in self._phases[:-1]], 0)
        self._given_before: list[list[int]] = given.tolist()

    def counts(self, number: int) -> list[int]:
        """Return how many of the first `number` that are dealt are of each source."""
        phase = int(np.searchsorted(self.changes, number, side="right")) - 1
        mine = self._phases[phase].counts(number - self.changes[phase])
        return [a + b for a, b in zip(self._given_before[phase], mine.tolist(), strict=True)]

    def sources(self, first: int, last: int) -> np.ndarray:
        """Return the source of each number from `first` up to `last`."""
        parts = [np.empty(0, np.int16)]
        for change, end, phase in zip(
            self.changes, [*self.changes[1:], last], self._phases, strict=True
        ):
            begin, stop = max(first, change), min(last, end)
            if begin < stop:
                parts.append(phase.sources(begin - change, stop - change))
        return np.concatenate(parts)


@dataclass(frozen=True)
class _Phase:
    """What is dealt while shares stay the same: a head, a cycle again and again, and a tail.

    Attributes:
        dealt: sources of head, cycle and tail, one after another.
        ends: where head and cycle end in it.
        tail_begins: place in the phase of the tail's first; None where the phase never ends.
        given: (sources, places), how many of each source come before each place of `dealt`.
    """

    dealt: np.ndarray
    ends: tuple[int, int]
    tail_begins: int | None
    given: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """How many of each source all of it gives, if it ends."""
        if self.tail_begins is None:
            return np.zeros(len(self.given), np.int64)
        return self.counts(self.tail_begins + len(self.dealt) - self.ends[1])

    def counts(self, place: int) -> np.ndarray:
        """Return how many of each source come before a place of the phase."""
        head, cycle_end = self.ends
        beyond = 0 if self.tail_begins is None else max(place - self.tail_begins, 0)
        found = self.given[:, cycle_end + beyond] - self.given[:, cycle_end]
        place -= beyond
        if place <= head:
            return found + self.given[:, place]
        rounds, rest = divmod(place - head, cycle_end - head)
        once = self.given[:, cycle_end] - self.given[:, head]
        return found + rounds * once + self.given[:, head + rest]

    def sources(self, first: int, last: int) -> np.ndarray:
        """Return the source of each place from `first` up to `last`."""
        head, cycle_end = self.ends
        place = np.arange(first, last)
        index = np.where(place < head, place, head + (place - head) % max(cycle_end - head, 1))
        if self.tail_begins is not None:
            in_tail = place - self.tail_begins
            index = np.where(in_tail >= 0, cycle_end + in_tail, index)
        sources: np.ndarray = self.dealt[index]
        return sources


class _Dealer:
    """Deals phase by phase; all amounts are in units that keep them whole numbers."""

    def __init__(self, quotas: Sequence[Sequence[int]], lengths: Sequence[int | None]) -> None:
        self._count = len(quotas[0])
        periods = [sum(each) for each in quotas]
        self._one = math.lcm(*periods)  # a sample, over Tijdeman's bound 1 / (2 K - 2)
        self._scale = 2 * self._count - 2
        self._gains = [
            [self._scale * quota * (self._one // period) for quota in each]
            for each, period in zip(quotas, periods, strict=True)
        ]
        self._periods, self._lengths = periods, lengths
        self._owed = [0] * self._count

    def phase(self, number: int) -> _Phase:
        """Deal the next phase."""
        length, period = self._lengths[number], self._periods[number]
        head: list[int] = []
        cycle: list[int] = []
        tail: list[int] = []
        tail_begins = None
        # Who comes next is a matter of what shares the future has only in the last period.
        rounds = math.inf if length is None else length // period - 2
        if self._count == 1:
            cycle = [0]
            tail_begins = length
        else:
            done = 0
            if rounds > 0:
                head, cycle, owed_after = self._cycle(number, rounds)
                done = length // period * period - 2 * period if length is not None else 0
                self._owed = owed_after
            if length is not None:
                tail_begins = done
                tail = self._deal(number, length - done, ends_in=length - done)
        dealt = np.array([*head, *cycle, *tail], np.int16)
        given = np.zeros((self._count, len(dealt) + 1), np.int64)
        for source in range(self._count):
            np.cumsum(dealt == source, out=given[source, 1:])
        ends = len(head), len(head) + len(cycle)
        return _Phase(dealt, ends, tail_begins, given)

    def _cycle(self, number: int, rounds: float) -> tuple[list[int], list[int], list[int]]:
        """Deal whole periods until they repeat; return the first ones, those, and what is owed."""
        states = [list(self._owed)]
        dealt: list[list[int]] = []
        while len(dealt) < rounds:
            dealt.append(self._deal(number, self._periods[number], ends_in=None))
            if self._owed in states:
                break
            states.append(list(self._owed))
        if self._owed not in states[: len(dealt)]:
            return [n for part in dealt for n in part], [], self._owed
        first = states.index(self._owed)
        head = [n for part in dealt[:first] for n in part]
        cycle = [n for part in dealt[first:] for n in part]
        if rounds == math.inf:
            return head, cycle, self._owed
        return head, cycle, states[first + (int(rounds) - first) % (len(dealt) - first)]

    def _deal(self, number: int, count: int, *, ends_in: int | None) -> list[int]:
        """Deal some: of the sources that are due, the one whose last moment comes first.

        Args:
            number: of the phase.
            count: how many.
            ends_in: of so many the phase has this one's shares; None: of all that come.
        """
        gains, owed, dealt = self._gains[number], self._owed, list[int]()
        latest = (self._scale - 1) * self._one
        for turn in range(count):
            best = -1
            best_slack: int | float = 0
            best_gain = 1
            for source, gain in enumerate(gains):
                owed[source] += gain
                if owed[source] < self._one:
                    continue
                slack: int | float = latest - owed[source]  # over gain: the turns left
                if ends_in is not None and slack > gain * (left := ends_in - turn - 1):
                    slack, gain = self._later(number, source, slack - gain * left, left)
                elif gain == 0:
                    slack, gain = math.inf, 1
                if best < 0 or slack * best_gain < best_slack * gain:
                    best, best_slack, best_gain = source, slack, gain
            assert best >= 0, "Tijdeman: some source is always due"
            owed[best] -= self._scale * self._one
            dealt.append(best)
        return dealt

    def _later(
        self, number: int, source: int, slack: int | float, turns: int
    ) -> tuple[int | float, int]:
        """Return the turns left, as a fraction, where they go beyond the end of a phase."""
        for phase in range(number + 1, len(self._gains)):
            gain, length = self._gains[phase][source], self._lengths[phase]
            if gain and (length is None or slack <= gain * length):
                return turns * gain + slack, gain
            if length is not None:
                slack -= gain * length
                turns += length
        return math.inf, 1


def _quotas(weights: Sequence[Weight], longest: int) -> list[int]:
    """Return integers in the ratio of the weights whose sum is the length of the pattern."""
    # 0.1 is meant as one tenth
    exact = [w if isinstance(w, Fraction) else Fraction(repr(float(w))) for w in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period > longest:
        period = longest
    # Rounded so that the sum is kept: differences of rounded cumulative shares.
    bounds = [round(total * period) for total in itertools.accumulate(shares)]
    quotas = [bound - before for before, bound in itertools.pairwise([0, *bounds])]
    for quota, weight in zip(quotas, weights, strict=True):
        if quota < 1 and weight:
            raise UserError(f"weight {float(weight):g} is less than 1/{longest} of all; raise it")
    return quotas
