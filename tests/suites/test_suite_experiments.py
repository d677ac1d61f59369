"""The suites of experiments/suites, each run by the command on some of their samples."""

import csv
from pathlib import Path

import cli_data
import pytest
import suite_data
import yaml

from mmlight.saved.checkpoint import Saved, write_export

ROOT = Path(__file__).parents[2]
SUITES = ROOT / "experiments" / "suites"
LIMIT = 80


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """An export of three towers as they were drawn."""
    folder = tmp_path_factory.mktemp("model")
    data = cli_data.write_data(folder / "data")
    task, task.data = cli_data.build(cli_data.experiment(data, folder / "runs"))
    task.configure_model()
    saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    write_export(folder / "export", saved)
    return folder / "export"


def scored(model: Path, suite: Path, root: Path) -> set[tuple[str, str]]:
    """Evaluate; return which sets and tasks have a score."""
    arguments = ("--model", model, "--suite", suite, "--root", root, "--workers", "0")
    assert cli_data.run_in_process("evaluate", *arguments) == 0
    (path,) = root.glob("evaluations/*/scores.csv")
    with path.open() as file:
        return {(row["set"], row["task"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", ["aligned", "cifar10", "esc10", "scenes", "spoken_digits"])
def test_a_suite_is_scored_on_real_samples(name, model, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if name in ("aligned", "scenes") and not (ROOT / "data" / "scenes" / "test").is_dir():
        pytest.skip("no scenes in data/scenes (make quickstart makes them)")
    sets = yaml.safe_load((SUITES / f"{name}.yaml").read_text())["sets"]
    wanted, less = set(), {}
    for key, one in sets.items():
        less[key] = {"limit": LIMIT, "tasks": {}}
        for task in one["tasks"]:
            wanted.add((key, task))
            if task == "few_shot":
                less[key]["tasks"][task] = {"shots": [1], "draws": 2}
            if task == "linear_probe":
                less[key]["tasks"][task] = {"max_steps": 20}
        if isinstance(one["tasks"], list):  # is replaced, not merged
            less[key]["tasks"] = {task: less[key]["tasks"].get(task) for task in one["tasks"]}
    path = tmp_path / "less.yaml"
    path.write_text(yaml.safe_dump({"extends": [str(SUITES / f"{name}.yaml")], "sets": less}))
    assert scored(model, path, tmp_path) == wanted


@pytest.mark.slow
def test_the_sets_of_clip_benchmark_are_scored_in_their_layout(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = SUITES / "clip_benchmark.yaml"
    wanted = set()
    for name, one in yaml.safe_load(path.read_text())["sets"].items():
        kind, task = None, "zero_shot"
        if name in ("flickr8k", "flickr30k", "mscoco_captions"):
            kind, task = "retrieval", "retrieval"
        elif "multilabel" in name:
            kind, task = "multilabel", "multi_label"
        suite_data.layout(tmp_path / one["shards"], kind)
        wanted |= {(name, task) for task in one.get("tasks", [task])}
    assert scored(model, path, tmp_path) == wanted
