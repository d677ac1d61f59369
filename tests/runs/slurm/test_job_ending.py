"""Who ends a job, told by what `scontrol show job` said of jobs ended in each of these ways."""

import shlex
import sys
from pathlib import Path

import pytest
from slurm_cluster import wait_for

from mmlight.runs.run.attempts import append_event, read_attempts
from mmlight.runs.run.submission import CANCELLED
from mmlight.runs.slurm import client
from mmlight.runs.slurm.ending import ending

RUNNING = {
    **{"JobState": "RUNNING", "Restarts": "1", "RunTime": "00:00:03", "TimeLimit": "00:05:00"},
}
ENDING = RUNNING | {"JobState": "COMPLETING"}


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ({}, "nobody"),
        (RUNNING, "nobody"),
        (ENDING, "cancelled"),
        (ENDING | {"JobState": "CANCELLED"}, "cancelled"),
        (ENDING | {"TimeLimit": "UNLIMITED"}, "cancelled"),
        (ENDING | {"Restarts": "2"}, "requeued"),
        (ENDING | {"PreemptTime": "2026-01-31T12:00:00"}, "preempted"),
        (ENDING | {"PreemptTime": "None"}, "cancelled"),
        (ENDING | {"RunTime": "00:05:20"}, "time limit"),
    ],
)
def test_job_tells_who_ends_it(job, expected):
    assert ending(job, restart=1) == expected


@pytest.mark.integration
def test_a_job_that_somebody_cancels_is_not_handed_on(slurm, tmp_path):
    run = tmp_path / "runs/a/1"
    append_event(run, "start", step=0)
    append_event(run, "end", step=3, reason="TERM", hand_on=True)
    script = tmp_path / "job.sh"
    after = shlex.join([sys.executable, "-P", "-m", "mmlight.runs.slurm.after_srun", str(run), "0"])
    script.write_text(
        "#!/bin/bash\n#SBATCH --requeue --time=5 --mem=500\n"
        f"#SBATCH --output={tmp_path}/%j.out\ntrap : TERM\n"
        f"export PYTHONPATH={Path(__file__).parents[3]}\n"
        f"srun bash -c 'trap exit TERM; touch {tmp_path}/up; while :; do sleep 0.1; done'\n"
        f"{after}\n"
    )
    job = client.submit(script)
    wait_for((tmp_path / "up").exists, seconds=60, what="the job runs")
    client.cancel([job])
    told = slurm.wait(job, "CANCELLED", "PENDING", "RUNNING", seconds=60)
    assert told["JobState"] == "CANCELLED"
    assert told["Restarts"] == "0"
    assert (run / CANCELLED).exists()
    assert not read_attempts(run).hand_ons
