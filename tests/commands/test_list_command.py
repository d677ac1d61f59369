"""`mmlight list`: what an experiment may name."""

import importlib

import pytest

from mmlight.commands import list as verb


@pytest.mark.parametrize("kind", sorted(verb._CLASSES))
def test_every_class_that_is_listed_is_there_and_can_be_built(kind):
    import inspect

    rows = list(verb.classes(kind))
    assert rows and all(text.endswith(".") for _, text in rows)
    for path, _ in rows:
        module, _, name = path.rpartition(".")
        assert not inspect.isabstract(getattr(importlib.import_module(module), name))


def test_all_tasks_are_listed(capsys):
    assert verb.main(["tasks"]) == 0
    out = capsys.readouterr().out
    for name in ("Classification", "Contrastive", "Detection", "Tagging", "Transcription"):
        assert f".{name} " in out


def test_classes_of_ones_own_module_are_listed_without_importing_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = 'raise RuntimeError("imported")\nclass Mine(CrossEntropy):\n    """A loss."""\n'
    (tmp_path / "listed_module.py").write_text(text)
    assert verb.main(["objectives", "--import", "listed_module"]) == 0
    assert "listed_module.Mine" in capsys.readouterr().out


def test_files_are_listed_with_their_purpose(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert verb.main(["datasets"]) == 0
    assert "experiments/data/cifar10.yaml" in capsys.readouterr().out
    (tmp_path / "experiments/data").mkdir(parents=True)
    (tmp_path / "experiments/data/own.yaml").write_text("# Purpose: my\n#   own.\n# Paper: x\n")
    assert verb.main(["datasets"]) == 0
    assert capsys.readouterr().out == "  experiments/data/own.yaml  my own.\n"
