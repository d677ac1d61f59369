import json

import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from mmlight.batch import BadSample, Batch
from mmlight.callbacks.recording.embeddings import EmbeddingWriter
from mmlight.callbacks.recording.predictions import Predictions, to_parquet
from mmlight.errors import UserError

RANKS = 2


def make_batch(step, *, num_samples=10, size=4, bad=()):
    index = torch.arange(step * size, (step + 1) * size)
    valid = index < num_samples
    index = index.clamp(max=num_samples - 1)
    told = tuple(
        BadSample("s", f"{i}", "png", "ValueError: cut", "", index=i)
        for i, v in zip(index.tolist(), valid.tolist(), strict=True)
        if i in bad and v
    )
    for place, i in enumerate(index.tolist()):
        valid[place] &= i not in bad
    keys = [f"s/{i}" for i in index.tolist()]
    return Batch(index_B=index, keys=keys, epoch=0, step=step, valid_B=valid, bad=told)


class Rows(LightningModule):
    predicts = "rows"

    def __init__(self, fail_at=None):
        super().__init__()
        self.fail_at = fail_at

    def predict_step(self, batch, batch_idx):
        if batch_idx == self.fail_at:
            raise ArithmeticError
        return [
            {"key": batch.keys[i], "label": "ä", "boxes": [{"xyxy": [0.5, 1.0], "score": 0.25}]}
            for i in batch.valid_B.nonzero()[:, 0].tolist()
        ]


def predict(folder, module=None, *, format="jsonl", batches=None):
    batches = batches or [make_batch(step, bad={5}) for step in range(3)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[Predictions(format), EmbeddingWriter(folder / "embeddings")],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.predict(module or Rows(), loader, return_predictions=False)


def test_every_sample_has_one_row_and_a_bad_one_says_why(tmp_path, capsys):
    predict(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    text = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["index"] for row in rows] == list(range(10))  # 12 with the rows that fill up
    assert list(rows[0]) == ["key", "index", "label", "boxes"]
    assert rows[5] == {"key": "s/5", "index": 5, "error": "png: ValueError: cut"}
    assert rows[9]["key"] == "s/9" and "ä" in text
    assert "cannot read 5: ValueError: cut" in capsys.readouterr().err


def test_parquet_holds_the_same_rows_and_replaces_the_other_format(tmp_path):
    predict(tmp_path)
    wanted = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    predict(tmp_path, format="parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == wanted


def test_parquet_joins_rows_whose_columns_come_late(tmp_path, monkeypatch):
    monkeypatch.setattr("mmlight.callbacks.recording.predictions._CHUNK_ROWS", 2)
    rows = [
        {"key": "a", "found": [], "p": {"x": 1}},
        {"key": "b", "found": []},
        {"key": "c", "found": [{"text": "2020-01-01", "score": 1}], "p": {"y": 0.5}},
        {"key": "d", "error": "gone"},
        {"key": "e", "found": [{"text": "t", "score": 0.5}]},
    ]
    (tmp_path / "rows").write_text("".join(json.dumps(row) + "\n" for row in rows))
    to_parquet(tmp_path / "rows", tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert table[2]["found"] == [{"text": "2020-01-01", "score": 1.0}]
    assert table[0]["p"] == {"x": 1, "y": None} and table[2]["p"] == {"x": None, "y": 0.5}
    assert [row["error"] for row in table] == [None] * 3 + ["gone", None]


def test_run_that_breaks_off_leaves_what_was_there(tmp_path):
    predict(tmp_path)
    before = (tmp_path / "predictions.jsonl").read_text()
    with pytest.raises(ArithmeticError):
        predict(tmp_path, Rows(fail_at=1))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert (tmp_path / "predictions.jsonl").read_text() == before


def test_parts_of_ranks_are_joined_in_the_order_of_the_data(tmp_path):
    # As `EvalOrder` deals: each rank a consecutive part of every global batch.
    writers = [Predictions() for _ in range(RANKS)]

    class FakeTrainer:
        def __init__(self, rank):
            self.global_rank, self.world_size = rank, RANKS
            self.is_global_zero = rank == 0
            self.default_root_dir = str(tmp_path)

    task = Rows()
    for rank, writer in enumerate(writers):
        trainer = FakeTrainer(rank)
        writer.on_predict_start(trainer, task)
        for step in range(2):
            batch = make_batch(2 * step + rank, num_samples=14, bad={5})
            writer.on_predict_batch_end(trainer, task, task.predict_step(batch, step), batch, step)
    for rank in reversed(range(RANKS)):
        writers[rank].on_predict_end(FakeTrainer(rank), task)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    assert [row["index"] for row in rows] == list(range(14))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


def test_unknown_format_is_refused():
    with pytest.raises(UserError, match=r"predictions\.format: 'csv'"):
        Predictions("csv")
