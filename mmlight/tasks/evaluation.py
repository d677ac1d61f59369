"""One evaluation for all tasks: what is kept of each batch, gathered over ranks, then scored.

Shapes as in `mmlight.batch`: B samples of this rank's batch, N rows of a table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch
from mmlight.tasks.extra_metrics import ExtraMetrics
from mmlight.trainer.module import TrainedModule

Stage = Literal["val", "test"]
Column = Tensor | Sequence[Any]
# A column beside those of the task.
_SOURCE = "(source)"


@dataclass(frozen=True)
class Rows:
    """What is kept of a batch in one table: a row for each sample, or any number of them.

    Attributes:
        columns: by name, a tensor (N, ...) or a list of N plain values.
        row_N: int64, the row of the batch that each is about; None where each sample has one.
        keep_N: bool, those that are there; None keeps all. Rows of samples that only fill up a
            batch are dropped in any case.
    """

    columns: Mapping[str, Column]
    row_N: Tensor | None = None
    keep_N: Tensor | None = None


def sample_columns(batch: Batch) -> dict[str, Column]:
    """Return the keys and further values of a batch's samples, as columns."""
    names, values = list(batch.fields), zip(*batch.fields.values(), strict=True)
    rows = [dict(zip(names, row, strict=True)) for row in values]
    return {"key": batch.keys, "fields": rows or [{}] * batch.size}


@dataclass(frozen=True)
class Kept:
    """What a task keeps of a batch.

    Attributes:
        tables: by name; the same ones for every batch.
        loss: the mean loss of the batch's samples, and which samples of this rank are in it (B,);
            None where the loss is a matter of the rows.
        outputs: what callbacks get at the batch's end.
    """

    tables: Mapping[str, Rows]
    loss: tuple[Tensor, Tensor] | None = None
    outputs: Any = None


@dataclass(frozen=True)
class Table:
    """The rows of all ranks, in the order of the samples.

    Attributes:
        sample_N: int64, the number of each row's sample in its data set, ascending.
        columns: by name, a tensor on the CPU or a list.
        source_N: the name of each sample's source; empty where there is only one.
    """

    sample_N: Tensor
    columns: Mapping[str, Any]
    source_N: Sequence[str] = ()

    def __getitem__(self, name: str) -> Any:
        """Return a column."""
        return self.columns[name]

    def fields(self) -> dict[str, list[Any]]:
        """Return the samples' further values by name, where `sample_columns` were kept."""
        rows: list[dict[str, Any]] = self["fields"]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}

    def of(self, source: str) -> "Table":
        """Return the rows of a source."""
        numbers = [n for n, name in enumerate(self.source_N) if name == source]
        columns = {
            name: column[numbers] if isinstance(column, Tensor) else [column[n] for n in numbers]
            for name, column in self.columns.items()
        }
        return Table(self.sample_N[numbers], columns)


@dataclass(frozen=True)
class Scored:
    """What came out of an evaluation.

    Attributes:
        values: the scores by name, without their stage.
        evaluation: what pictures and tables are made of.
    """

    values: dict[str, float]
    evaluation: Any = None


@dataclass
class Gatherer:
    """Collects one rank's rows and losses batch by batch, and joins those of all ranks."""

    _parts: dict[str, list[tuple[Tensor, Mapping[str, Column]]]] = field(default_factory=dict)
    _losses: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was kept."""
        return not self._parts

    def add(self, batch: Batch, kept: Kept) -> None:
        """Keep what counts of a batch."""
        for name, rows in kept.tables.items():
            row_N = rows.row_N
            if row_N is None:
                row_N = torch.arange(batch.size, device=batch.index_B.device)
            keep_N = batch.valid_B[row_N]
            if rows.keep_N is not None:
                keep_N = keep_N & rows.keep_N.to(keep_N.device)
            numbers = keep_N.nonzero()[:, 0].tolist()
            columns = {
                key: column.detach()[keep_N.to(column.device)].cpu()
                if isinstance(column, Tensor)
                else [column[i] for i in numbers]
                for key, column in rows.columns.items()
            }
            sample_N = batch.index_B[row_N][keep_N].cpu()
            if batch.sources:
                of_row = row_N.tolist()
                columns[_SOURCE] = [batch.sources[of_row[i]] for i in numbers]
            self._parts.setdefault(name, []).append((sample_N, columns))
        if kept.loss is not None:
            # No batch of an evaluation has samples of two sources.
            self.add_loss(*kept.loss, source=batch.sources[0] if batch.sources else "")

    def add_loss(self, value: Tensor, counted_B: Tensor, *, source: str = "") -> None:
        """Keep a batch's loss, which counts as much as the batch has samples; nobody waits.

        Lightning's `log` would weigh by rows, also those that only fill up the last batch, and
        give this rank's mean alone.

        Args:
            value: the mean over the batch's samples, of all ranks or of this one.
            counted_B: bool, this rank's samples in it.
            source: what they are of, where there are several.
        """
        count = counted_B.sum().double()
        total = torch.where(count > 0, value.detach().double() * count, 0.0)
        self._losses.setdefault(source, []).append(torch.stack([total, count]))

    def loss(self, source: str | None = None) -> dict[str, float]:
        """Return ``loss``, the mean over the samples of all ranks; nothing where none counts.

        Every rank calls it, and gets the same; a lone process gets its own.

        Args:
            source: whose samples; None takes all.
        """
        losses = [x_2 for name, of in self._losses.items() if source in (None, name) for x_2 in of]
        mine_2 = torch.stack(losses).sum(0) if losses else torch.zeros(2).double()
        total, count = comm.all_reduce_sum(mine_2).tolist()
        return {"loss": total / count} if count else {}

    def tables(self) -> dict[str, Table]:
        """Return the rows of all ranks; every rank calls it, a lone process gets its own.

        Every rank has the same number of batches, so the same tables, if with fewer rows.
        """
        return {name: self._table(parts) for name, parts in self._parts.items()}

    def _table(self, parts: list[tuple[Tensor, Mapping[str, Column]]]) -> Table:
        sample_N = comm.gather_variable(torch.cat([sample_N for sample_N, _ in parts]))
        order_N = torch.argsort(sample_N, stable=True)
        columns: dict[str, Any] = {}
        lists: dict[str, list[Any]] = {}
        for name, first in parts[0][1].items():
            if isinstance(first, Tensor):
                mine: list[Any] = [columns_of[name] for _, columns_of in parts]
                columns[name] = comm.gather_variable(torch.cat(mine))[order_N]
            else:
                lists[name] = [value for _, columns_of in parts for value in columns_of[name]]
        if lists:
            everywhere = comm.gather_objects(lists)
            for name in lists:
                joined = [value for of_rank in everywhere for value in of_rank[name]]
                columns[name] = [joined[i] for i in order_N.tolist()]
        return Table(sample_N[order_N], columns, columns.pop(_SOURCE, ()))


class Evaluated(TrainedModule):
    """A module that says what it keeps of a batch and how kept rows become scores.

    The rest is written here once: epochs of validation and test, all ranks, logging.

    Attributes:
        evaluation: what callbacks make pictures and tables of after an evaluation, on rank 0.
        metrics: scores by torchmetrics besides its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.evaluation: Any = None
        self.metrics = ExtraMetrics({})
        self._gatherer = Gatherer()

    def keep(self, batch: Batch) -> Kept:
        """Return what is kept of a batch; a task that does not say it has no scores.

        Called without gradients and in evaluation mode; on every rank, as often as on the others.
        """
        return Kept({})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Return the scores of a whole set, the same on every rank.

        Args:
            tables: the rows of all ranks, by the names that `keep` gave them.
            stage: `val` or `test`, for pictures and tables.
        """
        return Scored({})

    def answers(self, tables: dict[str, Table]) -> tuple[Any, Any] | None:
        """Return predictions and targets for `metrics`, as `torchmetrics.Metric.update` takes them.

        None, as of a task that does not say it: it has no further metrics.

        Args:
            tables: the rows of all ranks.
        """
        return None

    def example_answers(self) -> tuple[Any, Any] | None:
        """Return a few answers of the same kind, which metrics are tried on before training."""
        return None

    def begin_evaluation(self) -> None:
        """Forget what was kept; refuse metrics that cannot take what the task gives."""
        self.metrics.check(self.example_answers, task=type(self).__name__)
        self._gatherer = Gatherer()

    def evaluate_batch(self, batch: Batch) -> Any:
        """Keep what counts of a batch; return what callbacks get."""
        kept = self.keep(batch)
        self._gatherer.add(batch, kept)
        return kept.outputs

    def end_evaluation(self, *, stage: Stage) -> dict[str, float]:
        """Return the scores of all that was kept, without their stage; every rank calls it."""
        gatherer, self._gatherer = self._gatherer, Gatherer()
        self.evaluation = None
        if gatherer.is_empty:
            return {}
        tables = gatherer.tables()
        scored = self.score(tables, stage=stage)
        if comm.rank() == 0:
            self.evaluation = scored.evaluation
        values = scored.values | gatherer.loss() | self._more_scores(tables)
        # In the order of the samples, so the same on every rank.
        for source in dict.fromkeys(name for table in tables.values() for name in table.source_N):
            part = {name: table.of(source) for name, table in tables.items()}
            found = self.score(part, stage=stage).values | gatherer.loss(source)
            found |= self._more_scores(part)
            values |= {f"{source}/{name}": value for name, value in found.items()}
        return values

    def _more_scores(self, tables: dict[str, Table]) -> dict[str, float]:
        return self.metrics.scores(self.answers(tables)) if self.metrics else {}

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation."""
        self.begin_evaluation()

    def validation_step(self, batch: Batch, batch_idx: int) -> Any:
        """Keep what counts; return what callbacks get."""
        return self.evaluate_batch(batch)

    def on_validation_epoch_end(self) -> None:
        """Score the whole set over all ranks."""
        self._log_scores("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Score the test set over all ranks."""
        self._log_scores("test")

    def _log_scores(self, stage: Stage) -> None:
        values = self.end_evaluation(stage=stage)
        # Every rank holds the same scores: nothing to reduce.
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})


@torch.no_grad()
def evaluate(
    task: Evaluated, batches: Iterable[Batch], *, stage: Stage = "val"
) -> dict[str, float]:
    """Return the scores of batches without a trainer, as validation logs them, without ``val/``.

    The task is put into evaluation mode for it, and finds its inputs on its own device. Its
    `evaluation` then holds what pictures are made of. In a process group every rank calls it, with
    as many batches as the others, as the data module deals them out.

    Args:
        task: built, such as `mmlight.tasks.load.load_task` returns it.
        batches: of an evaluation, such as ``data.val_dataloader()``.
        stage: what `task.evaluation` is said to be of.
    """
    was_training = task.training
    task.eval()
    try:
        task.begin_evaluation()
        for batch in batches:
            task.evaluate_batch(batch.to(task.device))
        return task.end_evaluation(stage=stage)
    finally:
        task.train(was_training)
