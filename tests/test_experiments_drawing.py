"""Digits and scenes as discrete tokens, drawn from words, and judged: each experiment starts."""

import json
from pathlib import Path

import cli_data
import pytest

ROOT = Path(__file__).parents[1]
PRETRAIN = ROOT / "experiments" / "pretrain"
SHORT = ("--trainer.max_steps", "2", "--run.test", "false")


def fit(name, root, *arguments):
    code = cli_data.run_in_process(
        "fit", "-c", PRETRAIN / f"{name}.yaml", "--run.root", root, *SHORT, *arguments
    )
    assert code == 0
    return root / name


def chain(subject, root, *, data=()):
    """Train a tokenizer, what draws and a judge, a little; return what the judge says."""
    tokens = fit(f"{subject}_tokens", root, *data)
    drawing = (*data, "--model.towers.image.from_run", tokens, "--pictures", "null")
    model = fit(f"{subject}_text_to_image", root, *drawing)
    judge = fit(f"{subject}_judge", root)
    out = root / "judged"
    code = cli_data.run_in_process(
        *("judge", "-c", PRETRAIN / f"{subject}_text_to_image.yaml", "--model", model),
        *("--judge", judge, "--split", "test", "--count", "3", "--out", out, *drawing[:-2]),
    )
    assert code == 0
    return json.loads((out / "scores.json").read_text())


@pytest.mark.slow
def test_digits_are_drawn_and_judged(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = chain("digits", tmp_path)
    assert found["num_samples"] == 3 and set(found["drawn"]) >= {"accuracy", "loss"}


@pytest.mark.slow
def test_scenes_are_drawn_and_judged(tmp_path, monkeypatch):
    few = ("--samples", "64", "--eval-samples", "8", "--workers", "1")
    assert cli_data.run_in_process("scenes", tmp_path / "data/scenes", *few) == 0
    every = ("scenes", tmp_path / "data/scenes_all", *few, "--all-combinations", "--seed", "1")
    assert cli_data.run_in_process(*every) == 0
    train = ("--shards", tmp_path / "data/scenes/train", "--text", "json:captions")
    given = ("--kind", "word", "--vocab-size", "256", "--out", tmp_path / "data/scenes/tokenizer")
    assert cli_data.run_in_process("tokenizer", "train", *train, *given) == 0
    monkeypatch.chdir(tmp_path)
    found = chain("scenes", tmp_path)
    assert set(found["drawn"]) == {"accuracy", "loss"} | {
        f"{name}/accuracy" for name in ("colour1", "shape1", "relation", "colour2", "shape2")
    }
