"""Loggers that write into a run's folder: its own files always, TensorBoard's by choice."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import MetricsLog
from mmlight.trainer.axes import axes_of


class FolderLogger(Logger):
    """A logger that writes into a run's folder, at the steps that the trainer has done.

    Args:
        run: the folder.

    Attributes:
        trainer: the trainer that logs here; to be set before the first row.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.trainer: pl.Trainer

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds them, as they were resolved."""

    @property
    @override
    def name(self) -> str:
        """The experiment's name."""
        return self.run.name

    @property
    @override
    def version(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    @override
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.run.path)


class RunLogger(FolderLogger):
    """Writes `metrics.jsonl` and `metrics.csv` of a run folder (on rank 0; others do nothing)."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._log: MetricsLog | None = None

    @property
    def log(self) -> MetricsLog:
        """The log; call it on rank 0 only."""
        if self._log is None:
            self._log = MetricsLog(self.run.metrics_jsonl, csv_path=self.run.metrics_csv)
        return self._log

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row, at the step that `axes_of` tells."""
        self.log.append(metrics, axes_of(self.trainer))

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the table up to date and close the files."""
        # A run that has failed may have done so because nothing can be written.
        with nullcontext() if status == "success" else suppress(OSError):
            self.log.close()


class TensorBoardRun(FolderLogger):
    """Writes ``tensorboard/`` of a run folder: the same values at the same steps as elsewhere.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, run: Run) -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "run.tensorboard: true needs TensorBoard: pip install 'mmlight[tensorboard]'"
            )
        super().__init__(run)
        self._purge_step: int | None = None
        self._writer: Any = None

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Have TensorBoard forget what was logged after `step`; call it before anything is logged.

        Args:
            step: optimiser steps in the checkpoint.
        """
        self._purge_step = step + 1

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, at the step that the trainer has done."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.run.path / "tensorboard"
            self._writer = SummaryWriter(str(folder), purge_step=self._purge_step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), self.trainer.global_step)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is not yet on the disk."""
        if self._writer is not None:
            self._writer.flush()


def own_log(trainer: pl.Trainer) -> MetricsLog | None:
    """Return the log of the run's own files, on rank 0; None on others, and where there is none."""
    loggers = trainer.loggers if trainer.is_global_zero else ()
    return next((logger.log for logger in loggers if isinstance(logger, RunLogger)), None)


def logged_rows(trainer: pl.Trainer) -> list[dict[str, Any]]:
    """Return the rows of the run's own log, on rank 0; nothing on others."""
    log = own_log(trainer)
    return [] if log is None else log.rows()
