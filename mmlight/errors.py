"""What a user did wrong, and what the system refuses: one line each."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a disk: also where an error of a library hides it (torch raises a RuntimeError).
_OF_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO),
)


class UserError(ValueError):
    """Bad input from a user; the command line prints it as one line and exits with code 2.

    The message names what is wrong (the key and its value), where, and what would work.
    """


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest option, or an empty string."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what the system says of a full disk name a file; of an open one it does not."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides what the system said behind an error of its own.
        found = error if isinstance(error, OSError) else error.__context__
        if not isinstance(found, OSError) or found.errno is None or found.filename is not None:
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def told_by_system(error: BaseException) -> str | None:
    """Return what the system refuses, and where; None where an error is none of the system."""
    found: BaseException | None = error
    while found is not None and not (isinstance(found, OSError) and found.errno in _OF_DISK):
        found = found.__cause__ or found.__context__
    if found is None and isinstance(error, OSError):
        found = error
    if not isinstance(found, OSError):
        return None
    where = ", ".join(str(name) for name in (found.filename, found.filename2) if name is not None)
    said = found.strerror or str(found) or type(found).__name__
    return " ".join(f"{where}: {said}".removeprefix(": ").split())
