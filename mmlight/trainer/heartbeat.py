"""Tells that a rank is alive and where it is; ends a training that stands still."""

import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.run.heartbeats import Beat, Stall, read_beats, remove_beat, stall, write_beat
from mmlight.runs.slurm.job import job_name
from mmlight.terminal import say

# EX_TEMPFAIL: what failed may do another time.
STALLED = 75
_EVERY_S = 5.0
# Of all ranks together: file servers suffer from thousands of small writes.
_WRITES_PER_S = 50
# A thread that wakes so late was stopped.
_LATE_S = 10.0
_NCCL_PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"


class Heartbeat(pl.Callback):
    """Writes this rank's sign of life from a thread, and watches those of the others.

    A step costs a few assignments; the thread writes every 5 s, less often from 250 ranks on. It
    goes on in validations, while a checkpoint is saved, and while the rank waits for another one.

    Where all is still for longer than `stall_minutes`, each rank writes the stacks of its threads
    to `stalls/` in the run folder and to its log, and NCCL's flight record of the last collectives
    beside it. Then the processes end with code 75, and the job is handed on like after a crash.

    Args:
        run: the run's folder.
        stall_minutes: how long no rank may get on; None: for ever. A first step that is compiled, a
            checkpoint or a batch that is waited for must not take as long.

    Raises:
        UserError: it is not more than 0.
    """

    def __init__(self, run: Run, *, stall_minutes: float | None = None) -> None:
        if stall_minutes is not None and not stall_minutes > 0:
            raise UserError(f"run.stall_minutes {stall_minutes:g} must be more than 0")
        self.run = run
        self._limit_s = stall_minutes * 60 if stall_minutes is not None else None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._rank, self._world, self._every_s = 0, 1, _EVERY_S
        self._step = self._passed = 0
        self._doing = "starts"
        self._at = time.monotonic()
        self._longest_s = 0.0
        if self._limit_s is not None and torch.cuda.is_available():
            _record_flights(self._folder)

    @property
    def _folder(self) -> Path:
        return self.run.path / "stalls"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to write."""
        self._rank, self._world = trainer.global_rank, trainer.world_size
        self._every_s = max(_EVERY_S, self._world / _WRITES_PER_S)
        self._at, self._doing = time.monotonic(), "starts"
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
            self._thread.start()

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Write no more."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(timeout=10)
            self._thread = None
            remove_beat(self.run.path, self._rank)

    on_exception = teardown

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that there is a batch."""
        self._pass("in a step", trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that it is done."""
        self._pass("waits for data", trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that there is a batch."""
        self._pass("in an evaluation", trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that it is done."""
        self._pass("waits for data of an evaluation", trainer)

    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that all of its batches are done."""
        self._pass("after an evaluation", trainer)

    on_test_end = on_validation_end

    def on_save_checkpoint(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Note that a checkpoint is written."""
        self._pass("saves a checkpoint", trainer)

    def _pass(self, doing: str, trainer: pl.Trainer) -> None:
        now = time.monotonic()
        # The thread reads these: a mix of two moments is as good as either.
        self._longest_s = max(self._longest_s, now - self._at)
        self._at, self._doing, self._step = now, doing, trainer.global_step
        self._passed += 1
        if self._passed == 1:
            self._write(0.0)  # after the start was noted, however soon this rank may be stopped

    def _write(self, still_s: float) -> None:
        beat = Beat(
            rank=self._rank,
            world=self._world,
            host=_host(),
            pid=os.getpid(),
            step=self._step,
            passed=self._passed,
            doing=self._doing,
            still_s=round(still_s, 1),
            longest_s=round(self._longest_s, 1),
            every_s=self._every_s,
        )
        with suppress(OSError):  # a full disk, a folder that was removed: others tell of them
            write_beat(self.run.path, beat)

    def _live(self) -> None:
        """Write, and watch, until told to end."""
        dumped_at: float | None = None
        woken = time.monotonic()
        while True:
            now = time.monotonic()
            if now - woken > self._every_s + _LATE_S:
                # The whole process was stopped (a suspended job, say) and goes on.
                self._at, dumped_at = now, None
            woken = now
            still_s = now - self._at
            self._write(still_s)
            if self._limit_s is not None and still_s > self._limit_s:
                beats = read_beats(self.run.path)
                found = stall(beats, time.time(), limit_s=self._limit_s)
                found = found or Stall(f"no step for {still_s:.0f} s", None)
                if dumped_at is None:
                    dumped_at = now
                    self._dump(found.text)
                # Others may see it a beat later, and write then; the first of them tells.
                patience_s = 3 * self._every_s + (0 if self._is_first(beats) else 60)
                if now - dumped_at >= patience_s:
                    self._leave(found, beats)
            else:
                dumped_at = None
            if self._ended.wait(self._every_s):
                return

    def _is_first(self, beats: Sequence[Beat]) -> bool:
        """Return whether this is the first of the ranks that are alive."""
        now = time.time()
        return all(b.rank >= self._rank or b.is_silent(now) for b in beats)

    def _dump(self, reason: str) -> None:
        start = f"{job_name(os.environ) or 'local'}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
        path = self._folder / f"{start}-rank{self._rank}.txt"
        say(f"mmlight: stalled: {reason}; stacks of rank {self._rank}:", file=sys.stderr)
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with path.open("w") as file:
                file.write(f"{reason}\nrank {self._rank} at step {self._step}, {self._doing}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            say(*path.read_text(errors="replace").splitlines(), file=sys.stderr)
        if _NCCL_PIPE in os.environ:
            # torch's own thread looks at its pipe; nobody may be there to read it.
            with suppress(OSError):
                pipe = f"{os.environ[_NCCL_PIPE]}{self._rank}.pipe"
                handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(handle, b"1")
                os.close(handle)

    def _leave(self, found: Stall, beats: Sequence[Beat]) -> None:
        if self._is_first(beats):
            with suppress(OSError):
                about = {"stalled": True, **({"node": found.host} if found.host else {})}
                reason = f"failed: stalled: {found.text}"
                append_event(self.run.path, "end", step=self._step, reason=reason, **about)
        for beat in beats:
            if beat.host == _host() and _is_stopped(beat.pid):
                with suppress(OSError):
                    os.kill(beat.pid, signal.SIGKILL)  # nobody else would
        # The main thread may wait in a collective for ever: nothing in it can be unwound.
        os._exit(STALLED)


def _host() -> str:
    # By the name that SLURM's commands take, where there is one.
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _is_stopped(pid: int) -> bool:
    with suppress(OSError, IndexError):
        # After the command's name, which may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    return False


def _record_flights(folder: Path) -> None:
    """Have NCCL keep the last collectives; to be said before its first group is made."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    for name, value in (
        ("TORCH_NCCL_TRACE_BUFFER_SIZE", "2000"),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "1"),
        ("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(folder / "nccl-rank")),
        (_NCCL_PIPE, str(folder / ".nccl-rank")),
    ):
        os.environ.setdefault(name, value)
