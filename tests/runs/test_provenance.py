import subprocess

import pytest

from mmlight.runs import provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def work_tree(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-b", "main")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", "a.txt")
    git(folder, "commit", "-m", "begin")
    return folder


def test_clean_tree(work_tree):
    state = provenance.read_git(work_tree)
    assert len(state.commit) == 40 and state.branch == "main"
    assert not state.dirty and state.patch == "" and state.untracked == 0


def test_uncommitted_change_is_kept_as_a_patch_that_applies(work_tree, tmp_path, monkeypatch):
    (work_tree / "a.txt").write_bytes(b"two \xff\n")
    (work_tree / "b.txt").write_text("new\n")
    monkeypatch.setattr(provenance, "code_folder", lambda: work_tree)
    described = provenance.collect(devices=["cpu"], patch=tmp_path / "git.patch")
    assert described["git"]["dirty"] and described["git"]["untracked"] == 1
    git(work_tree, "checkout", "a.txt")
    git(work_tree, "apply", str(tmp_path / "git.patch"))
    assert (work_tree / "a.txt").read_bytes() == b"two \xff\n"


def test_outside_git_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(provenance, "code_folder", lambda: tmp_path)
    described = provenance.collect(patch=tmp_path / "git.patch")
    assert described["git"] is None and not (tmp_path / "git.patch").exists()
    assert "torch" in described["packages"] and described["host"]


def test_without_git_installed_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.collect()["git"] is None
