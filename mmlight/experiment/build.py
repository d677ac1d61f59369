"""An experiment from a verb and its arguments: configuration, data, task and trainer.

The command line and programs of your own build experiments alike::

    from mmlight.experiment.build import build

    experiment = build("fit", ["-c", "experiments/pretrain/scenes.yaml"])
    experiment.run()
"""

import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import cached_property
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmlight.callbacks.recording.record import Record
from mmlight.callbacks.recording.run_settings import RunSettings
from mmlight.data.module import ShardDataModule
from mmlight.experiment.arguments import AUTO
from mmlight.experiment.checkpoint import check_test_with, find_checkpoint, tested_checkpoint
from mmlight.experiment.messages import find_mistake
from mmlight.experiment.parser import Parsed, parse
from mmlight.experiment.trainer import hands_on, make_callbacks, make_record, make_trainer
from mmlight.runs.run.ckpt_path import note_interrupt
from mmlight.runs.run.folder import Run
from mmlight.runs.run.lock import RunLock
from mmlight.runs.run.logs import kept_console
from mmlight.runs.run.webhook import post
from mmlight.runs.slurm.job import is_ours, job_name
from mmlight.saved.checkpoint import check_whole
from mmlight.signals import Interrupted
from mmlight.tasks.task import Task
from mmlight.trainer.checkpoint_files import clean, find_whole
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.early_stopping import EarlyStopping
from mmlight.trainer.guard import Guard

# What the trainer's method of a verb takes, beside task and data.
_OF_METHODS = ("ckpt_path", "weights_only", "verbose", "return_predictions")


class Experiment:
    """Configuration, data and task, and from `begin` on a run's folder and a trainer.

    Args:
        parsed: the command.

    Attributes:
        verb: one of fit, validate, test and predict.
        name: the experiment's.
        settings: the configuration, with classes built.
        data: its data.
        task: its model; the towers are built when the trainer begins.
        folder: the run's folder.
        trainer: Lightning's.
        record: writes what happens into the run's folder.
    """

    folder: Run
    trainer: Trainer
    record: Record

    def __init__(self, parsed: Parsed) -> None:
        self.verb = parsed.verb
        self._parsed = parsed
        self._guard: Guard | None = None
        self._lock: RunLock | None = None
        self._kept = ExitStack()
        self._is_new_run = False
        config = parsed.config
        self.name: str = config["run"]["name"] or parsed.name
        config["run"]["name"] = self.name
        seed = config["seed_everything"]
        if seed is not False:
            seed = seed_everything(None if seed is True else seed, workers=True)
            config["seed_everything"] = seed
        try:
            self.settings: Namespace = parsed.parser.instantiate_classes(config)
        except Exception as error:
            mistake = find_mistake(error)
            if mistake is None or mistake is error:
                raise
            raise mistake from error
        self.data: ShardDataModule = self.settings["data"]
        self.task: Task = self.settings["model"]
        # Classes of metrics say which way they are better.
        directions = self.task.metrics.directions()
        checkpoint: CheckpointSettings = self.settings["checkpoint"]
        checkpoint.find_mode(directions)
        config["checkpoint"]["monitor_mode"] = checkpoint.monitor_mode
        stop: EarlyStopping | None = self.settings["early_stopping"]
        if stop is not None:
            stop.find_mode(directions)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as plain values, every default filled in; it runs again as it is."""
        return self._parsed.plain()

    def begin(
        self,
        *,
        kind: str | None = None,
        below: str | None = None,
        callbacks: Sequence[Callback] | None = None,
        changes: Mapping[str, Any] | None = None,
        keeps_console: bool = False,
    ) -> None:
        """Find or make the run's folder, keep other processes out of it, and build the trainer.

        Args:
            kind: begins the id of a run's folder that is no training's, such as `bench`.
            below: the folder of an evaluation in the run's own; None takes the verb.
            callbacks: in place of those of the experiment, and of its loggers.
            changes: of the trainer's settings.
            keeps_console: whether to keep in the run's folder what a training prints.

        Raises:
            UserError: the run's folder, a checkpoint or the trainer's settings won't do.
        """
        if kind is not None:
            stamp = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
            own = self._parsed.config["run"]
            own["id"] = f"{kind}-{own['id'] or stamp}"
        with self._in_charge(ends=False):
            checkpoint = self._find_run(below, keeps_console)
            self.settings["ckpt_path"] = checkpoint
            self.record = make_record(
                self.verb, self.settings, self.folder, config=self.config, task=self.task
            )
            settings: RunSettings = self.settings["run"]
            if self.verb == "fit":
                check_test_with(settings, monitor=self.settings["checkpoint"].monitor)
            loggers: list[Logger] = []
            if callbacks is None:
                loggers = self.record.loggers()
                if self.verb == "fit":
                    self._guard = Guard(self.folder, of_job=hands_on(settings) is not False)
                callbacks = make_callbacks(self.verb, self.settings, self.record, self._guard)
            self.trainer = make_trainer(
                self.settings,
                self.folder,
                callbacks=callbacks,
                loggers=loggers,
                changes=changes or {},
            )

    def call(self) -> None:
        """Have the trainer do the verb, and no more."""
        given = {key: self.settings[key] for key in _OF_METHODS if key in self.settings}
        getattr(self.trainer, self.verb)(self.task, datamodule=self.data, **given)

    def run(self) -> int:
        """Run the verb; then score the test set if asked, and write the report.

        Returns:
            0, or another exit code where a training was stopped and nobody goes on with it.
        """
        with self.work():
            self.call()
            settings: RunSettings = self.settings["run"]
            if self.verb == "fit" and settings.test:
                weights = tested_checkpoint(self.folder, settings.test_with)
                self.trainer.test(self.task, datamodule=self.data, ckpt_path=weights, verbose=False)
            self.record.conclude(self.trainer)
        # Of all ranks srun returns the greatest; Lightning ends the others when one fails.
        if self._guard is None or not self.trainer.is_global_zero:
            return 0
        return self._guard.exit_code(is_wanted=hands_on(self.settings["run"]) is True)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Be in charge of the run's folder for what follows, and let it go afterwards."""
        with self._in_charge(ends=True), self._webhook():
            if self._guard is None:
                yield
                return
            with self._guard.watch(self.trainer, last_words=self.record.hand_on):
                yield

    def _find_run(self, below: str | None, keeps_console: bool) -> str | None:
        """Find the run's folder; return the checkpoint to begin with."""
        settings = self._parsed.config["run"]
        root, name = settings["root"], self.name
        asked = self.settings["ckpt_path"]
        model = self._parsed.config["model"].get("init_args") or {}
        is_whole = bool(model.get("from_pretrained"))
        run, found = find_checkpoint(asked, verb=self.verb, root=root, name=name, is_whole=is_whole)
        if run is not None:
            # What an evaluation writes lies beside what training wrote, not over it.
            self.folder = run if self.verb == "fit" else run.below(below or self.verb)
        else:
            # Its id is exported for the ranks; the next experiment of this process has its own.
            self._kept.callback(_restore_ids, _exported_ids())
            self.folder = Run.create(root, name=name, run_id=settings["id"], config=self.config)
        self._is_new_run = not any(self.folder.path.iterdir())
        # Without SLURM the first process on each node believes to be rank 0.
        if os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0")) == "0":
            self._take_over(keeps_console)
        if asked == AUTO:
            found = find_whole(self.folder)
        if found is not None:
            check_whole(found)
        return None if found is None else str(found)

    @rank_zero_only
    def _take_over(self, keeps_console: bool) -> None:
        self._lock = RunLock(self.folder.path)
        clean(self.folder)
        # SLURM keeps what a job prints.
        if keeps_console and self.verb == "fit" and job_name(os.environ) is None:
            self._kept.enter_context(kept_console(self.folder.path))

    @contextmanager
    def _in_charge(self, *, ends: bool) -> Iterator[None]:
        """Find the user's mistake in an error; let the run's folder go at an error or the end."""
        try:
            yield
        except Interrupted:
            is_training = self.verb == "fit" and self._lock is not None
            line = note_interrupt(self.folder) if is_training else ""
            raise Interrupted(line) from None
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
        finally:
            if ends or sys.exc_info()[0] is not None:
                self._kept.__exit__(*sys.exc_info())
                if self._lock is not None:
                    self._lock.release()

    def _remove_run(self) -> None:
        """Leave no folder of a run that never began."""
        kept = ("bad_samples.jsonl", "wandb")  # the first is named in a message, W&B has the second
        if not any((self.folder.path / name).exists() for name in kept):
            shutil.rmtree(self.folder.path, ignore_errors=True)
            with suppress(OSError):  # the experiment has other runs
                self.folder.path.parent.rmdir()

    @contextmanager
    def _webhook(self) -> Iterator[None]:
        """Tell how a training ended; mmlight's job script knows whether it goes on, and tells."""
        address = self.settings["run"].webhook
        tells = self._guard is not None and self.trainer.is_global_zero and not is_ours(os.environ)
        tells = tells and address is not None
        try:
            yield
        except Exception as error:
            if tells:
                said = f"{type(error).__name__}: {error}"
                post(self.folder.path, "failed", reason=said, setting=address)
            raise
        if tells and (self._guard is None or self._guard.handed_on is None):
            post(self.folder.path, "finished", setting=address)


def _exported_ids() -> dict[str, str]:
    return {key: text for key, text in os.environ.items() if key.startswith("MMLIGHT_RUN_")}


def _restore_ids(before: Mapping[str, str]) -> None:
    for key in _exported_ids():
        del os.environ[key]
    os.environ.update(before)


def assemble(verb: str, arguments: Sequence[str]) -> Experiment:
    """Build the data and the task of an experiment, but no trainer, and make no run's folder.

    Args:
        verb: one of fit, validate, test and predict.
        arguments: what follows it on the command line.

    Raises:
        UserError: a user's mistake, in one line.
    """
    return Experiment(parse(verb, arguments))


def build(verb: str, arguments: Sequence[str], *, keeps_console: bool = False) -> Experiment:
    """Build an experiment, ready to run.

    Args:
        verb: one of fit, validate, test and predict.
        arguments: what follows it on the command line.
        keeps_console: whether to keep in the run's folder what a training prints.

    Raises:
        UserError: a user's mistake, in one line.
    """
    experiment = assemble(verb, arguments)
    experiment.begin(keeps_console=keeps_console)
    return experiment
