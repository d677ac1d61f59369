"""Progress on the terminal: a bar for people, plain lines for log files."""

import math
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich import progress as rich_progress

from mmlight.scores import MAIN_SCORES, format_value
from mmlight.terminal import Terminal
from mmlight.trainer.loop import StepCallback, num_batches

_LINE_EVERY_S = 30.0
_LOSS_EVERY_S = 0.5


class Progress(StepCallback, ProgressBar):
    """Shows step, loss, samples per second and the time left.

    On a terminal it is a bar; elsewhere (SLURM's output files) a line at every tenth of the work,
    and at least one in half a minute. The loss is that of the step that is shown, the mean over the
    batches that were accumulated for it. A bar reads it twice a second at most, a line when it is
    printed: reading waits for the device.

    Args:
        console: where to write; standard output by default.
    """

    def __init__(self, console: Terminal | None = None) -> None:
        super().__init__()
        self.is_enabled = True  # Lightning prints through it
        self._console = console or Terminal(file=sys.stdout)
        self._bar: rich_progress.Progress | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls it on ranks other than 0."""
        self.is_enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self.is_enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar.

        Args:
            args: as for `print`.
            kwargs: ignored.
        """
        if self.is_enabled:
            # A line is a line, however long: paths are copied out of log files.
            self._console.print(*args, soft_wrap=True)

    def _open(self, what: str, total: float, *, done: int = 0) -> None:
        self.teardown()
        self._what, self._total, self._first_step = what, total, done
        self._loss: float | None = None
        self._speed: float | None = None
        # Losses of the batches of the step that is done, and of the next one.
        self._step_losses: list[Any] = []
        self._next_losses: list[Any] = []
        self._samples, self._loss_at = 0, 0.0
        self._began = self._line_at = time.monotonic()
        self._speed_since = (self._began, 0)
        self._line_tenth = self._tenth(done)
        if not self.is_enabled or not self._console.is_terminal:
            return
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=None),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=2,
        )
        shown = None if math.isinf(total) else total
        self._bar.add_task(what, total=shown, completed=done, note="")
        self._bar.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._open("train", trainer.estimated_stepping_batches, done=trainer.global_step)

    def after_batch(self, trainer: pl.Trainer, task: Any, batch: Any, outputs: Any) -> None:
        """Take the loss."""
        self._samples += getattr(batch, "size", 0) * trainer.world_size
        if isinstance(outputs, dict) and "loss" in outputs:
            self._next_losses.append(outputs["loss"])

    def after_step(self, trainer: pl.Trainer, task: Any) -> None:
        """Advance."""
        self._step_losses, self._next_losses = self._next_losses, []
        now = time.monotonic()
        since, samples = self._speed_since
        if now - since > 1:
            self._speed = (self._samples - samples) / (now - since)
            self._speed_since = (now, self._samples)
        self._advance(trainer.global_step)

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    on_train_end = on_exception = teardown

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a bar, unless training has one already."""
        if trainer.state.fn is not None and trainer.state.fn != "fit":
            self._open(trainer.state.fn.value, num_batches(trainer))

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance; in training, show it beside the bar."""
        if trainer.state.fn != "fit":
            self._advance(batch_idx + 1)
        elif self._bar is not None:
            note = f"validating {batch_idx + 1}/{num_batches(trainer):.0f}"
            self._bar.update(self._bar.task_ids[0], note=note)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what validation in training found, in one line."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self.is_enabled:
            return
        # The time that validation took is not part of the training speed.
        self._speed_since = (time.monotonic(), self._samples)
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if scores:
            self.print(f"step {trainer.global_step:,}: {summarise_scores(scores)}")

    def _advance(self, done: int) -> None:
        if not self.is_enabled:
            return
        now, total = time.monotonic(), self._total
        if self._bar is not None:
            if now - self._loss_at >= _LOSS_EVERY_S or done == total:
                self._read_loss(now)
            text = f"{self._what} {done:,}" + ("" if math.isinf(total) else f"/{total:,.0f}")
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, description=text, note=self._note())
            return
        tenth = self._tenth(done)
        if tenth == self._line_tenth and now - self._line_at < _LINE_EVERY_S and done != total:
            return
        self._line_tenth, self._line_at = tenth, now
        self._read_loss(now)
        left = ""
        if not math.isinf(total):
            per_step = (now - self._began) / max(done - self._first_step, 1)
            left_s = per_step * (total - done)
            left = f"/{total:,.0f}  {100 * done / total:.0f} %  {_clock(left_s)} left"
        self.print(f"{self._what} {done:,}{left}  {self._note()}".rstrip())

    def _read_loss(self, now: float) -> None:
        if self._step_losses:
            # Lightning has divided each by the number of batches that a step has.
            accumulated = self.trainer.accumulate_grad_batches
            whole = [accumulated * float(loss) for loss in self._step_losses]
            self._loss, self._loss_at = sum(whole) / len(whole), now

    def _note(self) -> str:
        parts = [f"loss {self._loss:.4g}"] if self._loss is not None else []
        parts += [f"{self._speed:,.0f} samples/s"] if self._speed else []
        return "  ".join(parts)

    def _tenth(self, done: int) -> int:
        return int(10 * done / self._total + 1e-9) if self._total else 0


def summarise_scores(scores: dict[str, float]) -> str:
    """Return a line with the loss, the mean recall at 1, zero-shot accuracies and a main score."""
    parts = [f"{name} {value:.4g}" for name, value in scores.items() if name.endswith("/loss")]
    # Those of all samples, not those of each set.
    names = [k for k in scores if k.count("/") == 2 and k.endswith("/recall_at_1")]
    recalls = [scores[name] for name in names if "_to_" in name]
    if recalls:
        mean = format_value("recall", sum(recalls) / len(recalls))
        parts.append(f"recall@1 {mean} (mean of {len(recalls)} directions)")
    shown = [name for name in scores if "zero_shot" in name and name.endswith("at_1")]
    shown += [name for name in scores if name.partition("/")[2] in MAIN_SCORES]
    parts += [f"{name.partition('/')[2]} {format_value(name, scores[name])}" for name in shown]
    rest = [f"{name} {format_value(name, value)}" for name, value in scores.items()]
    return "  ".join(parts or rest[:4])


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
