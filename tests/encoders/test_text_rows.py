import random

import numpy as np
import pytest

from mmlight.encoders.text_rows import plan_groups, plan_rows


def draw(count, *, longest=77, seed=0):
    generator = random.Random(seed)
    return [min(longest, max(1, round(generator.lognormvariate(2.75, 0.54)))) for _ in range(count)]


BATCHES = {
    "one": [5],
    "equal": [9] * 12,
    "ones": [1] * 7,
    "halves": [40, 41, 42, 43, 44, 45],
    "few": [32, 20, 18, 25, 10, 12, 21, 20],
    "usual": draw(128),
    "many": draw(512, seed=1),
}


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize("name", BATCHES)
def test_every_caption_has_its_own_places(name, multiple):
    lengths = BATCHES[name]
    plan = plan_rows(lengths, multiple=multiple)
    taken = np.zeros((plan.num_rows, plan.width), dtype=int)
    for length, row, start in zip(lengths, plan.row_N, plan.start_N, strict=True):
        taken[row, start : start + length] += 1
    assert taken.sum() == sum(lengths) and taken.max() == 1
    assert plan.width % multiple == 0
    for row, used in enumerate(plan.used_R):
        assert used > 0 and taken[row, :used].all()
    assert np.array_equal(plan.length_N, lengths)


def test_little_stays_free():
    for seed in range(10):
        for count, most in ((32, 1.10), (128, 1.05), (512, 1.02)):
            lengths = draw(count, seed=seed)
            assert plan_rows(lengths).num_places <= most * sum(lengths)
    # Rows of the longest would hold one caption each.
    assert plan_rows([40, 41, 42, 43, 44, 45] * 5).num_places <= 1.1 * 255 * 5


def test_rows_are_never_wider_than_the_model():
    lengths = [40, 41, 42, 43, 44, 77]
    assert plan_rows(lengths, multiple=8, most=77).width == 77
    assert plan_rows(lengths, multiple=8, most=80).width == 80
    assert plan_rows(lengths, multiple=8).width == 128
    assert plan_rows(lengths, multiple=8, most=160).width == 128


def test_plans_depend_on_lengths_alone():
    first, second = plan_rows(draw(100)), plan_rows(draw(100))
    assert np.array_equal(first.row_N, second.row_N)
    assert np.array_equal(first.start_N, second.start_N)


@pytest.mark.parametrize("name", BATCHES)
def test_groups_hold_every_caption_once_and_are_as_wide_as_their_longest(name):
    lengths = np.array(BATCHES[name])
    plan = plan_groups(BATCHES[name])
    assert sorted(np.concatenate(plan.members).tolist()) == list(range(len(lengths)))
    assert [lengths[group].max() for group in plan.members] == plan.widths
    assert 1 <= len(plan.members) <= 8
    assert plan.num_places <= len(lengths) * lengths.max()


def test_two_lengths_make_two_groups_and_equal_ones_make_one():
    plan = plan_groups([3, 70, 3, 3, 70, 3])
    assert plan.widths == [70, 3] and plan.members[0].tolist() == [1, 4]
    assert len(plan_groups([9] * 12).members) == 1
    assert plan_groups(draw(512)).num_places < 1.3 * sum(draw(512))
