"""Experiments: a thin LightningCLI over one YAML per experiment."""

import os
import shutil
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only

from mmlight import yaml_text
from mmlight.callbacks.measuring.left_out import LeftOut
from mmlight.callbacks.measuring.probe import Probe
from mmlight.callbacks.measuring.throughput import Throughput
from mmlight.callbacks.measuring.zero_shot import ZeroShot
from mmlight.callbacks.recording.embeddings import EmbeddingWriter
from mmlight.callbacks.recording.predictions import Predictions
from mmlight.callbacks.recording.record import Record
from mmlight.callbacks.recording.run_settings import RunSettings
from mmlight.callbacks.recording.wandb_run import JobType, WandbRun
from mmlight.callbacks.showing.errors_table import ErrorsTable
from mmlight.callbacks.showing.explain import Explain
from mmlight.callbacks.showing.pictures import Pictures
from mmlight.callbacks.showing.progress import Progress
from mmlight.config_errors import one_line
from mmlight.data.module import ShardDataModule
from mmlight.errors import UserError
from mmlight.experiment.arguments import AUTO, INLINE, check_top_keys, expand_configs
from mmlight.experiment.checkpoint import check_test_with, choose, tested_checkpoint
from mmlight.experiment.keys import check_keys
from mmlight.experiment.mistakes import find_mistake, first_sentence
from mmlight.experiment.quiet import look_for_the_driver_once, quieten
from mmlight.own_modules import FLAG, KEY
from mmlight.runs.run.console_log import kept_console
from mmlight.runs.run.folder import RunFolder
from mmlight.runs.run.interrupted import note_interrupt
from mmlight.runs.run.lock import RunLock
from mmlight.runs.run.webhook import post
from mmlight.runs.slurm.job import is_ours, job_name
from mmlight.saved.checkpoint import check_whole
from mmlight.saved.locate import find_saved
from mmlight.signals import Interrupted, is_wanted
from mmlight.tasks.task import Task
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.ddp import Ddp
from mmlight.trainer.early_stopping import EarlyStopping
from mmlight.trainer.ema import Ema
from mmlight.trainer.empty_hooks import leave_out_empty_hooks
from mmlight.trainer.fsdp import Fsdp
from mmlight.trainer.guard import Guard
from mmlight.trainer.heartbeat import Heartbeat
from mmlight.trainer.newest import clean, find_whole
from mmlight.trainer.owed_validation import OwedValidation
from mmlight.trainer.skipped_steps import SkippedSteps
from mmlight.trainer.token_count import TokenCount

_SCORING = ("fit", "validate", "test")
_ALL = (*_SCORING, "predict")
# Keys beside trainer, model and data: the callback's class, the verbs that use it, the help. The
# order matters: averaged weights are in place before anything evaluates them.
_CALLBACKS: dict[str, tuple[type[Callback], tuple[str, ...], str]] = {
    "ema": (Ema, _ALL, "Averaged weights."),
    "zero_shot": (ZeroShot, _SCORING, "Zero-shot classification."),
    "probe": (Probe, _SCORING, "Linear probe and nearest neighbours on frozen features."),
    "pictures": (Pictures, _SCORING, "Pictures and their settings."),
    "mistakes": (ErrorsTable, _SCORING, "A classifier's worst mistakes, as a table."),
    "explain": (Explain, _SCORING, "What answers rest on."),
    "predictions": (Predictions, ("predict",), "How the rows of `predict` are written."),
    "early_stopping": (EarlyStopping, ("fit",), "Stop when a metric no longer improves."),
}


# What stands at each key of the top, for help.
ROOTS: dict[str, type] = {
    "trainer": Trainer,
    "model": Task,
    "data": ShardDataModule,
    "run": RunSettings,
    "checkpoint": CheckpointSettings,
    **{key: kind for key, (kind, _, _) in _CALLBACKS.items()},
}
_STRATEGIES: dict[str, Callable[[], Strategy]] = {"ddp": Ddp, "fsdp": Fsdp}


class MmlightCLI(LightningCLI):
    """Adds the run folder, checkpoints, EMA, zero-shot, pictures and logging to LightningCLI.

    Attributes:
        below: the folder of an evaluation in the run's own; None takes the verb.
    """

    below: ClassVar[str | None] = None
    guard: Guard | None = None

    def __init__(self, arguments: Sequence[str], *, default_name: str) -> None:
        self._default_name = default_name
        self._verb = arguments[0]
        self._is_new_run = False
        self._lock: RunLock | None = None
        self._kept = ExitStack()
        try:
            self._parse_and_run(arguments)
        except Interrupted:
            raise Interrupted(self._told_of_interrupt()) from None
        finally:
            self._release()

    def _release(self) -> None:
        self._kept.__exit__(*sys.exc_info())
        if self._lock is not None:
            self._lock.release()

    def _told_of_interrupt(self) -> str:
        is_training = self._verb == "fit" and self._lock is not None
        return note_interrupt(self.run) if is_training else ""

    def _parse_and_run(self, arguments: Sequence[str]) -> None:
        own = {"exit_on_error": False, "parser_mode": yaml_text.parser_mode()}
        super().__init__(
            Task,
            ShardDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={
                "deterministic": "warn",
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
            },
            parser_kwargs={**own, self._verb: own},
            args=list(arguments),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the one verb that is run: building the parsers of all four costs 0.4 s."""
        return {self._verb: LightningCLI.subcommands()[self._verb]}

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            # Predictions are written as they come; Lightning would keep them all in memory.
            parser.set_defaults({"return_predictions": False})
        if subcommand in ("validate", "test"):
            # Lightning's own table of the scores, beside ours.
            parser.set_defaults({"verbose": False})
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings of a run, beside trainer, model and data."""
        parser.add_class_arguments(RunSettings, "run")
        parser.add_class_arguments(CheckpointSettings, "checkpoint")
        for key, (kind, _, text) in _CALLBACKS.items():
            parser.add_argument(f"--{key}", type=kind | None, default=None, help=text)
        text = "Modules of your own to import; checkpoints may name their classes."
        parser.add_argument(FLAG, type=list[str] | None, default=None, help=text)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one line what cannot be parsed."""
        known = [a.dest for a in self._subcommand_parsers[self._verb]._actions]
        for argument in args:
            if argument.startswith(INLINE):
                # The parser itself passes over an unknown key that holds nothing (`picturs: {}`).
                check_top_keys(yaml_text.load(argument.removeprefix(INLINE)), known)
        try:
            self.config = yaml_text.plain(parser.parse_args(args))
        except ArgumentError as error:
            check_keys(args, ROOTS)
            raise UserError(one_line(str(error), known_keys=known)) from error

    def _parse_ckpt_path(self) -> None:
        """Find the run folder; a checkpoint's own settings never override what was asked for."""
        verb = self.config["subcommand"]
        config = self.config[verb]
        settings = config["run"]
        name = settings["name"] or self._default_name
        settings["name"] = name
        asked = config.get("ckpt_path")
        chosen = choose(asked, verb=verb, root=settings["root"], name=name)
        if chosen is not None:
            config["ckpt_path"] = str(chosen.checkpoint)
        elif asked not in (None, AUTO):
            config["ckpt_path"] = str(find_saved(asked, key="--ckpt_path"))
        if chosen is None:
            self.run = self._create_run(name)
        else:
            # What an evaluation writes lies beside what training wrote, not over it.
            self.run = chosen.run if verb == "fit" else chosen.run.below(self.below or verb)
        self._begin()
        if asked == AUTO:
            newest = find_whole(self.run)
            config["ckpt_path"] = str(newest) if newest is not None else None
        if config.get("ckpt_path") is not None:
            check_whole(Path(config["ckpt_path"]))

    def _create_run(self, name: str) -> RunFolder:
        settings = self.config[self._verb]["run"]
        config = self.resolved_config()
        return RunFolder.create(settings["root"], name=name, run_id=settings["id"], config=config)

    def _begin(self) -> None:
        """Keep other processes out of the run's folder; see what an earlier one left in it."""
        self._is_new_run = not any(self.run.path.iterdir())
        # Without SLURM the first process on each node believes to be rank 0.
        if os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")) == "0":
            self._take_over()

    @rank_zero_only
    def _take_over(self) -> None:
        self._lock = RunLock(self.run.path)
        clean(self.run)
        is_training = self._verb == "fit" and type(self) is MmlightCLI
        if is_training and job_name(os.environ) is None:  # SLURM keeps what a job prints
            self._kept.enter_context(kept_console(self.run.path))

    def instantiate_classes(self) -> None:
        """Build the data, the model and the trainer."""
        with self._mistakes():
            super().instantiate_classes()
        if self.trainer is not None:  # `mmlight cost` trains nothing
            leave_out_empty_hooks(self.trainer, self.model)

    def _run_subcommand(self, subcommand: str) -> None:
        with self._mistakes(), self._webhook(subcommand):
            if self.guard is None:
                super()._run_subcommand(subcommand)
                return
            with self.guard.watch(self.trainer, last_words=self.record.hand_on):
                super()._run_subcommand(subcommand)

    @contextmanager
    def _webhook(self, subcommand: str) -> Iterator[None]:
        """Tell how a training ended; mmlight's job script knows whether it goes on, and tells."""
        address = self._get(self.config_init, "run").webhook
        tells = subcommand == "fit" and self.trainer.is_global_zero and not is_ours(os.environ)
        tells = tells and address is not None
        try:
            yield
        except Exception as error:
            if tells:
                said = f"{type(error).__name__}: {error}"
                post(self.run.path, "failed", reason=said, setting=address)
            raise
        if tells and (self.guard is None or self.guard.handed_on is None):
            post(self.run.path, "finished", setting=address)

    def exit_code(self) -> int:
        """Return 0, or another code where a training was stopped and nobody goes on with it."""
        # Of all ranks srun returns the greatest; Lightning ends the others when one fails.
        if self.guard is None or not self.trainer.is_global_zero:
            return 0
        return self.guard.exit_code(is_wanted=self._hands_on() is True)

    def _hands_on(self) -> bool | None:
        """Return whether a training that is told to stop should be handed on; None: unsaid."""
        asked: bool | None = self._get(self.config_init, "run").guard
        return asked if asked is not None else is_wanted(os.environ)

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        """Find the user's mistake in an error; leave no folder of a run that never began."""
        try:
            yield
        except Exception as error:
            mistake = find_mistake(error)
            if mistake is None:
                raise
            trainer: Trainer | None = getattr(self, "trainer", None)
            if self._is_new_run and (trainer is None or trainer.global_step == 0):
                self._remove_run()
            if mistake is error:
                raise
            raise mistake from error

    def _remove_run(self) -> None:
        told = ("bad_samples.jsonl", "wandb")  # the first is named in a message, W&B has the second
        if not any((self.run.path / name).exists() for name in told):
            shutil.rmtree(self.run.path, ignore_errors=True)
            with suppress(OSError):  # the experiment has other runs
                self.run.path.parent.rmdir()

    def resolved_config(self) -> dict[str, Any]:
        """Return the configuration with every default filled in, which runs again as it stands."""
        # Else the parser would write what only looks like a number or a list as one.
        config = yaml_text.guarded(self.config[self._verb].clone())
        parser = self._subcommand_parsers[self._verb]
        written = parser.dump(config, skip_none=False, skip_validation=True)
        values: dict[str, Any] = yaml_text.plain(yaml_text.load(written))
        unset = [KEY] if values[KEY] is None else []  # ids of jobs are hashes of what is set
        return {k: v for k, v in values.items() if k not in ("config", "ckpt_path", *unset)}

    def _wandb(self, settings: RunSettings) -> WandbRun | None:
        if settings.wandb == "off":
            return None
        config = self.resolved_config()
        config["run"].pop("webhook", None)  # it may hold a key
        own: JobType = self.model.job_type if self.subcommand == "fit" else "eval"
        return WandbRun(
            self.run,
            mode=settings.wandb,
            config=config,
            project=settings.wandb_project,
            job_type=settings.job_type or own,
            tags=settings.tags,
            group=settings.group,
            notes=settings.notes,
            entity=settings.wandb_entity,
            patch=settings.wandb_patch,
        )

    def watchers(self) -> tuple[list[Callback], list[Any]]:
        """Return the callbacks and the loggers of this run."""
        verb = str(self.subcommand)
        checkpoint: CheckpointSettings = self._get(self.config_init, "checkpoint")
        settings: RunSettings = self._get(self.config_init, "run")
        self.record = Record(
            self.run,
            verb=verb,
            config=self.resolved_config(),
            wandb=self._wandb(settings),
            tensorboard=settings.tensorboard,
            ckpt_path=self._get(self.config, "ckpt_path"),
        )
        callbacks: list[Callback] = [Progress(), LeftOut(), self.record]
        if verb == "fit":
            check_test_with(settings.test_with, test=settings.test, monitor=checkpoint.monitor)
            heartbeat = Heartbeat(self.run, stall_minutes=settings.stall_minutes)
            skipped = SkippedSteps(self.run, most=settings.max_skipped_steps)
            callbacks += [heartbeat, TokenCount(), Throughput(), skipped]
        if verb == "predict":
            # A task returns rows or features; each writer takes what is its own.
            callbacks.append(EmbeddingWriter(self.run.embeddings))
            if self._get(self.config_init, "predictions") is None:
                callbacks.append(Predictions())
        for key, (_, verbs, _) in _CALLBACKS.items():
            extra = self._get(self.config_init, key)
            if extra is not None and verb in verbs:
                callbacks.append(extra)
        if verb == "fit":
            self.guard = Guard(self.run, of_job=self._hands_on() is not False)
            # Checkpoints are written from the guard on: what they hold is noted before.
            callbacks += [OwedValidation(), self.guard]
            callbacks += checkpoint.callbacks(self.run.checkpoints)
        return callbacks, list(self.record.loggers())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with everything of the run in the run's folder."""
        callbacks, loggers = self.watchers()
        checkpoint: CheckpointSettings = self._get(self.config_init, "checkpoint")
        trainer = dict(self._get(self.config_init, "trainer", default={}))
        own = trainer.pop("callbacks", None) or []
        plugins = trainer.pop("plugins", None) or []
        logger = trainer.pop("logger", None)
        if logger is False:
            loggers = []
        elif logger not in (None, True):
            loggers = [*loggers, *(logger if isinstance(logger, list) else [logger])]
        trainer |= {
            "callbacks": [*callbacks, *(own if isinstance(own, list) else [own])],
            "plugins": [
                checkpoint.writer(),
                *(plugins if isinstance(plugins, list) else [plugins]),
            ],
            "logger": loggers,
            "default_root_dir": str(self.run.path),
        }
        # Deterministic mode fills fresh memory with NaN to show up bugs: 7 % of a step of BERT.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        look_for_the_driver_once()
        strategy = _STRATEGIES.get(str(trainer.get("strategy")))
        if strategy is not None:
            trainer["strategy"] = strategy()
        if isinstance(trainer.get("strategy"), Fsdp):
            # What is gathered in inference mode could not be trained with afterwards.
            trainer["inference_mode"] = False
            if checkpoint.asynchronous and trainer["strategy"].sharded_checkpoints:
                raise UserError(
                    "checkpoint.asynchronous has no effect on checkpoints in parts, which all "
                    "ranks write together; leave it out, or give the strategy "
                    "sharded_checkpoints: false"
                )
        try:
            return Trainer(**trainer, **kwargs)
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer: {first_sentence(error)}") from error

    def after_fit(self) -> None:
        """Score the test set if asked, then write the report."""
        settings: RunSettings = self._get(self.config_init, "run")
        if settings.test:
            weights = tested_checkpoint(self.run, settings.test_with)
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=weights, verbose=False
            )
        self.record.conclude(self.trainer)

    def after_validate(self) -> None:
        """Write the report."""
        self.record.conclude(self.trainer)

    after_test = after_validate
    after_predict = after_validate


class _Parsed(MmlightCLI):
    """Parses a command and builds, makes and runs nothing."""

    def _parse_ckpt_path(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def resolve(arguments: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the configuration that a command would run with, every default filled in.

    Args:
        arguments: a training verb and what follows it on the command line.

    Returns:
        The configuration as plain values, and the experiment's name where `run.name` is None.

    Raises:
        UserError: what cannot be parsed.
    """
    quieten()
    rest, name = expand_configs(arguments[1:])
    return _Parsed([arguments[0], *rest], default_name=name).resolved_config(), name
