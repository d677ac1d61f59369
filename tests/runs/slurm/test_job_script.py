"""The job script: what it asks for, and that a shell reads it as it is meant."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mmlight.errors import UserError
from mmlight.runs.slurm.profile import Container, Profile
from mmlight.runs.slurm.resources import Resources
from mmlight.runs.slurm.script import TEMPLATE, Array, render


def rendered(tmp_path, profile=None, **changes):
    given = {"name": "scenes", "run_id": "ab12", "root": tmp_path / "my runs"} | changes
    if given.get("array"):
        given["run_id"] = None
    return render(profile or Profile(), folder=tmp_path / "my runs/scenes/ab12/slurm", **given)


def options(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]


def run(script, folder, **environment):
    """Run the script with stand-ins for SLURM's commands; return what each was given."""
    (folder / "bin").mkdir()
    log = folder / "called"
    for name, body in {
        "srun": f'printf "%s\\n" "$@" RUN_ID="$MMLIGHT_RUN_ID" '
        f'MASTER="$MASTER_ADDR:$MASTER_PORT" PYTHONPATH="$PYTHONPATH" A="$A" >> "{log}"; '
        'echo "  out"; echo err >&2; printf "no end"; exit 7',
        "scontrol": "case $* in *hostnames*) echo node1; echo node2;; "
        '*) echo "NodeName=node1 CPUAlloc=0 NodeAddr=10.0.0.5 Port=1";; esac',
        "module": "exit 0",
        "python": f'printf "after %s\\n" "$*" >> "{log}"; exit 7',
    }.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    path = folder / "job.sh"
    path.write_text(script)
    log.touch()
    done = subprocess.run(
        ["bash", str(path)],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "1001", **environment},
        capture_output=True,
        text=True,
    )
    return done, log.read_text().splitlines()


def test_asks_for_what_profile_and_run_need(tmp_path):
    profile = Profile(partition="gpu", gres="gpu:a100", memory_per_node="0", signal_lead_s=300)
    asked = options(rendered(tmp_path, profile, resources=Resources(2, 4, 4)))
    for option in (
        *("--requeue", "--open-mode=append", "--signal=USR1@300", "--nodes=2"),
        *("--ntasks-per-node=4", "--gres=gpu:a100:4", "--mem=0", "--partition=gpu"),
        f'--output="{tmp_path}/my runs/scenes/ab12/slurm/%j.out"',
    ):
        assert option in asked


def test_asks_for_nothing_that_the_profile_leaves_open(tmp_path):
    names = {option.partition("=")[0] for option in options(rendered(tmp_path))}
    assert not names & {"--account", "--qos", "--gres", "--mem", "--array", "--constraint"}


def test_the_run_is_started_and_its_end_judged(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    done, called = run(rendered(tmp_path, cwd=tmp_path), tmp_path)
    folder = f"{tmp_path}/my runs/scenes/ab12"
    assert done.returncode == 7
    assert called[0] == "--kill-on-bad-exit=1"
    assert called[called.index("-c") + 1] == f"{folder}/submitted.yaml"
    assert called[called.index("--ckpt_path") + 1] == "auto"
    assert "RUN_ID=ab12" in called
    assert "MASTER=10.0.0.5:13001" in called
    assert called[-1] == f"after -P -m mmlight.runs.slurm.after_srun {folder} 7"


def test_each_task_of_an_array_is_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    array = Array(["trial-000", "trial-001", "trial-002"], tasks=[0, 2], max_concurrent=1)
    script = rendered(tmp_path, array=array, cwd=tmp_path)
    assert "--array=0,2%1" in options(script)
    assert any(option.endswith('/%A_%a.out"') for option in options(script))
    _, called = run(script, tmp_path, SLURM_ARRAY_TASK_ID="2")
    assert "RUN_ID=trial-002" in called
    assert called[-1].endswith("my runs/scenes/trial-002 7")


def test_lines_bear_their_time_and_the_rank_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    script = rendered(tmp_path, cwd=tmp_path, resources=Resources(2, 4, 0))
    done, called = run(script, tmp_path)
    assert done.returncode == 7  # of srun, not of what writes the lines
    assert "--label" in called
    stamped = re.findall(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (.*)$", done.stdout, re.M)
    assert stamped == ["  out", "err", "no end"]
    assert "--label" not in rendered(tmp_path)


def test_ranges_of_an_array_are_joined():
    assert Array(["x"] * 9, tasks=[0, 1, 2, 5, 7, 8]).option() == "0-2,5,7-8"


def test_modules_environment_and_setup_come_before_training(tmp_path):
    profile = Profile(
        modules=["cuda/12.4", "gcc"], environment={"NCCL_DEBUG": "IN FO"}, setup=["ulimit -l 1"]
    )
    lines = rendered(tmp_path, profile, snapshot=tmp_path / "code").splitlines()
    found = [
        lines.index(line)
        for line in (
            "module load cuda/12.4 gcc",
            "export NCCL_DEBUG='IN FO'",
            "ulimit -l 1",
            "trap - ERR",
            f"export MMLIGHT_SNAPSHOT={tmp_path}/code",
        )
    ]
    assert found == sorted(found)
    assert found[-1] < next(i for i, line in enumerate(lines) if line.startswith("srun "))


@pytest.mark.parametrize("given", [{}, {"PYTHONPATH": "/shell"}])
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, []),
        ({"environment": {"PYTHONPATH": "/my/lib"}}, ["/my/lib"]),
        ({"setup": ["export PYTHONPATH=/set up"]}, None),
    ],
)
def test_code_is_put_before_what_is_on_the_path(tmp_path, monkeypatch, changes, kept, given):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    profile = Profile(**changes)
    own = [tmp_path / "own", tmp_path / "lib"]
    script = rendered(tmp_path, profile, cwd=tmp_path, snapshot=tmp_path / "code", own=own)
    _, called = run(script, tmp_path, **given)
    before = ["/set"] if kept is None else kept or list(given.values())
    expected = ":".join([*(f"{tmp_path}/{name}" for name in ("code", "own", "lib")), *before])
    assert f"PYTHONPATH={expected}" in called


def test_a_job_that_a_job_submits_finds_its_code_once(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    script = rendered(tmp_path, cwd=tmp_path, snapshot=tmp_path / "code")
    _, called = run(script, tmp_path, PYTHONPATH=f"{tmp_path}/code:/shell")
    assert f"PYTHONPATH={tmp_path}/code:/shell" in called


def test_a_folder_with_a_colon_is_refused(tmp_path):
    with pytest.raises(UserError, match="colon"):
        rendered(tmp_path, snapshot=tmp_path / "a:b")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"setup": ["module() { return 3; }", "module load nosuch/1"]},
            "setup failed with exit code 3: module load nosuch/1",
        ),
        (
            {"setup": ["source /opt/nosuch/env.sh"]},
            "setup failed with exit code 1: source /opt/nosuch/env.sh",
        ),
        (
            {"setup": ["set -euo pipefail", "if true; then", "  false", "fi"]},
            "setup failed with exit code 1: false",
        ),
        ({"environment": {"A": "$NOSUCH/hf"}}, "environment.A: $NOSUCH is not set on this node"),
    ],
)
def test_a_setup_that_fails_ends_the_job_and_is_given_up(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    done, called = run(rendered(tmp_path, Profile(**changes), cwd=tmp_path), tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines() == [f"mmlight: {said}"]
    folder = f"{tmp_path}/my runs/scenes/ab12"
    assert called == [f"after -P -m mmlight.runs.slurm.after_srun {folder} 2 {said}"]


def test_what_a_sourced_file_gets_over_ends_no_job(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    (tmp_path / "env.sh").write_text("false\nexport A=sourced\n")
    setup = [f"source {tmp_path}/env.sh", "f() { false; true; }", "f", "false || true", "set -eu"]
    done, called = run(rendered(tmp_path, Profile(setup=setup), cwd=tmp_path), tmp_path)
    assert "A=sourced" in called
    assert done.returncode == 7 and "after_srun" in called[-1]  # whatever the setup has set


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("$SCRATCH/hf", "/scratch/me/hf"),
        ("${SCRATCH}hf", "/scratch/mehf"),
        ("$A:/x", ":/x"),  # a variable may extend itself where it is not set
        (r"\$SCRATCH", "$SCRATCH"),
        ("a$ $1 $(echo no) `echo no` \\ \" '", "a$ $1 $(echo no) `echo no` \\ \" '"),
        ("$SCRATCH $(echo no) `echo no` \\ \" '", "/scratch/me $(echo no) `echo no` \\ \" '"),
    ],
)
def test_variables_in_the_environment_are_those_of_the_node(tmp_path, monkeypatch, value, found):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    script = rendered(tmp_path, Profile(environment={"A": value}), cwd=tmp_path)
    _, called = run(script, tmp_path, SCRATCH="/scratch/me")
    assert f"A={found}" in called


@pytest.mark.parametrize("name", ["name", "root", "srun", "UID", "MMLIGHT_RUN_ID", "SLURM_PROCID"])
def test_the_environment_does_not_set_what_the_script_works_with(name):
    with pytest.raises(UserError, match=f"environment: {name} is a variable of the job script"):
        Profile(environment={name: "x"}).check_lines()


def test_pyxis_starts_in_the_folder_of_submission(tmp_path):
    profile = Profile(container=Container("pyxis", "i"), python="python3")
    assert f"--container-workdir={tmp_path}/lab" in rendered(
        tmp_path, profile, cwd=tmp_path / "lab"
    )


@pytest.mark.parametrize(
    ("gpus", "options", "count"), [(8, [], 1), (0, [], 0), (8, ["--nv"], 1), (8, ["--rocm"], 0)]
)
def test_apptainer_gets_the_gpus_that_are_asked_for(tmp_path, gpus, options, count):
    profile = Profile(container=Container("apptainer", "i", [], options), python="python3")
    script = rendered(tmp_path, profile, resources=Resources(1, 1, gpus), cwd=tmp_path)
    line = next(one for one in script.splitlines() if one.startswith("python=("))
    assert line.split().count("--nv") == count
    assert f"--pwd={tmp_path}" in line


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_an_image_does_not_set_what_the_profile_sets(tmp_path, monkeypatch, runtime):
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    profile = Profile(
        container=Container(runtime, "i"),
        python="python3",
        environment={"A": "$B/c", "PATH": "$PATH"},
    )
    script = rendered(tmp_path, profile, cwd=tmp_path, snapshot=tmp_path / "code")
    _, called = run(script, tmp_path, B="/b")
    words = called[called.index("env") : called.index("python3")]
    assert words == ["env", f"PYTHONPATH={tmp_path}/code", "A=/b/c"]


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_a_container_sees_runs_code_and_data(tmp_path, runtime):
    container = Container(runtime=runtime, image="a b.sif", mounts=["/data"], options=["--nv"])
    profile = Profile(container=container, python="python3")
    script = rendered(
        tmp_path, profile, snapshot=tmp_path / "my runs/.snapshots/1", cwd=tmp_path / "lab"
    )
    starts = ("python=(app", "srun=(--k")
    line = next(s for s in script.splitlines() if s.startswith(starts) and "a b" in s)
    runs, lab = tmp_path / "my runs", tmp_path / "lab"
    for part in ("a b.sif", "/data:/data", f"{runs}:{runs}", f"{lab}:{lab}", "--nv"):
        assert part in line
    assert ".snapshots" not in line  # it lies in a folder that is mounted


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
@pytest.mark.parametrize("array", [None, Array(["a", "b"])])
def test_shellcheck_finds_nothing(tmp_path, array):
    profile = Profile(
        modules=["cuda"], environment={"A": "b c"}, container=Container("apptainer", "a.sif")
    )
    path = tmp_path / "job.sh"
    path.write_text(rendered(tmp_path, profile, array=array, snapshot=tmp_path / "it's"))
    for script in (path, TEMPLATE):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


# What a shell would run, and what would end a quotation.
EVIL = "a'b\"c$(touch PWNED)`touch PWNED`;touch PWNED;# %j #touch"


@pytest.mark.parametrize("key", ["root", "cwd", "snapshot", "folder", "name", "run_id"])
@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b"])
def test_a_newline_in_a_name_or_folder_is_no_line_of_the_script(tmp_path, key, character):
    text = f"x{character}touch PWNED #"
    value = text if key in ("name", "run_id") else tmp_path / text
    given = {"root": tmp_path, "folder": tmp_path, "name": "a", "run_id": "b"} | {key: value}
    with pytest.raises(UserError, match=r"control character|cannot name a folder") as error:
        render(Profile(), **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {key: "x\ntouch PWNED #"}
            for key in ("partition", "account", "qos", "constraint", "reservation", "gres")
        ),
        *({key: "x\ntouch PWNED #"} for key in ("memory_per_node", "python")),
        *({key: ["-x\ntouch PWNED #"]} for key in ("sbatch", "srun", "modules")),
        {"setup": ["x\x1b[2J"]},
        {"environment": {"A=1; touch PWNED; B": 1}},
        {"environment": {"A": "\x1b"}},
        {"container": Container("pyxis", "i\n", [], [])},
        {"container": Container("pyxis", "i", ["/a\n"], [])},
        {"container": Container("pyxis", "i", [], ["--x\n"])},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_profile_that_would_add_lines_is_refused(tmp_path, changes):
    (key,) = changes
    with pytest.raises(UserError, match=f"^{key}"):
        rendered(tmp_path, Profile(**changes))


def test_quotes_and_substitutions_are_text_to_the_shell(tmp_path, monkeypatch):
    folder = tmp_path / EVIL
    folder.mkdir()
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    profile = Profile(
        **dict.fromkeys(("partition", "account", "qos", "constraint", "reservation"), EVIL),
        modules=[EVIL],
        environment={"A": f"{EVIL}\n{EVIL}"},
        srun=[EVIL],
        container=Container("apptainer", EVIL, [f"/{EVIL}"], [EVIL]),
        python=EVIL,
    )
    script = rendered(tmp_path, profile, root=folder, cwd=folder, snapshot=folder)
    _, called = run(script, tmp_path, A="")
    assert not list(tmp_path.rglob("PWNED*")) and not Path("PWNED").exists()
    # Of srun, of the container (option, image, interpreter), and twice the end of A.
    assert called.count(EVIL) == 6
    assert called[called.index("--run.root") + 1] == str(folder)
    for option in options(script):
        assert option.startswith(("--", "/")), option


def test_a_percent_sign_in_a_folder_is_no_pattern_of_the_log(tmp_path):
    script = render(Profile(), root=tmp_path, name="a", run_id="b", folder=tmp_path / "50%j")
    assert f"--output={tmp_path}/50%%j/%j.out" in options(script)


def test_a_backslash_in_the_runs_folder_is_refused(tmp_path):
    # Seen with SLURM 22.05: the log's path loses it, the job ends with JobLaunchFailure.
    with pytest.raises(UserError, match="backslash"):
        render(Profile(), root=tmp_path, name="a", run_id="b", folder=tmp_path / "a\\b")
