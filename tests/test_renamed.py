import pytest

from mmlight import renamed
from mmlight.compose import read
from mmlight.renamed import present_names, present_path


@pytest.fixture
def names(monkeypatch):
    monkeypatch.setattr(renamed, "CLASSES", {"old.place": "mmlight.new", "old.A": "mmlight.b.B"})
    monkeypatch.setattr(renamed, "SETTINGS", {"mmlight.b.B": {"width": "dim"}})


def test_a_class_and_its_settings_have_their_present_names_wherever_they_stand(names):
    one = {"class_path": "old.A", "init_args": {"width": 1, "other": [{"class_path": "old.A"}]}}
    assert present_names({"model": one, "width": 2}) == {
        "model": {
            "class_path": "mmlight.b.B",
            "init_args": {"dim": 1, "other": [{"class_path": "mmlight.b.B"}]},
        },
        "width": 2,
    }
    assert one["init_args"]["width"] == 1


def test_a_class_of_a_module_that_moved_is_found(names):
    assert present_path("old.place.C") == "mmlight.new.C"
    assert present_path("old.place") == "mmlight.new"
    assert present_path("older.place.C") == "older.place.C"


def test_a_file_of_an_earlier_version_is_read_with_present_names(names, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text("model: {class_path: old.A, init_args: {width: 3}}")
    expected = {"class_path": "mmlight.b.B", "init_args": {"dim": 3}}
    assert read(path) == {"model": expected}


def test_every_present_name_is_one():
    for path in (*renamed.CLASSES.values(), *renamed.SETTINGS):
        module, _, name = path.rpartition(".")
        assert module.startswith("mmlight") and name
