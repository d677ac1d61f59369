from hashlib import sha256

import git_data
import pytest

from mmlight.files import write_json
from mmlight.runs.code import provenance
from mmlight.runs.code.git import read_git
from mmlight.runs.run.folder import Run


@pytest.fixture
def work_tree(tmp_path):
    return git_data.make_repository(tmp_path / "code", {"a.txt": "one\n"})


def test_clean_tree(work_tree):
    state = read_git(work_tree)
    assert len(state.commit) == 40 and state.branch == "main"
    assert not state.dirty and state.patch == "" and state.untracked == 0


def test_uncommitted_change_is_kept_as_a_patch_that_applies(work_tree, tmp_path, monkeypatch):
    (work_tree / "a.txt").write_bytes(b"two \xff\n")
    (work_tree / "new").mkdir()
    (work_tree / "new/b c.txt").write_bytes(b"new \x00\xff")
    index = (work_tree / ".git/index").read_bytes()
    monkeypatch.setattr(provenance, "code_folder", lambda: work_tree)
    described = provenance.collect(devices=["cpu"], patch=tmp_path / "git.patch")["git"]
    assert described["dirty"] and described["untracked"] == 1 and described["left_out"] == []
    patch = (tmp_path / "git.patch").read_bytes()
    assert described["patch_sha256"] == sha256(patch).hexdigest()
    assert (work_tree / ".git/index").read_bytes() == index
    git_data.git(work_tree, "checkout", "a.txt")
    (work_tree / "new/b c.txt").unlink()
    git_data.git(work_tree, "apply", str(tmp_path / "git.patch"))
    assert (work_tree / "a.txt").read_bytes() == b"two \xff\n"
    assert (work_tree / "new/b c.txt").read_bytes() == b"new \x00\xff"


def test_large_new_files_are_named_instead_of_kept(work_tree):
    (work_tree / "data.tar").write_bytes(b"\0" * (2**20 + 1))
    (work_tree / "b.txt").write_text("new\n")
    state = read_git(work_tree)
    assert state.left_out == ["data.tar"] and state.untracked == 2
    assert "b.txt" in state.patch and "data.tar" not in state.patch


def test_a_settled_change_leaves_no_old_patch(work_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "code_folder", lambda: work_tree)
    (tmp_path / "git.patch").write_text("of an earlier start")
    assert provenance.collect(patch=tmp_path / "git.patch")["git"]["patch_sha256"] is None
    assert not (tmp_path / "git.patch").exists()


def test_a_run_that_other_code_goes_on_with_keeps_its_first_record(
    work_tree, tmp_path, monkeypatch
):
    monkeypatch.setattr(provenance, "code_folder", lambda: work_tree)
    run = Run(tmp_path / "run")

    def start(text):
        (work_tree / "a.txt").write_text(text)
        write_json(run.provenance_json, provenance.collect(patch=run.patch))

    start("two\n")
    first, patch = run.provenance_json.read_text(), run.patch.read_text()
    start("two\n")
    assert not run.first_provenance.exists()
    for text in ("three\n", "one\n"):
        start(text)
        assert run.first_provenance.read_text() == first
        assert run.first_patch.read_text() == patch
    assert not run.patch.exists()


def test_own_diff_settings_do_not_spoil_the_patch(work_tree):
    (work_tree / "a.txt").write_text("two\n")
    plain = read_git(work_tree).patch
    for setting in ("diff.noprefix=true", "color.ui=always", "diff.mnemonicPrefix=true"):
        git_data.git(work_tree, "config", *setting.split("="))
    assert read_git(work_tree).patch == plain


def test_outside_git_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(provenance, "code_folder", lambda: tmp_path)
    described = provenance.collect(patch=tmp_path / "git.patch")
    assert described["git"] is None and not (tmp_path / "git.patch").exists()
    assert "torch" in described["packages"] and described["host"]


def test_without_git_installed_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.collect()["git"] is None
