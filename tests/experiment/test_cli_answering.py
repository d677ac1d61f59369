"""Questions by the command line: scenes to shards, training both ways, predictions, real sets."""

import io
import json
from pathlib import Path

import cli_data
import numpy as np
import pytest
import suite_data
from PIL import Image

from mmlight.__main__ import main
from mmlight.data.scenes.shards import SceneSettings, make

ROOT = Path(__file__).parents[2]
TINY = {"stem_width": 8, "channels": [8, 8, 8, 8]}
IMAGE = {
    "encoder": {
        "class_path": "mmlight.encoders.timm_image.TimmImage",
        "init_args": {"name": "resnet10t", "kwargs": TINY},
    }
}
SHORT = ("--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a few scenes and a tokenizer where the experiments look for them."""
    folder = tmp_path_factory.mktemp("asked")
    data = folder / "data/scenes_questions"
    make(
        data, settings=SceneSettings(8, 2, questions=12, descriptions=3), workers=1, progress=False
    )
    words = ("tokenizer", "train", "--shards", data / "train", "--text", "json:told")
    more = ("json:answers", "--kind", "word", "--vocab-size", "128", "--out", data / "tokenizer")
    assert main([str(part) for part in (*words, *more)]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def overlay(folder, name, towers, **init_args):
    init = {"towers": towers} | init_args
    data = {"global_batch_size": 4, "eval_batch_size": 12}
    values = {"model": {"init_args": init}, "data": {"init_args": data}}
    return cli_data.write_yaml(folder / f"{name}.yaml", values)


def rows(run):
    return [
        json.loads(line) for line in next(run.rglob("predictions.jsonl")).read_text().splitlines()
    ]


def arguments(here, name, towers, *, runs):
    """How an experiment of questions is started, small."""
    file = ROOT / f"experiments/finetune/{name}.yaml"
    small = overlay(here, f"{name}_small", towers, tuning={"backbone_lr": None})
    return ("-c", file, "-c", small, "--run.root", here / runs, "--run.name", name)


@pytest.mark.parametrize(
    ("name", "towers"),
    [
        ("scenes_questions", {"image": IMAGE | {"from_run": None, "changes": None}}),
        ("scenes_questions_generate", {}),
        ("scenes_questions_spoken", {}),
    ],
)
def test_questions_about_scenes_are_learnt_scored_by_type_and_answered(here, name, towers):
    given = arguments(here, name, towers, runs="runs")
    assert cli_data.run_in_process("fit", *given, *SHORT) == 0
    run = cli_data.only_run(here / "runs", name)
    final = json.loads((run / "summary.json").read_text())["final"]
    kinds = ("colour", "shape", "relation", "place", "count", "exists")
    assert {f"{s}/{kind}/accuracy" for s in ("val", "test") for kind in kinds} <= set(final)
    assert cli_data.run_in_process("predict", *given, "--ckpt_path", "last") == 0
    found = rows(run)
    assert len(found) == 12 and all({"question", "answer"} <= set(row) for row in found)


def test_locked_towers_and_adapters_answer_about_pictures_and_voices(here):
    """Of towers that runs left, and a decoder."""
    pytest.importorskip("peft")
    root = ("--run.root", here / "towers")
    language = ROOT / "experiments/pretrain/scenes_questions_language.yaml"
    small = cli_data.write_yaml(here / "l.yaml", {"data": {"init_args": {"global_batch_size": 4}}})
    assert cli_data.run_in_process("fit", "-c", language, "-c", small, *root, *SHORT) == 0
    runs = {"text": "scenes_questions_language"}
    for tower, name in (
        ("image", "scenes_questions_generate"),
        ("audio", "scenes_questions_spoken"),
    ):
        given = arguments(here, name, {}, runs="towers")
        assert cli_data.run_in_process("fit", *given, *SHORT, "--run.test", "false") == 0
        runs[tower] = name
    runs = {
        tower: {"from_run": str(cli_data.only_run(here / "towers", name))}
        for tower, name in runs.items()
    }
    tuning = {"unfreeze": {0: "bridges.*", 1: "all"}}
    overlaid = overlay(here, "multimodal", runs, tuning=tuning)
    file = ROOT / "experiments/finetune/scenes_multimodal.yaml"
    given = ("-c", file, "-c", overlaid, *root, "--run.name", "scenes_multimodal")
    assert cli_data.run_in_process("fit", *given, *SHORT) == 0
    run = cli_data.only_run(here / "towers", "scenes_multimodal")
    final = json.loads((run / "summary.json").read_text())["final"]
    assert {"val/accuracy", "test/image/accuracy", "test/audio/count/accuracy"} <= set(final)


def picture(number):
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def test_shards_of_real_questions_are_read_with_all_that_people_answered(here):
    samples = {}
    for number in range(8):
        said = ["a bat"] * (number % 5) + ["ball"] * (10 - number % 5)
        notes = {"question": "What is he holding?", "answers": said, "type": "other"}
        samples[f"{number:06d}"] = {"jpg": picture(number), "json": json.dumps(notes).encode()}
    for split in ("train", "val"):
        suite_data.write_tar(here / f"data/vqa/{split}/00000.tar", samples)
    (here / "data/vqa/answers.txt").write_text("bat\nball\n")
    model = {
        "class_path": "mmlight.tasks.answering.Answering",
        "init_args": {
            "towers": {
                "image": IMAGE,
                "text": {
                    "encoder": {
                        "class_path": "mmlight.encoders.text_cnn.TextCnn",
                        "init_args": {"vocab_size": 300},
                    }
                },
            }
        },
    }
    tokenizer = {"class_path": "mmlight.text.tokenizer.ByteTokenizer"}
    values = {
        "extends": [
            str(ROOT / "experiments" / part) for part in ("base/cpu.yaml", "data/vqa.yaml")
        ],
        "model": model,
        "data": {"init_args": {"text": {"tokenizer": tokenizer}, "image": {"size": 32}}},
    }
    values["data"]["init_args"] |= {"global_batch_size": 4, "eval_batch_size": 4}
    file = cli_data.write_yaml(here / "real.yaml", values)
    root = ("--run.root", here / "runs")
    assert cli_data.run_in_process("fit", "-c", file, *root, *SHORT) == 0
    final = json.loads((cli_data.only_run(here / "runs", "real") / "summary.json").read_text())[
        "final"
    ]
    # Most said "ball" of each; "bat" is right to some people.
    assert 0 <= final["val/accuracy"] <= 1
    assert final["val/vqa_accuracy"] == final["val/other/accuracy"]
    assert 0 < final["val/vqa_accuracy"] <= 1
