"""Stops training between two steps when the job is told to, with everything saved."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import MethodType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmlight import signals
from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.slurm.job import is_ours, job_name
from mmlight.terminal import note, say
from mmlight.trainer.checkpoint_files import clean
from mmlight.trainer.checkpoints import Newest
from mmlight.trainer.loop import StepCallback

# As `EX_TEMPFAIL` of sysexits.h: not done, to be tried again.
STOPPED = 75


class Guard(StepCallback):
    """Hands a run on: agree, save, leave `fit`; what is on the disk then is all that was done.

    It takes the place of Lightning's own handling of signals, which saves from within a handler,
    on some ranks only, and in worker processes too. Ranks agree at the end of each optimiser step
    on the most urgent signal that any of them noted (`mmlight.signals`). When there is one, the
    newest checkpoint is written, the step's metrics are logged, and `fit` raises Lightning's
    `SIGTERMException` on all ranks; `handed_on` then says why. They agree in evaluations too: a
    validation is broken off, and made up for by `OwedValidation` when the run goes on.

    Ctrl-C is one of them (`INT`). Before training has begun, and in evaluations of their own, there
    is nothing to save: `signals.Interrupted` ends it.

    Args:
        run: the run's folder; each start is noted in its log of attempts.
        of_job: whether USR1 and TERM are its business too; else Lightning handles these.
    """

    def __init__(self, run: Run, *, of_job: bool = True) -> None:
        self.run = run
        self._of_job = of_job
        self.handed_on: str | None = None
        self._agreement: Agreement | None = None
        self._first_step: int | None = None
        self._last_step: float = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the handling of signals, and stop at once where one has come already."""
        if stage != "fit":
            return
        if not self._of_job:
            signals.answer_interrupts()
            signals.leave_to_others()
        else:
            signals.note_signals()
            environment = trainer._accelerator_connector.cluster_environment
            if isinstance(environment, SLURMEnvironment):
                environment.auto_requeue = False
            trainer._signal_connector = _NoHandlers(trainer)
        # Lightning would broadcast a flag from the GPU, and wait for it, before each batch.
        loop = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = MethodType(_do_nothing, loop)  # type: ignore[method-assign]
        self._agreement = Agreement()
        self._stop_before_training()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the start, and see that all ranks begin at the same step."""
        assert self._agreement is not None
        step = trainer.global_step
        self._first_step = step
        self._last_step = trainer.estimated_stepping_batches
        least, greatest = -self._agreement.ask_now(-step), self._agreement.ask_now(step)
        if least != greatest:
            raise RuntimeError(
                f"the ranks start from different checkpoints, of steps {least} and {greatest}; is "
                f"{self.run.checkpoints} the same folder on all nodes?"
            )
        if trainer.is_global_zero:
            changed = getattr(getattr(trainer, "datamodule", None), "changed", None)
            append_event(
                self.run.path,
                "start",
                job=job_name(os.environ),
                restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
                step=step,
                max_steps=self._last_step if isinstance(self._last_step, int) else None,
                host=socket.gethostname(),
                node=os.environ.get("SLURMD_NODENAME"),
                **({"changed_data": changed} if changed else {}),
            )
        self._stop_before_training()
        signals.save_first(partial(clean, self.run))

    def after_step(self, trainer: pl.Trainer, task: Any) -> None:
        """Agree, after a step of the optimiser; where the answer is to stop, save."""
        if self.handed_on is not None:
            return
        assert self._agreement is not None
        heard = self._agreement.ask(signals.noted())
        if not heard or trainer.global_step >= self._last_step:
            return  # the last step ends training anyway
        self.handed_on = signals.NAMES[heard]
        self._save(trainer)
        # Lightning's loops look at this when the step's metrics have been logged, and raise.
        trainer._signal_connector.received_sigterm = True

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Agree; where the answer is to stop, save what came before the validation, and leave."""
        if self._agreement is None or self.handed_on is not None:
            return
        heard = self._agreement.ask(signals.noted())
        if heard:
            self.handed_on = signals.NAMES[heard]
            if trainer.state.fn == "fit" and self._first_step not in (None, trainer.global_step):
                self._save(trainer)  # a step of this start; otherwise its checkpoint is there
            raise SIGTERMException

    on_test_batch_end = on_validation_batch_end

    @contextmanager
    def watch(
        self, trainer: pl.Trainer, *, last_words: Callable[[pl.Trainer], None]
    ) -> Iterator[None]:
        """Wrap all that a run does: note how it ends, and swallow the exception of a hand-on.

        Args:
            trainer: the trainer.
            last_words: called on every rank before the end is noted; flushes what is not yet
                where it should be.
        """
        own = not signals.are_noted()
        try:
            yield
        except SIGTERMException:
            if self.handed_on is None:
                raise
            last_words(trainer)
        except signals.Interrupted:
            raise
        except BaseException as error:
            mistake = isinstance(error, UserError)
            if trainer.is_global_zero or mistake:
                said = " ".join(f"failed: {type(error).__name__}: {error}".split())
                self._note_end(trainer, said, mistake=mistake)
            raise
        finally:
            signals.nothing_to_save()
            if own:  # a part of another program
                signals.stop_noting()
        if self._agreement is not None:
            self._agreement.close()
            self._agreement = None
        if trainer.is_global_zero:
            self._note_end(trainer, self.handed_on or "finished")
            if self.handed_on is not None:
                say(f"stopped at step {trainer.global_step:,}, saved ({self.handed_on})")
            if self.handed_on == signals.INT:
                say(f"to go on: {self.run.resume_command}")

    def exit_code(self, *, is_wanted: bool) -> int:
        """Return 0, or another code where a training was stopped and nobody goes on with it.

        Args:
            is_wanted: whether whoever started it, outside of SLURM, asked for a run that is handed
                on.
        """
        if self.handed_on == signals.INT:
            return signals.INTERRUPTED
        if self.handed_on is None or is_ours(os.environ):
            return 0
        if "SLURM_JOB_ID" not in os.environ:
            return 0 if is_wanted else 128 + signal.Signals[f"SIG{self.handed_on}"]
        note(
            f"stopped before its end, and this job's script is not mmlight's own: exit code "
            f"{STOPPED}; start it again with --ckpt_path auto to go on"
        )
        return STOPPED

    def _note_end(self, trainer: pl.Trainer, reason: str, **more: bool) -> None:
        hand_on = self.handed_on not in (None, signals.INT)
        said = {"reason": reason, "hand_on": hand_on, **more}
        # A run may have failed because nothing can be written, or because the folder was removed.
        if self.run.path.exists():
            with suppress(OSError) if reason.startswith("failed") else nullcontext():
                append_event(self.run.path, "end", step=trainer.global_step, **said)

    def _stop_before_training(self) -> None:
        assert self._agreement is not None
        heard = self._agreement.ask_now(signals.noted())
        if heard:
            self.handed_on = signals.NAMES[heard]
            raise SIGTERMException

    @staticmethod
    def _save(trainer: pl.Trainer) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Newest):
                callback.save_now(trainer)


class _NoHandlers(_SignalConnector):
    """Leaves the process's signals alone."""

    def register_signal_handlers(self) -> None:
        """Register nothing."""
        self.received_sigterm = False

    def teardown(self) -> None:
        """Restore nothing."""


def _do_nothing(self: Any) -> None:
    pass


class Agreement:
    """A number that all ranks have agreed on: the greatest that any of them gave.

    It goes over the network between the hosts' processors, in its own group of gloo, while the next
    step computes: `ask` begins it, the next `ask` returns what came out of it. So a GPU is never
    waited for, and all ranks hear the same answer after the same step. A lone process hears its
    own number at once.

    Called by all ranks, in the same order.
    """

    def __init__(self) -> None:
        self._group: Any = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
        self._value = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def ask(self, value: int) -> int:
        """Give a number; return what was agreed on at the last call (a lone process: now)."""
        if self._group is None:
            return value
        before = self._answer()
        self._value = torch.tensor([value])
        self._work = dist.all_reduce(
            self._value, dist.ReduceOp.MAX, group=self._group, async_op=True
        )
        return before

    def ask_now(self, value: int) -> int:
        """Give a number and wait for all ranks."""
        answer = self.ask(value)
        return answer if self._group is None else self._answer()

    def close(self) -> None:
        """Wait for all ranks, and leave the group: gloo aborts where one leaves early."""
        if self._group is not None:
            self._answer()
            dist.barrier(group=self._group)
            dist.destroy_process_group(self._group)
            self._group = None

    def _answer(self) -> int:
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._value)
