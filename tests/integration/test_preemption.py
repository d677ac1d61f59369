"""Whatever happens to a job, its run ends with the losses of one that nothing happened to.

`MMLIGHT_PREEMPTIONS` says how many signals each case of them sends (3).
"""

import os
import random

import pytest
from integration.preemption import Lab

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3000)]

TIMES = int(os.environ.get("MMLIGHT_PREEMPTIONS", "3"))
STEPS = 200 + 150 * TIMES


@pytest.fixture(scope="module")
def lab(slurm, tmp_path_factory):
    return Lab(slurm, tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def whole(lab):
    """The losses of a run of two ranks that nothing happened to."""
    job = lab.submit("whole", steps=STEPS)
    job.wait_for_end("COMPLETED", seconds=900)
    assert sorted(job.losses()) == list(range(1, STEPS + 1))
    assert job.attempts().finished
    return job.losses()


@pytest.mark.parametrize(
    ("signal", "num_workers"), [("USR1", 0), ("USR1", 2), ("TERM", 0), ("TERM", 2)]
)
def test_run_signalled_at_random_steps(lab, whole, signal, num_workers):
    seed = random.randrange(10**6)
    job = lab.submit(
        f"{signal}-{num_workers}", steps=STEPS, data__init_args__num_workers=num_workers
    )
    told = job.interrupt(signal, times=TIMES, draws=random.Random(seed))
    job.wait_for_end("COMPLETED", seconds=900)
    print(f"seed {seed}", *told, sep="\n")
    assert job.losses() == whole
    assert job.attempts().finished
