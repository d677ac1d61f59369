import numpy as np
import pytest

from mmlight.data.order.mixture import Mixture
from mmlight.errors import UserError


def run(mixture, num_epochs=1):
    steps = [(e, s) for e in range(num_epochs) for s in range(mixture.steps_per_epoch)]
    return np.concatenate([mixture.batch(*step) for step in steps])


def make(**changes):
    options = {"weights": [0.7, 0.2, 0.1], "global_batch": 24, "seed": 5}
    return Mixture([[100, 50], [400], [30, 7]], **(options | changes))


def source_of(samples):
    return np.digitize(samples, [150, 550])


def test_shares_are_exact_at_every_moment():
    mixture = make(samples_per_epoch=24_000)
    sources = source_of(run(mixture))
    t = np.arange(1, len(sources) + 1)
    for source, weight in enumerate([0.7, 0.2, 0.1]):
        given = np.cumsum(sources == source)
        assert np.abs(given - t * weight).max() < 1
        assert mixture.counts(1234)[source] == given[1233]
    assert np.bincount(sources).tolist() == [16_800, 4_800, 2_400]


@pytest.mark.parametrize("count", range(1, 8))
def test_shares_are_exact_for_any_weights(count):
    draw = np.random.default_rng(count)
    for _ in range(6):
        weights = [float(w) for w in draw.choice([0.01, 0.1, 0.25, 1, 3, 17], count)]
        mixture = Mixture([[50]] * count, weights=weights, global_batch=1, seed=0)
        shares = np.array(weights) / sum(weights)
        for t in range(0, 5000, 7):
            assert np.abs(mixture.counts(t) - t * shares).max() < 1
            assert sum(mixture.counts(t)) == t


def test_weights_without_a_short_common_denominator_are_nearly_met():
    mixture = Mixture([[9], [9]], weights=[2**0.5, 3**0.5], global_batch=2, seed=0)
    assert mixture.weights[0] == pytest.approx(2**0.5 / (2**0.5 + 3**0.5), abs=1e-5)
    assert sum(mixture.weights) == 1


def test_ranks_together_draw_the_same_global_batch():
    mixture = make()
    for epoch, step in ((0, 0), (0, 11), (3, 5)):
        whole = mixture.batch(epoch, step)
        for world in (1, 2, 3, 4, 24):
            parts = [mixture.batch(epoch, step, rank=r, world_size=world) for r in range(world)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_batches_depend_on_seed_epoch_and_step_alone():
    forward, other = make(), make()
    batches = {(e, s): forward.batch(e, s) for e in range(3) for s in range(10)}
    for place in reversed(batches):
        np.testing.assert_array_equal(other.batch(*place), batches[place])
    assert (make(seed=6).batch(0, 0) != batches[0, 0]).any()


def test_a_source_ends_a_pass_before_it_repeats():
    mixture = make(samples_per_epoch=2400)
    samples = run(mixture, num_epochs=2)
    small = samples[source_of(samples) == 2] - 550
    # 37 samples in 32 lanes: 32 in each pass, others each time.
    assert len(small) == 480
    for begin in range(0, 480, 32):
        assert len(set(small[begin : begin + 32].tolist())) == 32
    assert set(small.tolist()) == set(range(37))
    large = samples[source_of(samples) == 0]
    assert len(set(large[:128].tolist())) == 128


def test_epoch_is_the_sum_of_sources_unless_given():
    assert make().steps_per_epoch == (150 + 400 + 37) // 24
    assert make(samples_per_epoch=100).steps_per_epoch == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1, 2]}, "2 weights for 3 sources"),
        ({"weights": [1, 0, 2]}, "each must be positive"),
        ({"weights": [1, float("nan"), 2]}, "each must be positive"),
        ({"weights": [1, 1e-6, 2]}, "less than 1/65536"),
        ({"samples_per_epoch": 23}, "shorter than one global batch of 24"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_world_that_cannot_share_is_refused():
    with pytest.raises(UserError, match=r"5 ranks can't share.*multiple of 5"):
        make().batch(0, 0, rank=0, world_size=5)
