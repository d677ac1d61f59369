"""The metric that something is chosen or stopped by: whether there is, or can be, such a one."""

from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl

from mmlight.errors import UserError, nearest
from mmlight.terminal import one_line


def check_monitor(
    trainer: pl.Trainer, pl_module: pl.LightningModule, monitor: str, *, key: str
) -> None:
    """Refuse, before the first step, a metric that no validation can have.

    Args:
        trainer: at the start of training.
        pl_module: the task; `mmlight.tasks.task.Task.score_names` tells what it scores.
        monitor: the metric.
        key: the setting that names it.

    Raises:
        UserError: there is no validation, or it has no such score.
    """
    stage = monitor.partition("/")[0]
    if stage == "test":
        raise UserError(f"{key}: '{monitor}' is measured after training; name one of val/...")
    if stage != "train" and not _has_validation(trainer):
        raise UserError(
            f"{key} has no effect without validation; name data.val.shards (and leave "
            "trainer.limit_val_batches above 0)"
        )
    names: Any = getattr(pl_module, "score_names", lambda: None)()
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    houses = {type(part).__module__.partition(".")[0] for part in (pl_module, *callbacks)}
    if stage != "val" or names is None or houses - {"mmlight", "lightning"}:
        return  # classes of others log what they like, also those derived from ours
    more: set[str] = getattr(getattr(pl_module, "metrics", None), "names", set())
    data: Any = getattr(trainer, "datamodule", None)
    sources = data.source_names("val") if hasattr(data, "source_names") else []
    places = ["val", *(f"val/{source}" for source in sources)]
    known = {f"{place}/{score}" for place in places for score in {*names, *more}}
    for callback in callbacks:
        own = getattr(callback, "score_names", lambda _: ())(pl_module)
        known |= {f"val/{score}" for score in own}
    if monitor not in known:
        raise UserError(_unknown(monitor, known, key=key))


def _has_validation(trainer: pl.Trainer) -> bool:
    if trainer.val_dataloaders is None and trainer.limit_val_batches:
        # Lightning has not looked yet where the first epoch has no validation.
        data: Any = getattr(trainer, "datamodule", None)
        return data is None or data.val_dataloader() != []
    batches: Any = trainer.num_val_batches
    return sum(batches if isinstance(batches, list) else [batches]) > 0


def check_found(monitor: str, metrics: Iterable[str], *, key: str) -> None:
    """Refuse a metric that a validation did not log.

    Raises:
        UserError: there is no such metric.
    """
    if monitor not in (names := list(metrics)):
        raise UserError(_unknown(monitor, names, key=key))


def _unknown(monitor: str, names: Iterable[str], *, key: str) -> str:
    listed = sorted(names)
    hint = nearest(monitor, listed)
    shown = hint or f"; there is {', '.join(listed[:40])}" + ", ..." * (len(listed) > 40)
    return one_line(f"{key}: there is no metric '{monitor}'{shown}")
