"""Gives pictures and tables to the loggers that show them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger


def send_pictures(trainer: pl.Trainer, pictures: Sequence[Path]) -> None:
    """Give pictures to W&B, where it is on; the names of files become those of panels."""
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
