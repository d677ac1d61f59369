"""`mmlight clean`: what no run needs goes, and nothing else."""

import json
import os

import pytest

from mmlight.__main__ import main


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    for key in ("aaa", "bbb-1", "ccc", "ddd", ".part-x"):
        (root / ".snapshots" / key / "pack").mkdir(parents=True)
        (root / ".snapshots" / key / "pack/code.py").write_text("x" * 2**20)
    (root / "a/1/slurm").mkdir(parents=True)
    given = {"snapshot": f"{root}/.snapshots/aaa/pack", "own": [f"{root}/.snapshots/bbb-1"]}
    (root / "a/1/submission.json").write_text(json.dumps(given))
    (root / "sweep/slurm").mkdir(parents=True)
    (root / "sweep/slurm/job.sh").write_text(f"imports={root}/.snapshots/ccc\n")
    for name, age in ((".new.json.ab.part", 0), (".old.json.ab.part", 10**6)):
        (root / "a/1" / name).touch()
        past = (root / "a/1" / name).stat().st_mtime - age
        os.utime(root / "a/1" / name, (past, past))
    return root


def left(root):
    return sorted(p.name for p in [*(root / ".snapshots").iterdir(), *(root / "a/1").glob(".*")])


def test_it_lists_and_with_yes_removes(root, capsys):
    before = left(root)
    assert main(["clean"]) == 0
    out = capsys.readouterr().out
    assert left(root) == before
    for part in ("ddd  1.0 MB", ".part-x", ".old.json", "2.0 MB in 3: --yes removes them"):
        assert part in out
    assert main(["clean", "--yes"]) == 0
    assert left(root) == [".new.json.ab.part", "aaa", "bbb-1", "ccc"]
    capsys.readouterr()
    assert main(["clean", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_what_links_lead_to_stays(root, tmp_path, capsys):
    (tmp_path / "other/code").mkdir(parents=True)
    (root / ".snapshots/eee").symlink_to(tmp_path / "other")
    assert main(["clean", "--yes"]) == 0
    assert (tmp_path / "other/code").exists() and not (root / ".snapshots/eee").is_symlink()
    (root / ".snapshots").rename(tmp_path / "elsewhere")
    (root / ".snapshots").symlink_to(tmp_path / "elsewhere")
    assert main(["clean", "--yes"]) == 2
    assert "is a link" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_a_mistake(root, capsys):
    assert main(["clean", "--root", "other"]) == 2
    assert "no such folder" in capsys.readouterr().err
