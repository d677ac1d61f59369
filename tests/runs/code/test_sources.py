"""The copy of the code that a job runs."""

import subprocess

import pytest

from mmlight.runs.code.git import SNAPSHOT, read_git
from mmlight.runs.code.sources import code_folder, read_code


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    top = tmp_path / "my project"
    package = top / "lab/pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 1\n")
    (top / "old.py").write_text("1\n")
    (top / ".gitignore").write_text("data/\n")
    git(top, "init", "-q")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "first")
    return top


def files(folder):
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(str(p) for p in found if not p.name.startswith(".mmlight"))


def test_copy_holds_the_code_as_it_is_now(project, tmp_path):
    (project / "lab/pack/__init__.py").write_text("VALUE = 2\n")
    (project / "lab/pack/new one.py").write_text("\n")
    (project / "old.py").unlink()
    (project / "data").mkdir()
    (project / "data/large.bin").write_text("ignored")
    code = read_code(project / "lab/pack", root=tmp_path / "runs")
    source = code.copy()
    assert source == tmp_path / "runs/.snapshots" / code.key / "lab"
    assert files(source.parent) == [".gitignore", "lab/pack/__init__.py", "lab/pack/new one.py"]
    assert (source / "pack/__init__.py").read_text() == "VALUE = 2\n"
    assert git(project, "status", "--short") == "M lab/pack/__init__.py\n D old.py\n?? " + (
        '"lab/pack/new one.py"'
    )


def test_equal_code_is_copied_once_and_changed_code_again(project, tmp_path):
    def key():
        return read_code(project, root=tmp_path / "runs").key

    clean = key()
    assert clean == git(project, "rev-parse", "HEAD")[:12]
    (project / "old.py").write_text("2\n")
    changed = key()
    assert changed.startswith(f"{clean}-")
    (project / "old.py").write_text("3\n")
    assert len({clean, changed, key()}) == 3
    (project / "old.py").write_text("2\n")
    assert key() == changed


def test_runs_within_the_work_tree_are_no_code(project):
    root = project / "runs"
    first = read_code(project, root=root)
    first.copy()
    (root / "a/1").mkdir(parents=True)
    (root / "a/1/config.yaml").touch()
    again = read_code(project, root=root)
    assert again.key == first.key
    assert not [name for name in again.files if name.startswith("runs/")]


def test_a_job_knows_what_its_copy_is_of(project, tmp_path, monkeypatch):
    (project / "old.py").write_text("2\n")
    code = read_code(project / "lab/pack", root=tmp_path / "runs")
    monkeypatch.setenv(SNAPSHOT, str(code.copy()))
    assert read_git(code_folder()) == code.git


def test_no_git_no_copy(tmp_path):
    assert read_code(tmp_path, root=tmp_path) is None
