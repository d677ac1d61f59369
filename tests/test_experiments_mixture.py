"""The experiment on a mixture of sources starts as it stands, and logs each source by itself."""

import json
from pathlib import Path

import cli_data
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("batches", ["mixed", "one_source"])
def test_mixture_of_other_modalities_logs_each_source(batches, tmp_path, monkeypatch):
    if not (ROOT / "data" / "scenes" / "train").is_dir():
        pytest.skip("no data/scenes (experiments/data/scenes.yaml)")
    monkeypatch.chdir(ROOT)
    few = ("--trainer.max_steps", "4", "--trainer.log_every_n_steps", "1", "--run.test", "false")
    code = cli_data.run_in_process(
        *("fit", "-c", "experiments/pretrain/scenes_mixture.yaml", "--run.root", tmp_path, *few),
        *("--pictures", "null", "--zero_shot", "null", "--data.batches", batches),
        *("--data.global_batch_size", "32", "--trainer.val_check_interval", "4"),
    )
    assert code == 0
    (run,) = (tmp_path / "scenes_mixture").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    for row in trained:
        told = {name: row.get(f"train/{name}/loss") for name in ("pictures", "sounds")}
        there = {name: value for name, value in told.items() if value is not None}
        assert len(there) == (2 if batches == "mixed" else 1)
        for name, value in there.items():
            pair = {"pictures": "image-text", "sounds": "text-audio"}[name]
            assert value == pytest.approx(row[f"train/loss/{pair}"], rel=1e-5)
    final = json.loads((run / "summary.json").read_text())["final"]
    for name in ("seen", "pairings"):
        assert final[f"val/{name}/loss"] > 0
        assert final[f"val/{name}/image_to_audio/chance_recall_at_1"] > 0
    assert final["val/loss"] > 0
    assert json.loads((run / "summary.json").read_text())["data"]["cursor"]["step"] == 4
