"""Every experiment can be read as it stands, and those that no other test begins take a step."""

from pathlib import Path

import cli_data
import pytest

from mmlight import own_modules
from mmlight.experiment.parser import resolve

ROOT = Path(__file__).parents[1]
FOLDERS = ("pretrain", "finetune", "finetune/aligned", "own")
EXPERIMENTS = [
    path for folder in FOLDERS for path in sorted((ROOT / "experiments" / folder).glob("*.yaml"))
]
SCENES = (
    "pretrain/scenes_coca",
    "pretrain/scenes_coca_contrastive",
    "finetune/scenes_captions",
    "finetune/scenes_captions_audio",
    "finetune/scenes_captions_gpt2",
)
SHARED = (
    "finetune/bccd_dense",
    "finetune/bccd_detr_overfit",
    "finetune/cifar10_scratch",
    "finetune/esc10_scratch",
    "finetune/spoken_digits_fusion",
    "finetune/spoken_digits_number",
    "finetune/spoken_digits_speaker_scratch",
    "finetune/spoken_digits_unseen_speaker",
)


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_an_experiment_names_what_there_is(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(path.parent))  # modules of one's own lie beside them
    monkeypatch.setattr(own_modules, "_allowed", set())
    values, _ = resolve(["fit", "-c", str(path)])
    assert values["model"]["class_path"] and values["data"]["class_path"]


def step(name, folder):
    code = cli_data.run_in_process(
        *("fit", "-c", ROOT / f"experiments/{name}.yaml", "--run.root", folder / "runs"),
        *("--run.test", "false", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"),
        *("--pictures", "null", "--data.global_batch_size", "4"),
    )
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_an_experiment_on_scenes_takes_a_step(name, tmp_path, monkeypatch):
    few = ("--samples", "64", "--eval-samples", "8", "--workers", "1")
    assert cli_data.run_in_process("scenes", tmp_path / "data/scenes", *few) == 0
    train = ("--shards", tmp_path / "data/scenes/train", "--text", "json:captions")
    given = ("--kind", "word", "--vocab-size", "256", "--out", tmp_path / "data/scenes/tokenizer")
    assert cli_data.run_in_process("tokenizer", "train", *train, *given) == 0
    monkeypatch.chdir(tmp_path)
    step(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_an_experiment_on_real_data_takes_a_step(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    step(name, tmp_path)
