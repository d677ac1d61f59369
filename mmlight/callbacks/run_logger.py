"""Loggers of a run: its own files always, W&B beside them by choice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight.runs.metrics_log import MetricsLog
from mmlight.runs.run import RunFolder


class Axes:
    """How far a trainer is: the axes that every logged row carries.

    Lightning numbers the rows of a step and of the validation right after it from 0 and those at
    an epoch's end from 1; here a row's step is the number of optimiser steps done.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self._trainer.global_step

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self._trainer.current_epoch

    @property
    def samples(self) -> int:
        """Training samples seen by all ranks; 0 where the data module does not say its batch."""
        data = getattr(self._trainer, "datamodule", None)
        return (
            self.step
            * getattr(data, "global_batch_size", 0)
            * self._trainer.accumulate_grad_batches
        )


class RunLogger(Logger):
    """Writes `metrics.jsonl` and `metrics.csv` of a run folder (on rank 0; others do nothing).

    Args:
        run: the folder.
    """

    def __init__(self, run: RunFolder) -> None:
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
        """Take steps, epochs and samples from `trainer`.

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
        )

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds them, as they were resolved."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Bring the table up to date and close the files."""
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


class WandbRun(WandbLogger):
    """W&B for one run folder: the same id, files below the folder, the config once and nested.

    Offline, each start of a run makes a folder ``wandb/offline-run-*`` of its own, all with the
    run's id; ``wandb sync --append`` of them in order gives one run.

    Args:
        run: the folder; its name becomes the group, its id the run's id and name.
        mode: ``online``, or ``offline`` to keep everything in the run folder.
        config: the resolved configuration, as nested dictionaries.
        project: the W&B project.
        job_type: ``pretrain``, ``finetune`` or ``eval``.
        tags: words to find the run by.
        entity: the W&B team or user; None for the user's default.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        mode: Literal["online", "offline"],
        config: Mapping[str, Any],
        project: str = "mmlight",
        job_type: str = "pretrain",
        tags: Sequence[str] = (),
        entity: str | None = None,
    ) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=f"{run.name}/{run.id}",
            save_dir=run.path,
            id=run.id,
            project=project,
            group=run.name,
            job_type=job_type,
            tags=list(tags),
            entity=entity,
            config=dict(config),
            # Not `offline=True`, which would set WANDB_MODE for the whole process.
            mode=mode,
            # Offline there is nothing to resume, and wandb would warn that it ignores this.
            resume="allow" if mode == "online" else None,
        )
        self._axes: Axes | None = None

    def attach(self, trainer: pl.Trainer) -> None:
        """Take steps and samples from `trainer`.

        Args:
            trainer: the trainer that logs here.
        """
        self._axes = Axes(trainer)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row; `step` and samples are axes among others, so that no row is dropped.

        Args:
            metrics: values by name.
            step: used only before a trainer is attached.
        """
        at = self._axes
        if at is not None:
            metrics, step = {**metrics, "samples": at.samples}, at.step
        super().log_metrics(metrics, step)

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config was given at the start; Lightning's copy would be flattened."""

    @rank_zero_only
    def finish(self, *, exit_code: int = 0) -> None:
        """Flush and close the run. Call it when `fit` has returned, before any requeue.

        Args:
            exit_code: 0 where the run did what it should.
        """
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def send_pictures(trainer: pl.Trainer, pictures: Sequence[Path]) -> None:
    """Give pictures to W&B, where it is on.

    Args:
        trainer: the trainer with the loggers.
        pictures: files; their names become those of the panels.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            for path in pictures:
                logger.log_image(f"pictures/{path.stem}", [str(path)])


def send_table(
    trainer: pl.Trainer, name: str, rows: Sequence[Mapping[str, Any]], *, folder: Path
) -> None:
    """Give rows about samples to W&B as a table, where it is on.

    Args:
        trainer: the trainer with the loggers.
        name: of the table.
        rows: plain values, all of the same names. Paths of PNG and FLAC files become pictures and
            sounds; columns without any value are left out.
        folder: what the paths are relative to.
    """
    import wandb

    def cell(value: Any) -> Any:
        if isinstance(value, str) and value.endswith(".png") and (folder / value).is_file():
            return wandb.Image(str(folder / value))
        if isinstance(value, str) and value.endswith(".flac") and (folder / value).is_file():
            return wandb.Audio(str(folder / value))
        return value

    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            columns = [n for n in rows[0] if any(row[n] is not None for row in rows)]
            data = [[cell(row[column]) for column in columns] for row in rows]
            logger.log_table(f"tables/{name}", columns=columns, data=data)
