"""Durations as SLURM writes them."""

import pytest

from mmlight.errors import UserError
from mmlight.runs.slurm.durations import seconds


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("01:00:00", 3600),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
    ],
)
def test_seconds_of_a_time_limit(time, expected):
    assert seconds(time) == expected


def test_what_is_no_duration_is_refused():
    with pytest.raises(UserError, match="'UNLIMITED' is no time limit"):
        seconds("UNLIMITED")
