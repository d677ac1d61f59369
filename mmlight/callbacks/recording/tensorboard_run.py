"""TensorBoard's event files of a run, by choice."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.trainer.axes import Axes


class TensorBoardRun(TensorBoardLogger):
    """Writes ``tensorboard/`` of a run folder: the same values at the same steps as elsewhere.

    Args:
        run: the folder.

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, run: Run) -> None:
        if find_spec("tensorboard") is None:
            raise UserError(
                "run.tensorboard: true needs TensorBoard: pip install 'mmlight[tensorboard]'"
            )
        super().__init__(run.path, name="", version="tensorboard", default_hp_metric=False)
        self._axes: Axes | None = None

    def attach(self, trainer: pl.Trainer) -> None:
        """Take steps from `trainer`.

        Args:
            trainer: the trainer that logs here.
        """
        self._axes = Axes(trainer)

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Have TensorBoard forget what was logged after `step`; call it before anything is logged.

        Args:
            step: optimiser steps in the checkpoint.
        """
        if self._experiment is not None:
            # The trainer opens a file before the step is known.
            self._experiment.close()
            self._experiment = None
        self._kwargs["purge_step"] = step + 1

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row.

        Args:
            metrics: values by name.
            step: used only before a trainer is attached.
        """
        at = self._axes
        super().log_metrics(dict(metrics), at.step if at else step)

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` holds them, as they were resolved."""

    @override
    def save(self) -> None:
        """Write no `hparams.yaml`, for the same reason."""
