"""A sweep of more runs than one array of SLURM may have tasks."""

import os
import re
from pathlib import Path

import pytest

from mmlight.runs.run.submission import Submission
from mmlight.runs.slurm import client
from mmlight.runs.slurm.launch import ArrayLaunch, Launch
from mmlight.runs.slurm.profile import Profile


def launch_of(root, tasks, count, **changes):
    """The arrays of a sweep of which some runs are submitted."""
    config = {"trainer": {"max_steps": 3}, "model": {"init_args": dict.fromkeys("abcdef", 1)}}
    ids = [f"trial-{n:04d}" for n in range(count)]
    launches = {
        task: Launch(
            run=root / "sweep" / ids[task],
            config=config,
            cluster=Path("site.yaml"),
            changes={},
            profile=Profile(),
            snapshot=None,
            cwd=root,
        )
        for task in tasks
    }
    given = {"max_concurrent": None, "draws": False} | changes
    return ArrayLaunch(folder=root / "sweep", ids=ids, launches=launches, **given)


@pytest.fixture
def slurm_commands(tmp_path, monkeypatch):
    """Stand-ins for sbatch and scancel, which note how they are called."""
    log = tmp_path / "called"
    log.touch()
    (tmp_path / "bin").mkdir()
    for name, body in {
        "sbatch": f'echo "$@" >> "{log}"; [ "$(wc -l < "{log}")" != "${{REFUSE-}}" ] || exit 1; '
        f'echo "$((100 * $(wc -l < "{log}")))"',
        "scancel": f'echo "scancel $@" >> "{log}"',
        "scontrol": "echo 'MaxArraySize            = 1001'",
    }.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return log


def test_it_is_split_into_arrays_that_slurm_takes(tmp_path, slurm_commands):
    assert client.max_array_size() == 1001
    launch = launch_of(tmp_path, range(120), 120)
    assert launch.submit(largest=101) == ["100", "200"]
    scripts = [(tmp_path / "sweep/slurm" / name).read_text() for name in ("job.sh", "job-2.sh")]
    arrays = [re.search(r"--array=(\S+)", script)[1] for script in scripts]
    assert arrays == ["0-100", "0-18"]
    assert f"MMLIGHT_JOB_SCRIPT={tmp_path}/sweep/slurm/job-2.sh" in scripts[1]
    for task, job in ((0, "100_0"), (100, "100_100"), (101, "200_0"), (119, "200_18")):
        assert Submission.read(tmp_path / f"sweep/trial-{task:04d}").jobs == (job,)
    ids = [re.search(r"^ids=\((.*)\)", script, re.M)[1].split() for script in scripts]
    assert ids[0][100] == "trial-0100" and ids[1][0] == "trial-0101"


def test_only_arrays_with_something_to_do_are_submitted(tmp_path, slurm_commands):
    launch = launch_of(tmp_path, [5, 12], 13, max_concurrent=2)
    assert launch.submit(largest=5) == ["100", "200"]
    first, second = slurm_commands.read_text().splitlines()
    # So many at a time are meant for both together.
    assert "--dependency" not in first and "--dependency=afterany:100" in second
    assert Submission.read(tmp_path / "sweep/trial-0005").jobs == ("100_0",)
    assert Submission.read(tmp_path / "sweep/trial-0012").jobs == ("200_2",)


def test_an_array_that_is_refused_takes_the_others_with_it(tmp_path, slurm_commands, monkeypatch):
    monkeypatch.setenv("REFUSE", "2")
    launch = launch_of(tmp_path, range(8), 8)
    with pytest.raises(Exception, match="sbatch refuses"):
        launch.submit(largest=5)
    assert slurm_commands.read_text().splitlines()[-1] == "scancel 100"
    assert not list((tmp_path / "sweep").glob("trial*"))
