"""The logger of a run's own files, which is always there."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import MetricsLog
from mmlight.trainer.axes import Axes


class RunLogger(Logger):
    """Writes `metrics.jsonl` and `metrics.csv` of a run folder (on rank 0; others do nothing).

    Args:
        run: the folder.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._axes: Axes | None = None
        self._log: MetricsLog | None = None

    @property
    def log(self) -> MetricsLog:
        """The log; call it on rank 0 only."""
        if self._log is None:
            self._log = MetricsLog(self.run.metrics_jsonl, csv_path=self.run.metrics_csv)
        return self._log

    def attach(self, trainer: pl.Trainer) -> None:
        """Take steps, epochs, samples and tokens from `trainer`.

        Args:
            trainer: the trainer that logs here.
        """
        self._axes = Axes(trainer)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: values by name.
            step: used only before a trainer is attached.
        """
        at = self._axes
        self.log.append(
            metrics,
            step=at.step if at else step or 0,
            epoch=at.epoch if at else 0,
            samples=at.samples if at else 0,
            tokens=at.tokens if at else None,
        )

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds them, as they were resolved."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the table up to date and close the files."""
        # A run that has failed may have done so because nothing can be written.
        with nullcontext() if status == "success" else suppress(OSError):
            self.log.close()

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
