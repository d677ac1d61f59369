"""The README's examples of several labels and of tags, run as they stand there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from cli_data import run_in_process

from mmlight.runs.run.metrics_log import read_rows

ROOT = Path(__file__).parents[1]
REVIEWS = [
    {"text": "dull and too long", "labels": ["dull", "long"]},
    {"text": "funny", "labels": ["funny"]},
    {"text": "it was", "labels": []},
]
NAMES = [
    {"words": ["Ada", "left"], "tags": ["B-person", "O"]},
    {"words": ["in", "New", "York"], "tags": ["O", "B-place", "I-place"]},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "table", "rows", "score"),
    [("several_labels", "reviews", REVIEWS, "exact_match"), ("tags", "names", NAMES, "loss")],
)
def test_the_readmes_example_trains(tmp_path, monkeypatch, name, table, rows, score):
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(rf"^mmlight (shards pack {table}\.jsonl .*)$", readme, re.MULTILINE)
    (experiment,) = re.findall(rf"```yaml\n(# {name}\.yaml\n.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT / "experiments")
    Path(f"{table}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 5))
    Path(f"{name}.yaml").write_text(experiment)
    assert run_in_process(*shlex.split(command)) == 0
    arguments = ["--trainer.max_epochs", "1", "--run.id", "a", "--data.global_batch_size", "4"]
    assert run_in_process("fit", "-c", f"{name}.yaml", *arguments) == 0
    logged = read_rows(Path("runs") / name / "a/metrics.jsonl")
    assert any(f"val/{score}" in row for row in logged), logged
