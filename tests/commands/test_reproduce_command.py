"""`mmlight reproduce`: a run's own code is run again, and what differs is told."""

import io
import json
import os
import sys
from hashlib import sha256

import cli_data
import git_data
import pytest

from mmlight.__main__ import main
from mmlight.runs.code.git import read_git
from mmlight.runs.code.losses import read_losses
from mmlight.runs.code.provenance import package_versions

# Stands in for mmlight at an earlier commit: FACTOR is what a change of the code would change.
PROGRAM = """
import json, os, sys, time
FACTOR = 1
given = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[1:] if "=" in a)
run = os.path.join(given["run.root"], given["run.name"], given["run.id"])
os.makedirs(run)
data = {"fingerprint": {"train": open("data.txt").read()}}
json.dump({"data": data, "num_threads": int(os.environ["OMP_NUM_THREADS"])},
          open(run + "/part", "w"))
os.rename(run + "/part", run + "/provenance.json")
with open(run + "/metrics.jsonl", "w") as log:
    for step in range(1, 200):
        row = {"step": step * 10, "wall_s": 1, "train/loss": FACTOR / step, "val/loss": 1.0}
        log.write(json.dumps(row) + chr(10))
        log.flush()
        if step == 8:
            time.sleep(30 if "check" in os.environ.get("MODE", "") else 0)
"""


@pytest.fixture
def repository(tmp_path):
    return git_data.make_repository(
        tmp_path / "code", {"mmlight/__main__.py": PROGRAM, "mmlight/__init__.py": ""}
    )


@pytest.fixture
def record(tmp_path, repository):
    """Write a run folder as that program at FACTOR = 3 (not committed) would have."""
    folder = tmp_path / "where it ran"
    folder.mkdir()
    (folder / "data.txt").write_text("abc")
    changed = PROGRAM.replace("FACTOR = 1", "FACTOR = 3")
    (repository / "mmlight/__main__.py").write_text(changed)
    git = read_git(repository / "mmlight")
    (repository / "mmlight/__main__.py").write_text("the present code does not matter")

    def write(**changes):
        run = tmp_path / "runs/tiny/one"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("trainer: {log_every_n_steps: 10}\n")
        (run / "git.patch").write_text(git.patch)
        provenance = {
            "verb": "fit",
            "ckpt_path": None,
            "git": git.described(),
            "folder": str(folder),
            "python": __import__("platform").python_version(),
            "packages": package_versions(),
            "num_threads": 2,
            "data": {"fingerprint": {"train": "abc"}},
        }
        (run / "provenance.json").write_text(json.dumps(provenance | changes))
        rows = [{"step": n * 10, "wall_s": 1, "train/loss": 3 / n} for n in range(1, 7)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return run

    return write


def reproduce(run, repository, *arguments):
    code = main(["reproduce", str(run), "--repository", str(repository), "--yes", *arguments])
    assert "mmlight-reproduce" not in git_data.git(repository, "worktree", "list")
    return code


def test_the_commit_and_the_patch_are_run_where_the_run_ran(record, repository, capfd):
    run = record()
    assert reproduce(run, repository) == 0
    out = capfd.readouterr().out
    assert "6 of 6 logged losses: equal bit for bit (to step 60)" in out
    assert "differs" not in out
    (again,) = run.parent.glob("one-again-*")
    assert len(read_losses(again / "metrics.jsonl")) == 199


def test_check_stops_the_run_when_it_has_seen_enough(record, repository, capfd, monkeypatch):
    monkeypatch.setenv("MODE", "check")
    run = record()
    assert reproduce(run, repository, "--check", "5") == 0
    assert "5 of 5 logged losses: equal bit for bit (to step 50)" in capfd.readouterr().out
    assert reproduce(run, repository, "--check", "50") == 0
    assert "--check 50: the run has logged 6 only" in capfd.readouterr().out


def test_check_names_the_first_step_that_differs_in_the_last_digit(record, repository, capfd):
    run = record()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[3]["train/loss"] += 2**-53
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert reproduce(run, repository, "--check", "3") == 0
    assert reproduce(run, repository, "--check", "6") == 1
    expected = f"step 40: train/loss was {0.75 + 2**-53!r}, now it is 0.75: the first that differs"
    assert expected in capfd.readouterr().out


def test_a_run_that_other_code_went_on_with_is_run_by_its_first(record, repository, capfd):
    run = record()
    (run / "git.patch").rename(run / "git-first.patch")
    (run / "provenance-first.json").write_text((run / "provenance.json").read_text())
    provenance = json.loads((run / "provenance.json").read_text())
    provenance["git"] |= {"commit": "1" * 40, "dirty": False}
    (run / "provenance.json").write_text(json.dumps(provenance))
    assert reproduce(run, repository, "--check", "6") == 0
    out = capfd.readouterr().out
    assert "other code has gone on with it since" in out and "6 of 6 logged losses" in out


def test_what_differs_is_told(record, repository, capfd, tmp_path):
    packages = package_versions() | {"torch": "1.13.0", "horovod": "0.2"}
    run = record(packages=packages, python="3.9.1")
    (tmp_path / "where it ran/data.txt").write_text("other data")
    assert reproduce(run, repository) == 0
    out = capfd.readouterr().out
    for row in (
        ["torch", "1.13.0", package_versions()["torch"]],
        ["horovod", "0.2", "none"],
        ["python", "3.9.1"],
        ["data:", "train", "abc", "other", "data"],
    ):
        assert any(line.split()[: len(row)] == row for line in out.splitlines()), (row, out)


def test_a_commit_that_is_not_here_is_a_mistake_in_one_line(record, repository, capfd, tmp_path):
    other = git_data.make_repository(tmp_path / "other", {"a.txt": "a"})
    assert reproduce(record(), other) == 2
    assert f"is not in {other}; fetch it there" in capfd.readouterr().err


def test_a_patch_that_does_not_apply_is_a_mistake_and_leaves_no_work_tree(
    record, repository, capfd
):
    run = record()
    (run / "git.patch").write_text((run / "git.patch").read_text().replace("FACTOR = 1", "F = 1"))
    assert reproduce(run, repository) == 2
    assert "does not apply to commit" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verb": "test"}, "is an evaluation (test)"),
        ({"git": {"commit": "0" * 40, "dirty": True}}, "its git.patch is gone"),
    ],
)
def test_what_cannot_be_run_again_is_refused(record, repository, capfd, changes, said):
    run = record(**changes)
    (run / "git.patch").unlink()
    assert reproduce(run, repository) == 2
    assert said in capfd.readouterr().err


def test_a_run_that_recorded_nothing_is_refused(tmp_path, capsys):
    cli_data.write_yaml(tmp_path / "runs/tiny/one/config.yaml", {"trainer": {}})
    assert main(["reproduce", "tiny/one", "--root", str(tmp_path / "runs")]) == 2
    assert "has no provenance.json; give a run's folder" in capsys.readouterr().err


def ask(run, repository, monkeypatch, answer):
    """Run the command on a terminal of its own, where somebody answers."""
    ours, its = os.openpty()
    os.write(ours, f"{answer}\n".encode())
    with open(its) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code = main(["reproduce", str(run), "--repository", str(repository)])
    os.close(ours)
    return code


@pytest.mark.parametrize(("answer", "runs"), [("y", True), ("", False), ("no", False)])
def test_what_would_be_run_is_shown_and_asked(record, repository, capfd, monkeypatch, answer, runs):
    run = record(environment={"PYTHONHASHSEED": "7"})
    (run / "config.yaml").write_text("trainer: {callbacks: [{class_path: os.system}]}\n")
    assert ask(run, repository, monkeypatch, answer) == (0 if runs else 1)
    out = capfd.readouterr().out
    for said in (
        f"patch: {run / 'git.patch'}: 1 file, 1 lines added, 1 removed: mmlight/__main__.py\n",
        "settings: classes of other packages: os.system\n",
        "variables: PYTHONHASHSEED=7 OMP_NUM_THREADS=2\n",
        f"command: mmlight fit -c {run / 'config.yaml'} --run.root=",
    ):
        assert said in out
    assert bool(list(run.parent.glob("one-again-*"))) is runs


def test_nothing_is_run_where_nobody_can_be_asked(record, repository, capfd, monkeypatch):
    run = record()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["reproduce", str(run), "--repository", str(repository)]) == 2
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and "say --yes if it is trusted" in said.err
    assert not list(run.parent.glob("one-again-*"))


def test_a_patch_that_was_changed_is_told(record, repository, capfd):
    run = record()
    (run / "git.patch").write_text((run / "git.patch").read_text() + "\n")
    reproduce(run, repository)
    assert "patch: it is not the one that was recorded" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"environment": {"LD_PRELOAD": "/tmp/x.so"}}, "sets LD_PRELOAD, which no run records"),
        ({"git": {"commit": "--upload-pack=x"}}, "names no commit"),
        ({"git": {"commit": "0" * 40, "prefix": "../other"}}, "outside the code"),
        ({"git": {"commit": "0" * 40, "prefix": "/other"}}, "outside the code"),
        ({"git": "x"}, "names no commit"),
    ],
)
def test_a_record_that_no_run_writes_is_refused(record, repository, capfd, changes, said):
    assert reproduce(record(**changes), repository) == 2
    assert said in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_run_repeats_its_losses_bit_for_bit(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = cli_data.write_data(tmp_path / "data")
    values = cli_data.changed(
        cli_data.experiment(data, tmp_path / "runs"),
        {"trainer.max_steps": 12, "trainer.log_every_n_steps": 2},
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    begun = cli_data.start("fit", "-c", path, cwd=tmp_path)
    assert begun.wait(300) == 0
    run = cli_data.only_run(tmp_path / "runs")
    provenance = json.loads((run / "provenance.json").read_text())
    if provenance["git"] is None:
        pytest.skip("the package is not in a git work tree")
    patch = run / "git.patch"
    digest = sha256(patch.read_bytes()).hexdigest() if patch.exists() else None
    assert provenance["git"]["patch_sha256"] == digest
    for name in ("MMLIGHT_RUN_ID", "MMLIGHT_RUN_OWNER"):
        os.environ.pop(name, None)
    assert main(["reproduce", str(run), "--check", "5", "--yes"]) == 0
    assert "5 of 5 logged losses: equal bit for bit (to step 10)" in capfd.readouterr().out
    (again,) = run.parent.glob("*-again-*")
    repeated = json.loads((again / "provenance.json").read_text())["git"]
    assert repeated == provenance["git"] | {"branch": "HEAD", "top": repeated["top"]}


def test_own_repositories_are_checked_out_too(record, repository, tmp_path, capfd):
    own = git_data.make_repository(tmp_path / "own", {"src/mine.py": "SCALE = 5\n"})
    (own / "src/mine.py").write_text("SCALE = 1\n")
    git = read_git(own / "src")
    (own / "src/mine.py").write_text("SCALE = 9\n")
    program = PROGRAM.replace("FACTOR = 1", "import mine; FACTOR = 3 * mine.SCALE")
    (repository / "mmlight/__main__.py").write_text(program)
    ours = read_git(repository / "mmlight")
    plain = {"folder": str(tmp_path / "plain")}
    described = {"folder": str(own / "src"), **git.described()}
    run = record(git=ours.described(), own_code=[plain, described])
    (run / "git.patch").write_text(ours.patch)
    assert reproduce(run, repository) == 2
    assert "git.patch is gone" in capfd.readouterr().err
    (run / "git-own-1.patch").write_text(git.patch)
    assert reproduce(run, repository) == 0
    out = capfd.readouterr().out
    assert f"code: {plain['folder']} as it is now: it was in no git work tree" in out
    assert f"code: commit {git.commit[:12]} of {own} with what was uncommitted" in out
    assert "6 of 6 logged losses: equal bit for bit" in out
    assert "mmlight-reproduce" not in git_data.git(own, "worktree", "list")
    # The repository has moved: a clone is named.
    own.rename(tmp_path / "moved")
    assert reproduce(run, repository) == 2
    assert "--repository" in capfd.readouterr().err
    assert reproduce(run, repository, "--repository", str(tmp_path / "moved")) == 0
