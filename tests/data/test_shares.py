"""What is dealt to sources stays within one of their shares, also where these change."""

import random

import numpy as np
import pytest

from mmlight.data.order.shares import Shares
from mmlight.errors import UserError


def ideal(shares, end):
    """The counts that the shares of a schedule would give, were samples divisible."""
    each = np.zeros((end, len(shares.shares[0])))
    for first, last, share in zip(
        shares.changes, [*shares.changes[1:], end], shares.shares, strict=True
    ):
        each[first:last] = share
    return np.cumsum(each, 0)


def drawn_schedule(draws, *, sources):
    weights, at = {}, 0
    for _ in range(draws.randint(1, 5)):
        weights[at] = [draws.choice([0, 0, 1, 2, 3, 5, 10, 40]) for _ in range(sources)]
        if not any(weights[at]):
            weights[at][0] = 1
        at += draws.randint(1, 300)
    return weights, at


@pytest.mark.parametrize("sources", range(1, 7))
def test_counts_are_within_one_of_any_schedule(sources):
    draws = random.Random(sources)
    for _ in range(25):
        weights, at = drawn_schedule(draws, sources=sources)
        end = at + 200
        shares = Shares(weights)
        dealt = shares.sources(0, end)
        given = np.cumsum(dealt[:, None] == np.arange(sources), 0)
        # Tijdeman's bound, which is as good as it gets.
        most = 1 - 1 / (2 * sources - 2) if sources > 1 else 0
        assert np.abs(given - ideal(shares, end)).max() <= most + 1e-9
        for place in draws.sample(range(1, end), 5):
            assert shares.counts(place) == given[place - 1].tolist()
            begin = draws.randrange(place)
            assert np.array_equal(shares.sources(begin, place), dealt[begin:place])


def test_counts_far_along_are_those_of_the_shares():
    shares = Shares({0: [0.7, 0.2, 0.1], 10**9 + 7: [0.1, 0.1, 0.8], 3 * 10**9: [1, 0, 0]})
    for place in (10**9 + 7, 2 * 10**9 + 3, 3 * 10**9 - 1, 3 * 10**9 + 5):
        first = min(place, 10**9 + 7)
        second = min(max(place - first, 0), 2 * 10**9 - 7)
        rest = place - first - second
        wanted = np.array([0.7, 0.2, 0.1]) * first + np.array([0.1, 0.1, 0.8]) * second
        wanted[0] += rest
        assert sum(shares.counts(place)) == place
        assert np.abs(np.array(shares.counts(place)) - wanted).max() < 1


def test_a_source_gives_nothing_before_it_has_a_weight():
    shares = Shares({0: [1, 0], 100: [1, 1]})
    assert shares.counts(100) == [100, 0]
    assert set(shares.sources(100, 102).tolist()) == {0, 1}


def test_a_weight_too_small_beside_others_is_refused():
    with pytest.raises(UserError, match="weight 1e-05 is less than 1/8192 of all"):
        Shares({0: [1, 1], 5: [1, 1e-5]})
