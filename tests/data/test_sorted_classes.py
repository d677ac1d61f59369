import logging

import pytest
from shard_files import write_tar

from mmlight.data.members import Members
from mmlight.data.splits.split import Split, open_split


def limited(tmp_path, caplog, labels, limit):
    samples = [(f"{n:04d}.cls", str(label).encode()) for n, label in enumerate(labels)]
    write_tar(tmp_path / "0.tar", samples)
    members = Members(label="cls")
    with caplog.at_level(logging.WARNING):
        corpus = open_split(
            Split(str(tmp_path), limit=limit), members=members, seed=0, where="data.train"
        )
    assert len(corpus) == limit
    return caplog.messages


def test_a_limit_of_a_sorted_set_says_what_it_leaves_out(tmp_path, caplog):
    (said,) = limited(tmp_path, caplog, [n // 20 for n in range(200)], 100)
    assert (
        "data.train.limit: the first 100 of 200 samples are of 5 classes, and 100% of the" in said
    )
    assert "--shuffle-seed" in said


@pytest.mark.parametrize(
    ("labels", "limit"),
    [
        ([n % 10 for n in range(200)], 100),
        ([n * 7919 % 211 for n in range(400)], 100),  # many classes, few of each: chance
        ([n // 100 for n in range(200)], 200),
        (["x"] * 50, 10),
    ],
)
def test_a_limit_of_other_sets_says_nothing(tmp_path, caplog, labels, limit):
    assert limited(tmp_path, caplog, labels, limit) == []
