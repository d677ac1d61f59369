"""What the submitting shell has in its environment, beside the cluster's profile."""

import pytest

from mmlight.runs.slurm import client
from mmlight.runs.slurm.profile import Profile, with_shell


def test_the_profile_wins_and_says_what_it_overrode():
    environ = {"SBATCH_PARTITION": "low", "SBATCH_ACCOUNT": "lab", "SRUN_EXCLUSIVE": "1", "A": "b"}
    found, told = with_shell(Profile(partition="main"), environ | {"SBATCH_TIMELIMIT": "1"})
    assert found == Profile(partition="main", account="lab")
    assert told == [
        "SBATCH_ACCOUNT=lab of the shell is used: the profile has no account",
        "SBATCH_PARTITION=low of the shell is overridden by the profile's partition: main",
        "SBATCH_TIMELIMIT=1 of the shell is left out: a job asks for what its cluster's profile "
        "says",
        "SRUN_EXCLUSIVE=1 of the shell is left out: a job asks for what its cluster's profile says",
    ]


@pytest.mark.parametrize("command", ["sbatch", "squeue", "scontrol"])
def test_slurms_commands_do_not_see_the_shells_options(tmp_path, monkeypatch, command):
    (tmp_path / command).write_text("#!/bin/sh\nenv\n")
    (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    names = ("SBATCH_PARTITION", "SRUN_OVERLAP", "SQUEUE_PARTITION", "SLURM_JOB_ID", "SLURM_CONF")
    for name in names:
        monkeypatch.setenv(name, "x")
    said = client.run(command)
    assert [name for name in names if f"{name}=x" in said] == ["SLURM_CONF"]
