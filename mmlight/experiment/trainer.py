"""The trainer of an experiment, with what records, watches and keeps it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from mmlight.callbacks.measuring.throughput import Throughput
from mmlight.callbacks.recording.predictions import Predictions
from mmlight.callbacks.recording.record import Record
from mmlight.callbacks.recording.run_settings import RunSettings
from mmlight.callbacks.showing.progress import Progress
from mmlight.errors import UserError
from mmlight.experiment.parser import CALLBACKS
from mmlight.runs.run.folder import Run
from mmlight.signals import is_wanted
from mmlight.tasks.task import Task
from mmlight.trainer.axes import TokenCount
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.guard import Guard
from mmlight.trainer.heartbeat import Heartbeat
from mmlight.trainer.left_out import LeftOut, SkippedSteps
from mmlight.trainer.owed_validation import OwedValidation
from mmlight.trainer.wandb_run import WandbRun


def hands_on(settings: RunSettings) -> bool | None:
    """Return whether a training that is told to stop should be handed on; None: unsaid."""
    return settings.guard if settings.guard is not None else is_wanted(os.environ)


def make_record(
    verb: str, settings: Namespace, run: Run, *, config: dict[str, Any], task: Task
) -> Record:
    """Return what records a run, as its settings say.

    Args:
        verb: one of fit, validate, test and predict.
        settings: the configuration, with classes built.
        run: the run's folder.
        config: the configuration as plain values.
        task: what is trained or evaluated.
    """
    own: RunSettings = settings["run"]
    wandb = None
    if own.wandb != "off":
        # An address may hold a key.
        shown = {key: value for key, value in config["run"].items() if key != "webhook"}
        wandb = WandbRun(
            run,
            mode=own.wandb,
            config={**config, "run": shown},
            project=own.wandb_project,
            job_type=own.job_type or (task.job_type if verb == "fit" else "eval"),
            tags=own.tags,
            group=own.group,
            notes=own.notes,
            entity=own.wandb_entity,
            patch=own.wandb_patch,
        )
    return Record(
        run,
        verb=verb,
        config=config,
        wandb=wandb,
        tensorboard=own.tensorboard,
        ckpt_path=settings.get("ckpt_path"),
    )


def make_callbacks(
    verb: str, settings: Namespace, record: Record, guard: Guard | None
) -> list[Callback]:
    """Return all that looks after a run, as its settings say.

    Args:
        verb: one of fit, validate, test and predict.
        settings: the configuration, with classes built.
        record: writes what happens.
        guard: makes a training that is told to stop save, and leave in order; None of others.
    """
    own: RunSettings = settings["run"]
    run = record.run
    callbacks: list[Callback] = [Progress(), LeftOut(), record]
    if verb == "fit":
        heartbeat = Heartbeat(run, stall_minutes=own.stall_minutes)
        skipped = SkippedSteps(run, most=own.max_skipped_steps)
        callbacks += [heartbeat, TokenCount(), Throughput(), skipped]
    if verb == "predict":
        from mmlight.callbacks.recording.embeddings import EmbeddingWriter

        # A task returns rows or features; each writer takes what is its own.
        callbacks.append(EmbeddingWriter(run.embeddings))
        if settings["predictions"] is None:
            callbacks.append(Predictions())
    for key, (_, verbs, _) in CALLBACKS.items():
        if settings[key] is not None and verb in verbs:
            callbacks.append(settings[key])
    if guard is not None:
        # Checkpoints are written from the guard on: what they hold is noted before.
        callbacks += [OwedValidation(), guard, *settings["checkpoint"].callbacks(run.checkpoints)]
    return callbacks


def make_trainer(
    settings: Namespace,
    run: Run,
    *,
    callbacks: Sequence[Callback],
    loggers: Sequence[Any],
    changes: Mapping[str, Any],
) -> Trainer:
    """Return the trainer, which writes into the run's folder.

    Args:
        settings: the configuration, with classes built.
        run: the run's folder.
        callbacks: go before those of the configuration.
        loggers: likewise, unless `trainer.logger` is false.
        changes: of the trainer's settings, which win.

    Raises:
        UserError: settings that the trainer refuses.
    """
    checkpoint: CheckpointSettings = settings["checkpoint"]
    trainer = {**settings["trainer"], **changes}
    logger = trainer["logger"]
    others = [] if logger in (None, True) else _listed(logger)
    trainer |= {
        "callbacks": [*callbacks, *_listed(trainer["callbacks"])],
        "plugins": [checkpoint.writer(), *_listed(trainer["plugins"])],
        "logger": [] if logger is False else [*loggers, *others],
        "default_root_dir": str(run.path),
    }
    # Deterministic mode fills fresh memory with NaN to show up bugs: 7 % of a step of BERT.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    strategy = trainer["strategy"]
    if strategy in ("ddp", "fsdp"):  # ours, loaded where it is used
        from mmlight.trainer.strategies import Ddp, Fsdp

        strategy = trainer["strategy"] = Ddp() if strategy == "ddp" else Fsdp()
    if hasattr(strategy, "sharded_checkpoints"):  # FSDP's, ours
        # What is gathered in inference mode could not be trained with afterwards.
        trainer["inference_mode"] = False
        if checkpoint.asynchronous and strategy.sharded_checkpoints:
            raise UserError(
                "checkpoint.asynchronous has no effect on checkpoints in parts, which all ranks "
                "write together; leave it out, or give the strategy sharded_checkpoints: false"
            )
    try:
        return Trainer(**trainer)
    except (TypeError, ValueError) as error:
        first_sentence = " ".join(str(error).split()).split(". ")[0]
        raise UserError(f"trainer: {first_sentence}") from error


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] if value else []
