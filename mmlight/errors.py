"""What a user did wrong, and what the system refuses: one line each."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What is no fault of ours: a full disk, a folder that is read-only or gone, a cable.
_SYSTEM_SAYS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.EBUSY, errno.EMFILE, errno.ENFILE),
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
    """Have what the system says of a full disk name a file; of an open one it does not.

    Args:
        path: the file.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save hides what the system said behind an error of its own.
        found = error if isinstance(error, OSError) else error.__context__
        if not isinstance(found, OSError) or found.errno is None or found.filename is not None:
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def told_by_system(error: OSError) -> str | None:
    """Return what the system refuses, and where; None for what may be a fault of ours.

    Args:
        error: what it raised.
    """
    if error.errno not in _SYSTEM_SAYS:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return " ".join(f"{where}{error.strerror}".split())
