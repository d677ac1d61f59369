"""Writes what `mmlight predict` computes: embeddings of shards, as parquet files."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError, naming
from mmlight.modality import MODALITIES


class EmbeddingWriter(pl.Callback):
    """Writes a table with a row per sample and caption; a file per rank, ``part-00000.parquet``.

    Columns: `key` (``shard-name/sample-key``), `index` (the sample's number in its data set),
    `label` (null without one), `caption`, `caption_number` (0, 1, ... within a sample; null for a
    sample without text), `error` (why a sample could not be read, else null), and `image`,
    `text`, `audio`: unit-length float32 vectors as lists of fixed size, null where a sample lacks
    the modality. A sample with several captions has a row for each; its image and audio stand in
    the first.

    Batches are written as they come, so memory does not grow; the file gets its name when it is
    complete. The task's `predict_step` returns features by modality: (B, D) for image and audio,
    (N, D) for text. Tasks that return rows are left to `Predictions`.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: pq.ParquetWriter | None = None
        self._path = self.folder

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f".{self._path.name}.partial")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a folder with files of another number of ranks."""
        self._path = self.folder / f"part-{trainer.global_rank:05d}.parquet"
        others = sorted(self.folder.glob("part-*.parquet"))[trainer.world_size :]
        if others:
            raise UserError(
                f"{self.folder} holds embeddings of a run on more processes ({others[0].name}); "
                "remove the folder or write into another"
            )

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        """Write the batch's valid rows, and those of samples that cannot be read."""
        if pl_module.predicts != "features":
            return
        table = to_table(batch, outputs)
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        # One row group per batch.
        with naming(self._path):
            self._writer.write_table(table)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the file and give it its name."""
        if self._writer is not None:
            with naming(self._path):
                self._writer.close()
            self._writer = None
            self._temporary.replace(self._path)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing half written."""
        if self._writer is not None:
            with suppress(OSError):  # which the exception may be about
                self._writer.close()
            self._writer = None
            self._temporary.unlink(missing_ok=True)


def to_table(batch: Batch, features: dict[str, Tensor]) -> pa.Table:
    """Return the table of one batch; see `EmbeddingWriter` for its columns.

    Args:
        batch: the batch; rows that only fill it up are left out.
        features: by modality, (B, D), for text (N, D).
    """
    rows = _rows(batch, with_text="text" in features)
    errors = {bad.index: f"{bad.member}: {bad.reason}".lstrip(": ") for bad in batch.bad}
    samples = np.array([sample for sample, _, _ in rows], dtype=np.int64)
    first = np.array([not number for _, _, number in rows], dtype=bool)
    text = np.array([-1 if row is None else row for _, row, _ in rows], dtype=np.int64)
    index_B = batch.index_B.cpu().numpy()
    captions = [batch.captions[row] if row >= 0 and batch.captions else None for row in text]
    columns: dict[str, pa.Array] = {
        "key": pa.array([batch.keys[s] for s in samples], pa.string()),
        "index": pa.array(index_B[samples], pa.int64()),
        "label": _labels(batch, samples),
        "caption": pa.array(captions, pa.string()),
        "caption_number": pa.array(
            [n if row is not None else None for _, row, n in rows], pa.int32()
        ),
        "error": pa.array([errors.get(i) for i in index_B[samples].tolist()], pa.string()),
    }
    for name in MODALITIES:
        if name not in features:
            continue
        feature = features[name].float().cpu().numpy()
        if name == "text":
            columns[name] = _vectors(feature, text, text >= 0)
        else:
            present_B = batch.present(name).cpu().numpy()
            columns[name] = _vectors(feature, samples, first & present_B[samples])
    return pa.table(columns)


def _rows(batch: Batch, *, with_text: bool) -> list[tuple[int, int | None, int]]:
    """For each row of the table: the sample, its caption's row, the caption's number."""
    captions: dict[int, list[int]] = {}
    if with_text and batch.text is not None:
        present = batch.text.present_N.tolist()
        for row, item in enumerate(batch.text.item_N.tolist()):
            if present[row]:
                captions.setdefault(item, []).append(row)
    rows: list[tuple[int, int | None, int]] = []
    bad = {sample.index for sample in batch.bad}
    for sample, (valid, index) in enumerate(
        zip(batch.valid_B.tolist(), batch.index_B.tolist(), strict=True)
    ):
        if not valid and index not in bad:
            continue
        bad.discard(index)
        if sample not in captions:
            rows.append((sample, None, 0))
        rows += [(sample, row, number) for number, row in enumerate(captions.get(sample, ()))]
    return rows


def _labels(batch: Batch, samples: np.ndarray) -> pa.Array:
    if batch.label_B is None:
        return pa.nulls(len(samples), pa.int64())
    labels = batch.label_B.cpu().numpy()[samples]
    return pa.array(labels, pa.int64(), mask=labels < 0)


def _vectors(feature_ND: np.ndarray, rows: np.ndarray, known: np.ndarray) -> pa.Array:
    width = feature_ND.shape[1]
    values = feature_ND[np.where(known, rows, 0)] if len(feature_ND) else np.zeros((0, width))
    if len(values) < len(rows):  # no row of this modality in the whole batch
        values = np.zeros((len(rows), width))
    flat = pa.array(values.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, width, mask=pa.array(~known))
