from collections import Counter

import pytest

from mmlight.data.decode.draw import Draws


def test_numbers_are_the_same_in_every_version():
    draws = Draws("image", seed=3, epoch=1, sample=5)
    assert [draws.integer(1000) for _ in range(4)] == [371, 699, 291, 721]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"epoch": 1},
        {"sample": 1},
        {"seed": -1},
        {"sample": 10**12},
    ],
)
def test_seed_epoch_and_sample_each_change_the_numbers(other):
    base = {"seed": 0, "epoch": 0, "sample": 0}
    first, second = Draws("image", **base), Draws("image", **(base | other))
    assert [first.uniform() for _ in range(8)] != [second.uniform() for _ in range(8)]


def test_purposes_draw_from_streams_of_their_own():
    streams = [
        Draws(purpose, seed=0, epoch=0, sample=0)
        for purpose in ("image", "audio", "text", "replacement")
    ]
    assert len({stream.uniform() for stream in streams for _ in range(4)}) == 16


def test_numbers_keep_to_their_range_and_spread_over_it():
    draws = Draws("text", seed=0, epoch=0, sample=0)
    numbers = [draws.uniform(2.0, 4.0) for _ in range(4000)]
    assert 2.0 <= min(numbers) < 2.01
    assert 3.99 < max(numbers) < 4.0
    assert sum(numbers) / len(numbers) == pytest.approx(3.0, abs=0.03)
    assert {draws.integer(5) for _ in range(200)} == {0, 1, 2, 3, 4}
    assert draws.integer(1) == 0


def test_choice_follows_the_weights_and_never_takes_a_zero():
    draws = Draws("text", seed=0, epoch=0, sample=0)
    counts = Counter(draws.choice([3.0, 0.0, 1.0]) for _ in range(4000))
    assert counts[0] / 4000 == pytest.approx(0.75, abs=0.03)
    assert counts[1] == 0


def test_neighbouring_samples_are_independent():
    pairs = [
        (
            Draws("image", seed=0, epoch=0, sample=n).uniform() < 0.5,
            Draws("image", seed=0, epoch=0, sample=n + 1).uniform() < 0.5,
        )
        for n in range(2000)
    ]
    assert min(Counter(pairs).values()) > 420  # 500 of each are expected
