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
        self._console = console or Terminal(file=sys.stdout)
        self._enabled = True
        self._bar: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None
        self._loss: float | None = None
        self._loss_at = 0.0
        # Losses of the batches of the step that is done, and of the next one.
        self._step_losses: list[Any] = []
        self._next_losses: list[Any] = []
        self._speed: float | None = None
        self._train_total: float = math.inf
        self._first_step = 0
        self._began = 0.0
        self._line_at = 0.0
        self._line_tenth = 0
        self._speed_since = (0.0, 0)
        self._samples = 0
        self._world_size = 1
        self._accumulated = 1

    def disable(self) -> None:
        """Show nothing; Lightning calls it on ranks other than 0."""
        self._enabled = False

    def enable(self) -> None:
        """Show progress again."""
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown; Lightning prints through it."""
        return self._enabled

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar.

        Args:
            args: as for `print`.
            kwargs: ignored.
        """
        if self._enabled:
            # A line is a line, however long: paths are copied out of log files.
            self._console.print(*args, soft_wrap=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._train_total = trainer.estimated_stepping_batches
        self._world_size = trainer.world_size
        self._first_step = trainer.global_step
        self._samples = 0
        self._began = time.monotonic()
        self._speed_since = (self._began, 0)
        self._open("train", self._train_total, done=trainer.global_step)

    def after_batch(
        self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, outputs: Any
    ) -> None:
        """Take the loss."""
        self._samples += getattr(batch, "size", 0) * self._world_size
        if isinstance(outputs, dict) and "loss" in outputs:
            self._next_losses.append(outputs["loss"])

    def after_step(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Advance."""
        if not self._enabled:
            return
        self._step_losses, self._next_losses = self._next_losses, []
        self._accumulated = trainer.accumulate_grad_batches
        now = time.monotonic()
        since, samples = self._speed_since
        if now - since > 1:
            self._speed = (self._samples - samples) / (now - since)
            self._speed_since = (now, self._samples)
        self._advance("train", trainer.global_step, self._train_total)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open a bar, unless training has one already."""
        if trainer.state.fn != "fit":
            self._open("validate", num_batches(trainer))

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
        total = num_batches(trainer)
        if trainer.state.fn != "fit":
            self._advance("validate", batch_idx + 1, total)
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=f"validating {batch_idx + 1}/{total:.0f}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what validation in training found, in one line."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or not self._enabled:
            return
        # The time that validation took is not part of the training speed.
        self._speed_since = (time.monotonic(), self._samples)
        scores = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        if scores:
            self.print(f"step {trainer.global_step:,}: {summarise_scores(scores)}")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._open("test", num_batches(trainer))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance."""
        what = "predict" if trainer.predicting else "test"
        self._advance(what, batch_idx + 1, num_batches(trainer))

    on_predict_batch_end = on_test_batch_end

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._open("predict", num_batches(trainer))

    def _open(self, what: str, total: float, *, done: int = 0) -> None:
        self._close()
        self._loss = self._speed = None
        self._loss_at, self._step_losses, self._next_losses = 0.0, [], []
        self._first_step = done
        self._began = self._line_at = time.monotonic()
        self._line_tenth = _tenth(done, total)
        if not self._enabled or not self._console.is_terminal:
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
            transient=False,
        )
        shown = None if math.isinf(total) else total
        self._task = self._bar.add_task(what, total=shown, completed=done, note="")
        self._bar.start()

    def _advance(self, what: str, done: int, total: float) -> None:
        if not self._enabled:
            return
        if self._bar is not None and self._task is not None:
            now = time.monotonic()
            if now - self._loss_at >= _LOSS_EVERY_S or done == total:
                self._read_loss(now)
            note = self._note()
            text = f"{what} {done:,}" + ("" if math.isinf(total) else f"/{total:,.0f}")
            self._bar.update(self._task, completed=done, description=text, note=note)
            return
        now = time.monotonic()
        tenth = _tenth(done, total)
        if tenth == self._line_tenth and now - self._line_at < _LINE_EVERY_S and done != total:
            return
        self._line_tenth, self._line_at = tenth, now
        self._read_loss(now)
        left = ""
        if not math.isinf(total):
            per_step = (now - self._began) / max(done - self._first_step, 1)
            left_s = per_step * (total - done)
            left = f"/{total:,.0f}  {100 * done / total:.0f} %  {_clock(left_s)} left"
        self.print(f"{what} {done:,}{left}  {self._note()}".rstrip())

    def _read_loss(self, now: float) -> None:
        if self._step_losses:
            # Lightning has divided each by the number of batches that a step has.
            whole = [self._accumulated * float(loss) for loss in self._step_losses]
            self._loss, self._loss_at = sum(whole) / len(whole), now

    def _note(self) -> str:
        parts = []
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._speed:
            parts.append(f"{self._speed:,.0f} samples/s")
        return "  ".join(parts)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def summarise_scores(scores: dict[str, float]) -> str:
    """Return a line with the loss, the mean recall at 1, zero-shot accuracies and a main score.

    Args:
        scores: values by name.
    """
    parts = [f"{name} {value:.4g}" for name, value in scores.items() if name.endswith("/loss")]
    recalls = [v for k, v in scores.items() if "_to_" in k and k.endswith("/recall_at_1")]
    if recalls:
        mean = format_value("recall", sum(recalls) / len(recalls))
        parts.append(f"recall@1 {mean} (mean of {len(recalls)} directions)")
    parts += [
        f"{name.split('/', 1)[1]} {format_value(name, value)}"
        for name, value in scores.items()
        if "zero_shot" in name and name.endswith("at_1")
    ]
    parts += [
        f"{name.split('/', 1)[1]} {format_value(name, value)}"
        for name, value in scores.items()
        if name.count("/") == 1 and name.split("/")[1] in MAIN_SCORES
    ]
    rest = [f"{name} {format_value(name, value)}" for name, value in scores.items()]
    return "  ".join(parts or rest[:4])


def _tenth(done: int, total: float) -> int:
    return int(10 * done / total + 1e-9) if total else 0


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
