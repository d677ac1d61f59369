"""Rules of the house that neither ruff nor import-linter checks."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "mmlight").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))


def _name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=_name)
def test_init_holds_only_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "says what the folder is for"
    assert len(tree.body) == 1


def test_every_folder_of_the_package_is_a_package():
    folders = {p.parent for p in MODULES}
    assert [f for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_no_homeless_code():
    homeless = {"utils", "util", "common", "misc", "helpers"}
    assert [_name(p) for p in MODULES if homeless & {p.stem, p.parent.name}] == []


def _imported():
    """Return for each module those of the package that it names, wherever it imports them.

    Imports inside functions and under TYPE_CHECKING count: a reader has to go round all the same.
    """
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in MODULES}
    found = {}
    for name, path in modules.items():
        named = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found[name] = {other for other in named if other in modules}
    return found


def test_files_import_one_another_in_no_circle():
    left = _imported()

    def is_end(name):
        return not left[name] & left.keys() or not any(name in named for named in left.values())

    while ends := [name for name in left if is_end(name)]:
        left = {name: named for name, named in left.items() if name not in ends}
    # To be removed with the circle of what a checkpoint and an export is.
    known = {"checkpoint", "exported"}
    assert {name for name in left if name.rpartition(".")[2] not in known} == set()


def test_test_files_have_unique_names():
    # Without __init__.py in tests/, pytest imports two files of one name as the same module.
    names = [p.name for p in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_test_folder_mirrors_one_of_the_package():
    folders = {p.parent for p in (ROOT / "tests").rglob("test_*.py")}
    folders.discard(ROOT / "tests/integration")  # of several parts at once
    mirrored = [ROOT / "mmlight" / f.relative_to(ROOT / "tests") for f in folders]
    assert [_name(f) for f in mirrored if not f.is_dir()] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_experiment_opens_with_its_purpose(path):
    header = re.match(r"(#.*\n)+", path.read_text())
    assert header, "a header of comments comes first"
    keys = re.findall(r"^# ([A-Z][a-z ]*):", header[0], flags=re.MULTILINE)
    assert "Purpose" in keys
    if path.parent.name in {"pretrain", "finetune"}:
        assert {"Command", "Hardware"} <= set(keys)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_experiment_extends_files_that_exist(path):
    values = yaml.safe_load(path.read_text())
    assert isinstance(values, dict)
    for other in values.get("extends", []):
        assert (path.parent / other).is_file(), other


def test_the_walks_of_contributing_go_through_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    walks = text[text.index("## Two walks") : text.index("## What a change touches")]
    files = re.findall(r"`([\w/]+\.py)`", walks)
    assert [name for name in files if not (ROOT / "mmlight" / name).is_file()] == []
    step = re.findall(r"`([\w/]+\.py)`", walks[: walks.index("**A run")])
    assert len(step) == len(set(step)) == 25


def test_the_picture_of_contributing_names_every_room_and_module():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text[text.index("```mermaid") : text.index("| rule |")]
    names = {p.stem for p in (ROOT / "mmlight").iterdir() if p.suffix == ".py" or p.is_dir()}
    names -= {"__init__", "__pycache__"}
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", picture)) == []
