import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2]))
from cli_data import COLOURS, changed, experiment, only_run, run_in_process, write_data, write_yaml
from PIL import Image

from mmlight.callbacks.showing.errors_table import ErrorsTable
from mmlight.errors import UserError
from mmlight.runs.run.stage_rows import read_stage_rows


def test_mistakes_come_with_their_samples(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    data = write_data(tmp_path / "data")
    values = experiment(data, tmp_path / "runs")
    values["model"]["class_path"] = "mmlight.tasks.classification.Classification"
    for key in ("objective", "embed_dim"):
        del values["model"]["init_args"][key]
    changes = {"trainer.max_steps": 5, "run.test": True, "mistakes": {"num_samples": 3}}
    changes["run.wandb"] = "offline"
    values = changed(values, {"model.init_args.optimizer.lr": 1.0e-9, **changes})
    values["pictures"] = {}
    run_in_process("fit", "-c", write_yaml(tmp_path / "tiny.yaml", values))
    run = only_run(tmp_path / "runs")
    rows = read_stage_rows(run / "mistakes.jsonl")
    assert {row["stage"] for row in rows} == {"val", "test"}
    tested = [row for row in rows if row["stage"] == "test"]
    assert len(tested) >= 3 and [r["loss"] for r in tested] == sorted(
        (r["loss"] for r in tested), reverse=True
    )
    for row in tested:
        number = 50 + row["number"]  # where the test set begins
        assert row["key"] == f"0/{number:04d}"
        assert row["label"] == list(COLOURS)[number % 4] != row["prediction"]
        assert row["text"].startswith(row["label"])
        pixels = np.asarray(Image.open(run / row["image"]))
        assert pixels.shape == (96, 96, 3)
        colour = pixels[40:56, 40:56].reshape(-1, 3).mean(0)
        assert np.abs(colour - COLOURS[row["label"]]).max() < 25
        wave, rate = soundfile.read(run / row["sound"])
        assert rate == 4000 and 300 <= len(wave) <= 600
        assert Image.open(run / row["spectrogram"]).size == (160, 80)
    page = (run / "report.html").read_text()
    assert page.count("<audio controls") == len(rows) and "Worst mistakes" in page
    names = {p.stem for p in (run / "plots").glob("*.png")}
    assert {"val_mistakes", "test_mistakes", "test_confusion", "test_reliability"} <= names
    assert "curves" in names and "test_joint_space" not in names
    (media,) = (run / "wandb").glob("offline-run-*/files/media")
    assert list(media.glob("images/pictures/test_confusion_*.png"))
    (table,) = media.glob("table/tables/test_mistakes_*.json")
    told = json.loads(table.read_text())
    assert [row[told["columns"].index("key")] for row in told["data"]] == [r["key"] for r in tested]
    assert {"image", "spectrogram", "sound", "text"} <= set(told["columns"])


def test_other_tasks_and_bad_numbers_are_refused(tmp_path, capsys):
    data = write_data(tmp_path / "data")
    values = changed(experiment(data, tmp_path / "runs"), {"mistakes": {}})
    assert run_in_process("fit", "-c", write_yaml(tmp_path / "tiny.yaml", values)) == 2
    assert "mistakes: a Contrastive has none to list" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"mistakes\.num_samples is 0"):
        ErrorsTable(num_samples=0)
