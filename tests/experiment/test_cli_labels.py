"""Labels as people have them, through the command line: folders, names, lists in a text."""

import json
from pathlib import Path

import pytest
from cli_data import run_in_process, write_yaml

from mmlight.runs.run.metrics_log import read_rows

WORDS = {"ant": "aaaa", "bee": "bbbb", "cat": "cccc"}


def experiment(members, **data):
    cnn = {"vocab_size": 260, "embed_dim": 16, "filters": 16}
    tower = {"class_path": "mmlight.encoders.text_cnn.TextCnn", "init_args": cnn}
    return {
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 30, "log_every_n_steps": 30},
        "model": {
            "class_path": "mmlight.tasks.classification.Classification",
            "init_args": {
                "towers": {"text": {"encoder": tower}},
                "optimizer": {"lr": 0.03},
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": {"text": "txt", **members},
                "text": {"tokenizer": {"class_path": "mmlight.text.tokenizer.ByteTokenizer"}},
                "global_batch_size": 6,
                "num_workers": 0,
                **data,
            },
        },
    }


def pack_folders(folder, *classes):
    for name in classes:
        for number in range(4):
            path = Path(f"{folder}-files/{name}/{number}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(WORDS[name])
    command = ["shards", "pack", f"{folder}-files", folder, "--label-from-folder"]
    assert run_in_process(*command) == 0
    return {"shards": folder}


@pytest.mark.slow
def test_a_class_folder_that_validation_lacks_renumbers_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    splits = {"train": pack_folders("train", *WORDS), "val": pack_folders("val", "ant", "cat")}
    names = "train/classnames.txt"
    write_yaml(Path("e.yaml"), experiment({"label": "cls"}, class_names=names, **splits))
    assert run_in_process("fit", "-c", "e.yaml", "--run.id", "a") == 0
    assert [row["val/accuracy"] for row in _rows() if "val/accuracy" in row][-1] == 1
    assert "labels go by name" in capfd.readouterr().err


@pytest.mark.slow
def test_a_table_with_several_labels_in_a_text_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["text;labels", "aaaa;ant, small", "bbbb;bee,small", "cccc;cat", "dddd;"]
    Path("t.csv").write_text("\n".join([*lines, *lines[1:], *lines[1:]]) + "\n")
    columns = ["--member", "txt=text", "--member", "cls=labels"]
    assert run_in_process("shards", "pack", "t.csv", "out", *columns) == 0
    splits = {"train": {"shards": "out"}, "val": {"shards": "out"}}
    values = experiment(
        {"fields": {"labels": "cls"}}, class_names=["ant", "bee", "cat", "small"], **splits
    )
    values["model"]["init_args"] |= {
        "label_field": "labels",
        "objective": {"class_path": "mmlight.objectives.labels.BinaryCrossEntropy"},
    }
    write_yaml(Path("e.yaml"), values)
    assert run_in_process("fit", "-c", "e.yaml", "--run.id", "a") == 0
    predict = ["predict", "--ckpt_path", "runs/e/a", "--data.predict.text", "bbbb"]
    assert run_in_process(*predict, "--run.id", "p") == 0
    (line,) = next(Path("runs").rglob("predictions.jsonl")).read_text().splitlines()
    row = json.loads(line)
    assert row["labels"] == ["bee", "small"] and row["classes"] == [1, 3]


def _rows():
    return read_rows(Path("runs/e/a/metrics.jsonl"))
