"""The files of checkpoints: whole or not there; the one that a run goes on from."""

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.apply_func import apply_to_collection

from mmlight.errors import UserError, naming
from mmlight.files import sync_folder
from mmlight.runs.run.folder import Run, step_of
from mmlight.saved.checkpoint import check_whole, read_checkpoint
from mmlight.terminal import one_line

_log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file in the same folder, syncs it, and renames it.

    Lightning's own writer goes through the system's temporary folder, which is not atomic across
    file systems: a process killed while saving would leave half a file under the final name.
    """

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, also one in the parts that a sharded run wrote, to the CPU.

        Args:
            path: the checkpoint.
            map_location: not used.
            weights_only: not used; nothing but tensors and plain values is ever unpickled.
        """
        # Not mapped: what is restored would change with the file.
        return read_checkpoint(Path(path), mapped=False)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save on rank 0 (Lightning calls it there only)."""
        target = Path(path)
        target.parent.mkdir(exist_ok=True)  # and not above: the run's folder may have been removed
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with naming(target), part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync_folder(target.parent)
        finally:
            part.unlink(missing_ok=True)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Copies a checkpoint and writes the copy in a thread, while training goes on.

    The copy costs memory of the checkpoint's size on rank 0's host. A save waits for the one before
    it; what is to be removed goes when everything before has been written; the end of `fit`, in
    whatever way, waits for all of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Copy now, write later; raise what went wrong with the one before."""
        self.wait()
        copied = apply_to_collection(checkpoint, torch.Tensor, _copy)
        self._written = self._start(super().save_checkpoint, copied, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove, after what is being written: a killed process must leave one of the two."""
        if self._written is None:
            super().remove_checkpoint(path)
            return
        written, remove = self._written, super().remove_checkpoint

        def in_turn() -> None:
            written.result()
            remove(path)

        self._written = self._start(in_turn)

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: it could not be written, or whatever else went wrong with it.
        """
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def teardown(self) -> None:
        """Wait; Lightning calls it when a stage ends or fails."""
        self.wait()

    def _start(self, function: Callable[..., None], *arguments: Any) -> Future[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self._thread.submit(function, *arguments)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def find_whole(run: Run) -> Path | None:
    """Return the newest checkpoint of this very run that is whole; None where there is none.

    Damaged ones are passed over with a warning and, on rank 0, renamed to ``.NAME.damaged``, since
    their step will be saved again.

    Args:
        run: the run; no job but this one writes to it.
    """
    found: Path | None = None
    is_damaged = False
    for path in run.checkpoints_newest_first():
        try:
            check_whole(path)
            found = path
            break
        except UserError as error:
            is_damaged = True
            _warn(str(error))
            _put_aside(path)
    if is_damaged:
        _warn(f"going on from {found}" if found else "no checkpoint is whole: starting afresh")
    return found


def put_later_aside(folder: Path, *, step: int) -> None:
    """Rename the checkpoints of later steps than `step`, from which training begins.

    They would be taken for the newest ones although training did not come by them.
    """
    later = [path for path in sorted(folder.glob("*.ckpt")) if step_of(path) > step]
    for path in later:
        _put_aside(path, why="superseded")
    if later:
        names = ", ".join(f".{path.name}.superseded" for path in later)
        _warn(f"training begins at step {step:,}; later checkpoints in {folder} are now {names}")


def clean(run: Run) -> None:
    """Remove what killed processes left half written.

    Args:
        run: the run; no process but this one writes to it.
    """
    for part in (*run.path.glob(".*.part"), *run.path.glob("*/.*.part")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


@rank_zero_only
def _warn(text: str) -> None:
    _log.warning("mmlight: %s", one_line(" ".join(text.split())))


@rank_zero_only
def _put_aside(path: Path, *, why: str = "damaged") -> None:
    aside = path.with_name(f".{path.name}.{why}")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)
