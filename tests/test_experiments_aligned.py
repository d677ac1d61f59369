"""Fine-tuning of an aligned model: each experiment starts; what one of them gains and keeps."""

import json
from pathlib import Path

import cli_data
import pytest

ROOT = Path(__file__).parents[1]
ALIGNED = ROOT / "experiments" / "finetune" / "aligned"
KINDS = [path.stem for path in sorted(ALIGNED.glob("cifar10_*.yaml"))]


@pytest.fixture
def here(shared_data, monkeypatch):
    if not (ROOT / "data" / "scenes" / "train").is_dir():
        pytest.skip("no data/scenes (experiments/data/scenes.yaml)")
    monkeypatch.chdir(ROOT)


def run(verb, name, root, *arguments):
    """Run one of the experiments; return its folder and what it scored last."""
    path = ALIGNED / f"{name}.yaml"
    code = cli_data.run_in_process(verb, "-c", path, "--run.root", root, *arguments)
    assert code == 0
    folder = max((root / name).iterdir(), key=lambda one: one.stat().st_mtime)
    return folder, json.loads((folder / "summary.json").read_text())["final"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_goes_on_with_the_aligned_model_and_what_it_keeps_is_tested(here, tmp_path):
    few = ("--trainer.max_steps", "4", "--trainer.limit_test_batches", "2")
    model, own = run("fit", "pretrain", tmp_path, *few)
    begin = ("--model.init_args.from_pretrained", model)
    # The model as it is has its own scores, exactly.
    some = ("--trainer.limit_test_batches", "2")
    _, before = run("test", "retention", tmp_path / "before", *begin, *some)
    kept = "test/loss"
    assert before[kept] == own[kept]
    for name in KINDS:
        tuned, scores = run("fit", name, tmp_path, *begin, "--trainer.max_steps", "2", *some)
        assert "test/zero_shot/image_accuracy_at_1" in scores
        _, after = run(
            *("test", "retention", tmp_path / f"after_{name}"),
            *("--model.init_args.from_pretrained", tuned, *some),
        )
        assert after[kept] != before[kept]
