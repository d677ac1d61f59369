"""Code of the user's own: found, copied, recorded, compared and run again."""

import json

import git_data
import pytest
from compare_data import write_run

from mmlight.runs.code import provenance
from mmlight.runs.code.sources import read_own_code, read_sources
from mmlight.runs.run.folder import Run
from mmlight.runs.show.compare.run import read_run

CONFIG = {"model": {"init_args": {"tower": {"class_path": "editable_lab.nets.Net"}}}}


@pytest.fixture
def ours(tmp_path, monkeypatch):
    top = git_data.make_repository(tmp_path / "mm", {"mmlight/__init__.py": "", "tests/x.py": ""})
    monkeypatch.setattr(provenance, "code_folder", lambda: top / "mmlight")
    monkeypatch.setattr("mmlight.runs.code.sources.code_folder", lambda: top / "mmlight")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return top


@pytest.fixture
def project(tmp_path):
    files = {"src/proj/net.py": "A = 1\n", "lib/other.py": "", "notes.md": "", ".gitignore": "ven*"}
    top = git_data.make_repository(tmp_path / "my project", files)
    (top / "src/proj/net.py").write_text("A = 2\n")
    (top / "src/proj/new.py").write_text("B = 1\n")
    return top


def set_path(monkeypatch, *folders):
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, folders)))


def test_repositories_on_the_path_are_copied_and_others_used_in_place(
    ours, project, tmp_path, monkeypatch
):
    plain = tmp_path / "plain"
    (project / "venv/lib").mkdir(parents=True)
    (project / "venv/lib/numpy.py").touch()
    plain.mkdir()
    set_path(
        monkeypatch,
        *(project / "src", project / "lib", plain, project / "venv/lib"),
        *(ours / "tests", ours, tmp_path / "missing", project / "src"),
    )
    root = tmp_path / "runs"
    sources = read_sources({}, root=root)
    sources.copy()
    src, lib, *in_place, tests = sources.own_folders
    assert in_place == [plain, project / "venv/lib"]
    assert (src / "proj/net.py").read_text() == "A = 2\n" and (src / "proj/new.py").exists()
    assert (lib / "other.py").exists() and lib.parent == src.parent
    assert tests.parent == sources.snapshot and (tests / "x.py").exists()
    assert f"neither copied nor recorded: {plain}, {project / 'venv/lib'}" in next(
        iter(sources.notes())
    )
    told = sources.described()
    commit = git_data.git(project, "rev-parse", "HEAD")[:12]
    assert told.endswith(f", my project {commit} and what is uncommitted")


def test_relative_folders_begin_here(ours, project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    set_path(monkeypatch, "src", ".")
    found = [one.folder for one in read_own_code(ours=ours)]
    assert found == [project / "src", project]


def test_an_editable_package_that_the_configuration_names_is_found(ours, tmp_path, monkeypatch):
    top = git_data.make_repository(tmp_path / "lab", {"code/editable_lab/__init__.py": ""})
    monkeypatch.syspath_prepend(top / "code")  # as the line of a .pth file does
    sources = read_sources(CONFIG, root=tmp_path / "runs")
    assert [folder.name for folder in sources.own_folders] == ["code"]
    assert read_own_code({}, ours=ours) == []
    (tmp_path / "lab/.gitignore").write_text("code")
    git_data.git(top, "rm", "-rq", "--cached", "code")
    assert read_own_code(CONFIG, ours=ours) == []  # installed packages within a work tree


def test_a_job_records_what_was_copied_and_not_what_it_has_become(
    ours, project, tmp_path, monkeypatch
):
    set_path(monkeypatch, project / "src")
    sources = read_sources({}, root=tmp_path / "runs")
    sources.copy()
    (project / "src/proj/net.py").write_text("A = 3\n")
    monkeypatch.setattr(provenance, "code_folder", lambda: sources.snapshot)
    # The shell's own PYTHONPATH comes along.
    set_path(monkeypatch, sources.snapshot, *sources.own_folders, project / "src", ours)
    run = Run(tmp_path / "runs/a/1")
    (own,) = provenance.collect(patch=run.patch)["own_code"]
    assert own["folder"] == str(sources.own_folders[0])
    assert (own["top"], own["prefix"]) == (str(project), "src/")
    assert own["commit"] == git_data.git(project, "rev-parse", "HEAD").strip()
    assert "+A = 2" in run.own_patch(0).read_text()


def test_a_run_that_other_own_code_goes_on_with_keeps_its_first_record(
    ours, project, tmp_path, monkeypatch
):
    set_path(monkeypatch, project / "src")
    run = Run(tmp_path / "runs/a/1")

    def start():
        run.path.mkdir(parents=True, exist_ok=True)
        run.provenance_json.write_text(json.dumps(provenance.collect(patch=run.patch)))

    start()
    start()
    assert not run.first_provenance.exists()
    git_data.git(project, "commit", "-qam", "second")
    (project / "src/proj/new.py").unlink()
    start()
    assert json.loads(run.first_provenance.read_text())["own_code"][0]["dirty"]
    assert "+A = 2" in run.own_patch(0, first=True).read_text()
    assert not run.own_patch(0).exists()


def test_runs_of_other_own_code_are_compared_as_other_code(tmp_path):
    def code(number):
        git = {"commit": "1" * 40, "patch_sha256": None}
        own = [{"folder": "/plain"}, {"folder": "/own", "commit": str(number) * 40}]
        path = tmp_path / "runs/a" / str(number)
        write_run(path, config={}, rows=[])
        (path / "summary.json").unlink(missing_ok=True)
        (path / "provenance.json").write_text(json.dumps({"git": git, "own_code": own}))
        return read_run(Run(path)).code

    assert [code(1), code(2)] == ["11111111", "11111111 22222222"]
