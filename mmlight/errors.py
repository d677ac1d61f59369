"""What a user did wrong: the key, the value, and what would work."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input from a user; the command line prints it as one line and exits with code 2.

    The message names what is wrong (the key and its value), where, and what would work.
    """


def nearest(word: str, options: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest option, or an empty string."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
