"""One process at a time trains in a run's folder: a lock that ends with its process."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from mmlight.errors import UserError
from mmlight.files import json_objects
from mmlight.runs.slurm.job import job_name

LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)
_PATIENCE_S = 120.0


class RunLock:
    """The right to write to a run's folder; held until `release`, or until the process is gone.

    It is a POSIX record lock, which the kernel lets go of when the process dies, however it dies,
    which no forked worker inherits, and which NFS (by its lock manager) and Lustre (mounted with
    ``flock``) carry between hosts. The file tells who holds it. Where a file system knows no
    locks, only processes of the same host are seen.

    A job that SLURM has started again takes the lock from its own last start, whose node may have
    failed: SLURM sees that it is gone. Under SLURM others are waited for two minutes, within which
    an NFS server forgets a host that has died.

    Args:
        run: the run's folder, or that of a sweep or a cross-validation.
        instead: what would work at once, for the message.

    Raises:
        UserError: another process holds it.
    """

    def __init__(self, run: Path, *, instead: str | None = None) -> None:
        self._path = run / LOCK
        self._instead = instead or f"give --run.id another value than {run.name}"
        job = job_name(os.environ)
        own = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": _began(os.getpid()),
            "job": job,
            "restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        }
        deadline = time.monotonic() + (_PATIENCE_S if job else 1.0)
        while (file := self._try(own)) is None:
            if time.monotonic() >= deadline:
                raise UserError(self._refusal())
            time.sleep(0.1)
        self._file: TextIO | None = file

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others in."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _try(self, own: dict[str, Any]) -> TextIO | None:
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = False
        except OSError as error:
            holder = _holder(self._path)
            is_taken = error.errno in _TAKEN or _lives(holder)  # else: no locks here
            if is_taken and _is_earlier_start(holder, own):
                self._path.unlink(missing_ok=True)
                is_taken = False
        if is_taken or not self._is_at_its_place(file):
            file.close()
            return None
        file.truncate(0)
        file.write(json.dumps(own) + "\n")
        file.flush()
        return file

    def _is_at_its_place(self, file: TextIO) -> bool:
        """Return whether others would find this file: the one before may have removed it."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _refusal(self) -> str:
        run, holder = self._path.parent, _holder(self._path)
        who = "another process"
        if holder:
            job = f", job {holder['job']}" if holder.get("job") else ""
            who = f"process {holder.get('pid')} on {holder.get('host')}{job}"
            who += f", since {holder.get('since')}"
        return (
            f"run {run.parent.name}/{run.name} is being written by {who}; wait until that has "
            f"ended, or {self._instead}"
        )


def has_died(run: Path) -> bool:
    """Return whether the process that wrote to a run's folder was killed: a lock is left of it.

    Args:
        run: the run's folder. Of a process on another host nothing is known.
    """
    found = _holder(run / LOCK)
    is_here = found.get("host") == socket.gethostname()
    return is_here and found.get("pid") != os.getpid() and not _lives(found)


def _holder(lock: Path) -> dict[str, Any]:
    """Return what a lock says of its holder; nothing where there is none."""
    with suppress(OSError):
        return [{}, *json_objects(lock.read_text(errors="replace").splitlines())][-1]
    return {}


def _is_earlier_start(holder: dict[str, Any], own: dict[str, Any]) -> bool:
    same = holder.get("job") is not None and holder["job"] == own["job"]
    before = holder.get("restart")
    return same and isinstance(before, int) and before < own["restart"]


def _lives(holder: dict[str, Any]) -> bool:
    """Return whether another process of this host still is the one that is named."""
    if holder.get("host") != socket.gethostname() or holder.get("pid") == os.getpid():
        return False
    began = _began(holder.get("pid"))
    return began is not None and began == holder.get("began")


def _began(pid: Any) -> int | None:
    """Return when a process began, in ticks since its host did: its number may be given again."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
