import os
import subprocess
import sys
import zipfile

import pytest
import yaml

from mmlight.errors import UserError
from mmlight.files import write_json, write_text
from mmlight.runs.run.ckpt_path import last_run
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import RUN_ID, agreed_id

VARIABLES = (
    RUN_ID,
    "MMLIGHT_RUN_OWNER",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "WANDB_RUN_ID",
    "WANDB_SWEEP_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "TORCHELASTIC_RUN_ID",
    "RANK",
    "WORLD_SIZE",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in VARIABLES:
        # Set first, so that what the code exports is taken back afterwards.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def checkpoint(run, name, *, age_s):
    run.checkpoints.mkdir(exist_ok=True)
    path = run.checkpoints / name
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", b"x" * 1000)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def test_fresh_runs_get_folders_of_their_own(tmp_path):
    first = Run.create(tmp_path, name="scenes")
    second = Run.create(tmp_path, name="scenes")
    assert first.path != second.path and first.path.parent == tmp_path / "scenes"
    assert first.name == "scenes" and first.path.is_dir() and second.path.is_dir()


def test_child_processes_agree_with_the_one_that_started_them(tmp_path):
    run = Run.create(tmp_path, name="scenes")
    code = (
        "import sys; from mmlight.runs.run.folder import Run;"
        "print(Run.create(sys.argv[1], name='scenes').id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == run.id


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_JOB_ID": "71"}, "71"),
        (
            {"SLURM_JOB_ID": "73", "SLURM_ARRAY_JOB_ID": "71", "SLURM_ARRAY_TASK_ID": "2"},
            "71_2",
        ),
        ({"SLURM_JOB_ID": "71", RUN_ID: "mine"}, "mine"),
        ({"TORCHELASTIC_RUN_ID": "abc"}, "abc"),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({}, None),
    ],
)
def test_id_that_all_ranks_and_restarts_know(environ, expected):
    assert agreed_id(environ) == expected


def test_processes_without_a_common_id_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"4 processes.*MMLIGHT_RUN_ID"):
        Run.create(tmp_path, name="scenes")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="run name"):
        Run.create(tmp_path, name=name)


def test_checkpoint_cut_short_is_passed_over(tmp_path):
    run = Run.create(tmp_path, name="s")
    whole = checkpoint(run, "step-00000005.ckpt", age_s=90)
    torn = checkpoint(run, "step-00000010.ckpt", age_s=10)
    torn.write_bytes(torn.read_bytes()[:500])
    assert run.newest_checkpoint() == whole


def test_nothing_to_continue_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no run to continue.*ckpt_path") as caught:
        last_run(tmp_path, name="s")
    assert "\n" not in str(caught.value)


def test_task_of_a_job_array_does_not_continue_another(tmp_path, monkeypatch):
    other = Run.create(tmp_path, name="s", run_id="71_1")
    checkpoint(other, "last.ckpt", age_s=1)
    os.environ.pop(RUN_ID)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "71")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with pytest.raises(UserError, match="71_2"):
        last_run(tmp_path, name="s")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert last_run(tmp_path, name="s") == other


def begin(root, config):
    """Begin a run in this process, as rank 0 does; return its id."""
    for name in (RUN_ID, "MMLIGHT_RUN_OWNER"):
        os.environ.pop(name, None)
    run = Run.create(root, name="tiny", config=config)
    write_text(run.config_yaml, yaml.safe_dump(config))
    return run


def test_the_second_training_of_one_job_gets_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    first = begin(tmp_path, {"seed": 1})
    assert begin(tmp_path, {"seed": 1}) == first  # another rank, or a start after a crash
    assert begin(tmp_path, {"seed": 2}).id == "71-2"  # other settings
    write_json(first.summary_json, {"status": "finished"})
    assert begin(tmp_path, {"seed": 1}).id == "71-3"  # the same once more
    write_json(first.summary_json, {"status": "failed"})
    assert begin(tmp_path, {"seed": 1}) == first


def test_a_job_that_slurm_starts_again_finds_its_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    first, second = begin(tmp_path, {"seed": 1}), begin(tmp_path, {"seed": 2})
    write_json(first.summary_json, {"status": "finished"})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert begin(tmp_path, {"seed": 1}) == first and begin(tmp_path, {"seed": 2}) == second
    checkpoint(second, "step-00000004.ckpt", age_s=0)
    assert last_run(tmp_path, name="tiny").id == "71-2"


def test_an_id_that_was_asked_for_is_taken_whatever_lies_there(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    write_json(begin(tmp_path, {"seed": 1}).summary_json, {"status": "finished"})
    asked = Run.create(tmp_path, name="tiny", run_id="71", config={"seed": 2})
    assert asked.id == "71"


def test_each_folder_has_one_id_in_wandb_over_all_starts(tmp_path, monkeypatch):
    first, second = Run(tmp_path / "a/tiny/71"), Run(tmp_path / "b/tiny/71")
    for run in (first, second):
        run.path.mkdir(parents=True)
    assert first.wandb_id() == Run(first.path).wandb_id() != second.wandb_id()
    assert [path.name for path in first.path.iterdir()] == ["wandb-id"]
    third = Run(tmp_path / "a/tiny/72")
    third.path.mkdir()
    monkeypatch.setenv("WANDB_RUN_ID", "announced")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert third.wandb_id() == "announced" and first.wandb_id() != "announced"


def test_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": float("inf"), "b": (1, 2), "c": path})
    before = path.read_text()
    assert '"inf"' in before
    with pytest.raises(AttributeError):
        write_text(path, object())
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_runs_need_neither_torch_nor_matplotlib():
    code = (
        "import sys, importlib, pkgutil, mmlight.runs as r;"
        "[importlib.import_module(m.name) for m in "
        "pkgutil.walk_packages(r.__path__, 'mmlight.runs.')];"
        "print([m for m in ('torch', 'matplotlib', 'sklearn', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
