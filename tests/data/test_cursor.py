import time

import numpy as np
import pytest

from mmlight.data.order.cursor import Order
from mmlight.data.order.evaluation import EvalOrder
from mmlight.errors import UserError

# Short lanes with one window; lanes of several windows; few unequal shards; one shard; own lanes.
LAYOUTS = [
    ([27], {"global_batch": 8}),
    ([100] * 7 + [33], {"global_batch": 32, "window": 8}),
    ([5, 900, 4], {"global_batch": 20, "window": 16}),
    ([1000], {"global_batch": 16, "window": 10}),
    ([50] * 60, {"global_batch": 96, "num_lanes": 12, "window": 7}),
    ([1] * 300, {"global_batch": 64, "window": 2}),
]


def epoch_of(order, epoch):
    return np.concatenate([order.batch(epoch, step) for step in range(order.steps_per_epoch)])


@pytest.mark.parametrize(("sizes", "options"), LAYOUTS)
def test_no_sample_comes_twice_in_an_epoch(sizes, options):
    order = Order(sizes, seed=1, **options)
    for epoch in range(3):
        samples = epoch_of(order, epoch)
        assert len(samples) == sum(sizes) // options["global_batch"] * options["global_batch"]
        assert len(np.unique(samples)) == len(samples)
        assert samples.min() >= 0 and samples.max() < sum(sizes)


@pytest.mark.parametrize(("sizes", "options"), LAYOUTS)
def test_ranks_together_draw_the_same_global_batch(sizes, options):
    order = Order(sizes, seed=1, **options)
    for step in range(order.steps_per_epoch):
        whole = order.batch(2, step)
        for world in (1, 2, 4):
            parts = [order.batch(2, step, rank=r, world_size=world) for r in range(world)]
            assert {len(part) for part in parts} == {len(whole) // world}
            np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("sizes", "options"), LAYOUTS)
def test_order_depends_on_seed_epoch_and_step_alone(sizes, options):
    order = Order(sizes, seed=1, **options)
    forward = [epoch_of(order, epoch) for epoch in range(3)]
    other = Order(sizes, seed=1, **options)
    for epoch in (2, 0, 1):
        for step in reversed(range(order.steps_per_epoch)):
            size = order.global_batch
            expected = forward[epoch][step * size : (step + 1) * size]
            np.testing.assert_array_equal(other.batch(epoch, step), expected)
    assert (forward[0] != forward[1]).any() and (forward[1] != forward[2]).any()
    assert (epoch_of(Order(sizes, seed=2, **options), 0) != forward[0]).any()
    assert (epoch_of(Order(sizes, seed=-1, **options), 0) != forward[0]).any()


def test_order_is_the_one_of_earlier_versions():
    # A change here breaks resuming and reproducing every earlier run.
    assert Order([10, 10], global_batch=4, seed=0).batch(0, 0).tolist() == [19, 8, 13, 6]
    order = Order([300, 200, 500], global_batch=8, seed=7, window=32)
    assert order.batch(3, 100).tolist() == [648, 769, 872, 2, 128, 271, 396, 519]


@pytest.mark.parametrize("sizes", [[1003], [59] * 17])
@pytest.mark.parametrize("window", [8, 4096])
def test_samples_left_out_change_from_epoch_to_epoch(sizes, window):
    order = Order(sizes, global_batch=64, seed=0, window=window)
    left_out = [set(range(1003)) - set(epoch_of(order, e).tolist()) for e in range(4)]
    assert all(len(part) == 1003 % 64 for part in left_out)
    assert len(set.union(*left_out)) > 2 * len(left_out[0])


def test_several_steps_at_once_are_the_steps_one_by_one():
    order = Order([300, 200, 500], global_batch=32, seed=7, window=10)
    together = order.steps(1, 3, 25)
    np.testing.assert_array_equal(together, [order.batch(1, step) for step in range(3, 25)])


def test_neighbours_in_a_small_data_set_meet_in_a_batch():
    # With lanes cut from the data's own order they hardly would: one sample per lane and batch.
    order = Order([320], global_batch=32, seed=0)
    pairs = 0
    for epoch in range(40):
        batch_of = np.empty(320, int)
        for step in range(order.steps_per_epoch):
            batch_of[order.batch(epoch, step)] = step
        pairs += int((batch_of[1:] == batch_of[:-1]).sum())
    expected = 40 * 319 * 31 / 319
    assert 0.8 * expected < pairs < 1.2 * expected


def test_a_batch_mixes_many_shards():
    order = Order([1000] * 200, global_batch=256, seed=0, window=1024)
    shards = [len(np.unique(order.batch(0, step) // 1000)) for step in range(0, 700, 50)]
    assert np.mean(shards) > 45


def test_cold_seek_in_a_billion_samples_is_fast():
    sizes = np.full(100_000, 10_000)
    sizes[::7] += 13
    order = Order(sizes, global_batch=4096, seed=3)
    seconds = []
    for epoch in range(5):
        start = time.perf_counter()
        samples = order.batch(epoch, order.steps_per_epoch - 1 - epoch, rank=1, world_size=8)
        seconds.append(time.perf_counter() - start)
        assert len(np.unique(samples)) == 512
    assert min(seconds) < 0.2


def test_fewer_samples_than_a_batch_are_refused():
    with pytest.raises(
        UserError, match=r"31 samples are fewer than one global batch of 32.*most 31"
    ):
        Order([30, 1], global_batch=32, seed=0)


def test_lanes_must_divide_the_batch():
    with pytest.raises(UserError, match=r"num_lanes 5 does not divide.*32; 32 would"):
        Order([100], global_batch=32, seed=0, num_lanes=5)


@pytest.mark.parametrize(
    ("batch", "world", "remedy"),
    [
        (96, 6, "set data.num_lanes to 24"),
        (96, 48, "set data.num_lanes to 48"),
        (32, 3, "a global batch that is a multiple of 3"),
    ],
)
def test_world_that_cannot_share_is_told_what_would_work(batch, world, remedy):
    order = Order([1000], global_batch=batch, seed=0)
    with pytest.raises(UserError, match=remedy):
        order.batch(0, 0, rank=0, world_size=world)
    if "num_lanes" in remedy:
        fixed = Order([1000], global_batch=batch, seed=0, num_lanes=int(remedy.split()[-1]))
        assert len(fixed.batch(0, 0, rank=5, world_size=world)) == batch // world


def test_steps_outside_the_epoch_are_refused():
    order = Order([64], global_batch=32, seed=0)
    for epoch, step in ((0, 2), (0, -1), (-1, 0)):
        with pytest.raises(IndexError):
            order.batch(epoch, step)


@pytest.mark.parametrize("num_samples", [1, 3, 10, 16, 17, 100, 101])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_evaluation_meets_every_sample_once_and_in_order(num_samples, batch_size, world):
    order = EvalOrder(num_samples, batch_size=batch_size)
    steps = order.num_batches(world)
    seen = []
    for step in range(steps):
        shapes = set()
        for rank in range(world):
            samples, valid = order.batch(step, rank=rank, world_size=world)
            assert len(samples) <= batch_size and samples.max() < num_samples
            shapes.add(samples.shape)
            if step < steps - 1:
                assert valid.all()
            elif num_samples - (steps - 1) * batch_size * world >= world:
                assert valid.any()
            seen += samples[valid].tolist()
        assert len(shapes) == 1
    assert seen == list(range(num_samples))
