"""A run is found by its path, its names and how they begin."""

import pytest

from mmlight.errors import UserError
from mmlight.runs.run.find import find


@pytest.fixture
def root(tmp_path):
    for label in ("scenes/ab12", "scenes/ab34", "trec/cd56", "trec/trial-001", "sst/trial-001"):
        folder = tmp_path / "runs" / label
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("{}\n")
    (tmp_path / "runs/scenes/best.yaml").touch()
    (tmp_path / "runs/.snapshots/ab99").mkdir(parents=True)
    (tmp_path / "runs/.snapshots/ab99/config.yaml").touch()
    return tmp_path / "runs"


@pytest.mark.parametrize("typed", ["scenes/ab12", "ab12", "ab1", "scenes/ab1", "scenes/ab12/"])
def test_run_is_found(root, typed):
    assert find(typed, root=root).path == root / "scenes/ab12"


def test_run_is_found_by_path_whatever_the_root(root):
    folder = root / "scenes/ab12"
    assert find(str(folder), root="elsewhere").path == folder
    assert find(str(folder / "config.yaml"), root="elsewhere").path == folder


def test_exact_id_wins_over_longer_ones(root):
    longer = root / "scenes/ab12-2"
    longer.mkdir()
    (longer / "config.yaml").touch()
    assert find("ab12", root=root).id == "ab12"


def test_ambiguous_run_is_refused_with_its_candidates(root):
    with pytest.raises(UserError, match=r"'ab' may be any of 2 runs: scenes/ab\d\d, scenes/ab"):
        find("ab", root=root)
    with pytest.raises(UserError, match="trial-001' may be any of 2 runs"):
        find("trial-001", root=root)


def test_unknown_run_is_refused_with_the_nearest(root):
    with pytest.raises(UserError, match=r"no run 'cd65' in .*\(did you mean 'cd56'\?\)"):
        find("cd65", root=root)
