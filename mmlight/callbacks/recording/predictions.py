"""Writes what `mmlight predict` computes: a row for each sample, as JSON lines or parquet."""

import heapq
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import lightning.pytorch as pl

from mmlight import comm
from mmlight.batch import Batch
from mmlight.errors import UserError, naming
from mmlight.files import plain
from mmlight.tasks.rows import rows_of
from mmlight.terminal import note

Format = Literal["jsonl", "parquet"]
_CHUNK_ROWS = 10_000


class Predictions(pl.Callback):
    """Writes the rows of a task's `predict_step` to ``predictions.jsonl`` in the run's folder.

    A row begins with `key` (the file's path, or ``shard-name/sample-key``) and `index` (the
    sample's number in its data set); the task says what follows: labels with probabilities,
    entities with offsets, boxes, transcripts. A sample that cannot be read has a row with `error`
    instead. Rows stand in the order of the data, each sample once, on any number of processes.

    Each rank writes rows as they come; rank 0 joins the parts when all are complete, so the
    ranks must share the folder. The file has its name only when it is whole. Tasks that return
    features rather than rows are left to `EmbeddingWriter`.

    Args:
        format: ``jsonl``, a JSON object in each line, or ``parquet``, a table.
    """

    def __init__(self, format: Format = "jsonl") -> None:
        if format not in get_args(Format):
            raise UserError(f"predictions.format: '{format}'; use one of {get_args(Format)}")
        self.format = format
        self._file: IO[str] | None = None
        self._folder = Path()

    @property
    def path(self) -> Path:
        """Where the rows are when all is done."""
        return self._folder / f"predictions.{self.format}"

    def _part(self, rank: int) -> Path:
        return self._folder / f".predictions.part-{rank:05d}"

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the folder."""
        self._folder = Path(trainer.default_root_dir)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        """Write the rows of the batch's valid samples, and of those that cannot be read."""
        for bad in batch.bad:
            note(f"{'no answer for' if bad.missing else 'cannot read'} {bad.key}: {bad.reason}")
        if not isinstance(outputs, list):
            return
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._part(trainer.global_rank).open(
                "w", encoding="utf-8", errors="replace"
            )
        with naming(self.path):
            for row in rows_of(batch, outputs):
                line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
                self._file.write(f"{line}\n")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Join the parts of all ranks on rank 0."""
        if self._file is None:
            return
        with naming(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._file = None
        comm.barrier()
        if not trainer.is_global_zero:
            return
        parts = [self._part(rank) for rank in range(trainer.world_size)]
        if missing := [path for path in parts if not path.is_file()]:
            raise UserError(
                f"{missing[0]} is not there: the processes do not share {self._folder}; set "
                "--run.root to a folder that all machines see"
            )
        joined = self._folder / ".predictions.joined"
        with naming(self.path):
            _join(parts, joined)
        if self.format == "parquet":
            table = self._folder / ".predictions.table"
            to_parquet(joined, table)
            table.replace(self.path)
            joined.unlink()
        else:
            joined.replace(self.path)
        for path in parts:
            path.unlink()
        for other in get_args(Format):  # of an earlier prediction by the same run
            if other != self.format:
                self.path.with_suffix(f".{other}").unlink(missing_ok=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing half written."""
        if self._file is not None:
            with suppress(OSError):  # which the exception may be about
                self._file.close()
            self._file = None
        self._part(trainer.global_rank).unlink(missing_ok=True)
        if trainer.is_global_zero:
            for name in (".predictions.joined", ".predictions.table"):
                (self._folder / name).unlink(missing_ok=True)


def _join(parts: list[Path], out: Path) -> None:
    """Merge files of JSON lines by their `index`; each is sorted by it."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open(encoding="utf-8")) for path in parts]
        with out.open("w", encoding="utf-8") as joined:
            if len(files) == 1:
                joined.writelines(files[0])
            else:
                joined.writelines(heapq.merge(*files, key=lambda row: json.loads(row)["index"]))
            joined.flush()
            os.fsync(joined.fileno())


def to_parquet(lines: Path, out: Path) -> None:
    """Convert a file of JSON lines to a table with the columns of all rows; memory stays small."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [table.schema for table in _tables(lines)]
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _chunks(lines):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _tables(lines: Path) -> Iterator[Any]:
    import pyarrow as pa

    for rows in _chunks(lines):
        names = dict.fromkeys(name for row in rows for name in row)
        yield pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _chunks(lines: Path) -> Iterator[list[dict[str, Any]]]:
    with lines.open(encoding="utf-8") as file:
        while rows := [json.loads(line) for line in islice(file, _CHUNK_ROWS)]:
            yield rows
