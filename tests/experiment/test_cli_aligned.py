"""A contrastive task on the command line that begins with an aligned model."""

import json
from copy import deepcopy

import cli_data
import pytest
import yaml


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """Train three towers a little; return the experiment's values and its run."""
    folder = tmp_path_factory.mktemp("aligned")
    values = cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    values["trainer"]["max_steps"] = 3
    path = folder / "first.yaml"
    path.write_text(yaml.safe_dump(values))
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return values, next((folder / "runs").glob("first/*"))


def scores(values, folder, name, *arguments):
    """Run a command on the aligned model; return what it scored on the test set."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    root = folder / "runs"
    code = cli_data.run_in_process(
        *(arguments[0], "-c", folder / f"{name}.yaml", "--run.root", root, *arguments[1:])
    )
    assert code == 0
    summary = json.loads(next(root.glob(f"{name}/*/**/summary.json")).read_text())
    return {k: v for k, v in summary["final"].items() if k.startswith("test/")}


def begun(values, run):
    model = {
        "class_path": "mmlight.tasks.contrastive.Contrastive",
        "init_args": {"from_pretrained": str(run), "towers": None},  # its own
    }
    return values | {"model": model, "zero_shot": {"templates": ["a {}"]}}


def test_it_is_tested_as_it_is_and_its_tokenizer_classifies(aligned, tmp_path):
    values, run = aligned
    ours = deepcopy(begun(values, run))
    ours["data"]["init_args"]["text"] = {"tokenizer": None}
    found = scores(ours, tmp_path, "before", "test")
    theirs = scores(values, tmp_path, "theirs", "test", "--ckpt_path", run)
    assert "test/zero_shot/image_accuracy_at_1" in found
    shared = [name for name in theirs if "recall" in name]
    assert shared and all(found[name] == theirs[name] for name in shared)


def test_without_weights_there_is_nothing_to_test(aligned, tmp_path, capsys):
    values, _ = aligned
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(values))
    assert cli_data.run_in_process("test", "-c", tmp_path / "none.yaml") != 0
    assert "test needs trained weights" in capsys.readouterr().err
