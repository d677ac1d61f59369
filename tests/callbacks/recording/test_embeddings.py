from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_run import TinyData, TinyTask, make_batch

from mmlight.batch import BadSample
from mmlight.callbacks.recording.embeddings import EmbeddingWriter, to_table
from mmlight.errors import UserError


def predict(folder, module=None, **data):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[EmbeddingWriter(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.predict(module or TinyTask(), datamodule=TinyData(**data), return_predictions=False)


def vectors(table, name):
    return np.array(table.column(name).to_pylist(), dtype=np.float32)


def test_every_valid_row_is_written_with_its_embedding(tmp_path):
    module = TinyTask()
    predict(tmp_path / "e", module)
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["part-00000.parquet"]
    file = pq.ParquetFile(tmp_path / "e" / "part-00000.parquet")
    table = file.read()
    assert file.num_row_groups == 3 and table.num_rows == 20  # 24 with the rows that fill up
    assert table.column("index").to_pylist() == list(range(20))
    assert table.column("key").to_pylist()[19] == "shard/0019"
    assert table.schema.field("image").type == pa.list_(pa.float32(), 8)
    batch = make_batch(1, size=8, num_samples=20)
    with torch.no_grad():
        expected = module.embed(batch)
    for name in ("image", "text", "audio"):
        np.testing.assert_allclose(vectors(table, name)[8:16], expected[name], atol=1e-6)
    assert table.column("label").to_pylist()[:5] == [0, 1, 2, 3, 0]


def test_caption_rows_and_missing_modalities():
    batch = make_batch(0, size=4, num_samples=3, captions_each=2, missing_audio={1})
    batch.label_B[2] = -1
    batch.text.present_N[4:6] = False  # sample 2 has no caption
    features = {
        "image": torch.arange(8.0).reshape(4, 2),
        "audio": torch.arange(8.0).reshape(4, 2) + 10,
        "text": torch.arange(16.0).reshape(8, 2) + 20,
    }
    rows = to_table(batch, features).to_pylist()
    assert [r["index"] for r in rows] == [0, 0, 1, 1, 2]
    assert [r["caption"] for r in rows] == [
        "a red square", "one red square", "a green square", "one green square", None,
    ]  # fmt: skip
    assert [r["caption_number"] for r in rows] == [0, 1, 0, 1, None]
    assert [r["image"] for r in rows] == [[0, 1], None, [2, 3], None, [4, 5]]
    assert [r["audio"] for r in rows] == [[10, 11], None, None, None, [14, 15]]
    assert [r["text"] for r in rows] == [[20, 21], [22, 23], [24, 25], [26, 27], None]
    assert [r["label"] for r in rows] == [0, 0, 1, 1, None]


def test_sample_that_cannot_be_read_has_a_row_that_says_so():
    batch = make_batch(0, size=3, num_samples=3)
    batch.valid_B[1] = batch.image.present_B[1] = batch.audio.present_B[1] = False
    batch.text.present_N[1] = False
    batch.label_B[1] = -1
    bad = BadSample("shard.tar", "0001", "jpg", "ValueError: cut", "", index=1)
    features = {"image": torch.ones(3, 2), "text": torch.ones(3, 2), "audio": torch.ones(3, 2)}
    rows = to_table(replace(batch, bad=(bad,)), features).to_pylist()
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["error"] for row in rows] == [None, "jpg: ValueError: cut", None]
    assert all(rows[1][name] is None for name in ("image", "text", "audio", "label", "caption"))


def test_run_that_breaks_off_leaves_no_file(tmp_path):
    class Broken(TinyTask):
        def predict_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise ArithmeticError
            return super().predict_step(batch, batch_idx)

    with pytest.raises(ArithmeticError):
        predict(tmp_path / "e", Broken())
    assert list((tmp_path / "e").iterdir()) == []


def test_files_of_more_ranks_are_not_mixed_with_new_ones(tmp_path):
    for rank in range(2):
        pq.write_table(pa.table({"key": ["x"]}), tmp_path / f"part-{rank:05d}.parquet")
    with pytest.raises(UserError, match=r"part-00001.parquet"):
        predict(tmp_path)
