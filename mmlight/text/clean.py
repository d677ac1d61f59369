"""Captions are cleaned as the tokenizers of published models clean theirs."""

import html
import re
import string
from typing import Literal, get_args

from mmlight.errors import UserError

Cleaning = Literal["none", "whitespace", "mend", "clip", "canonicalize", "siglip"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
# How far two texts are searched for where they go on alike.
_LOOKED_AHEAD = 40
# Of one character cleaning makes so many at most before the next one that stays (ligatures).
_MOST_MADE = 3


def check_cleaning(how: str, *, key: str) -> None:
    """Raise UserError, naming the setting, unless there is such a way of cleaning."""
    if how not in get_args(Cleaning):
        raise UserError(f"{key} must be one of {', '.join(get_args(Cleaning))}, not '{how}'")


def clean_caption(text: str, how: Cleaning) -> str:
    """Clean one caption.

    Args:
        text: the caption.
        how: ``whitespace`` folds white space; ``mend`` mends broken Unicode and undoes HTML escapes
            before (open_clip's ``whitespace``, its tokenizers' of transformers); ``clip`` lowers
            the case after (open_clip's ``lower``, CLIP's own); ``canonicalize`` mends, then drops
            ASCII's punctuation, lowers the case and folds white space (open_clip's SigLIP models);
            ``siglip`` does the same without mending (transformers' SigLIP).
    """
    if how in ("mend", "clip", "canonicalize"):
        text = _mended(text)
    if how == "clip":
        return " ".join(text.split()).lower()
    if how == "canonicalize":
        return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())
    if how == "siglip":
        return re.sub(r"\s+", " ", text.lower().translate(_PUNCTUATION)).strip()
    return text if how == "none" else " ".join(text.split())


def _mended(text: str) -> str:
    # There is nothing to mend in most captions, and finding that out takes 2 us a character.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


class Places:
    """Where the characters of a cleaned text stand in the text as it was given.

    Characters that cleaning made anew stand where the next one of the text is.

    Args:
        text: the text as it was given.
        cleaned: what cleaning made of it.
    """

    def __init__(self, text: str, cleaned: str) -> None:
        self._text = text
        self._place_of = range(len(text)) if text == cleaned else _places(text, cleaned)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return first place and place after the last of some characters of the cleaned text.

        What cleaning dropped right behind them (the rest of ``&amp;``) belongs to them.
        """
        if end <= start:
            return start, start
        last = len(self._text) if end >= len(self._place_of) else self._place_of[end]
        first = min(self._place_of[start], last)
        while last > first + 1 and self._text[last - 1].isspace():
            last -= 1
        return first, last


def _places(text: str, cleaned: str) -> list[int]:
    places: list[int] = []
    at = 0
    while len(places) < len(cleaned):
        here = len(places)
        if at < len(text) and _alike(text[at], cleaned[here]):
            places.append(at)
            at += 1
            continue
        ahead = cleaned[here : here + _MOST_MADE + 2]
        dropped, made = _next_alike(text[at : at + _LOOKED_AHEAD], ahead)
        places.extend([min(at, len(text))] * made)
        at += dropped
    return places


def _next_alike(text: str, cleaned: str) -> tuple[int, int]:
    """Return how many characters of both to leave until they go on alike: the fewest of all."""
    for alike in (2, 1):  # after one HTML escape another may follow
        for total in range(1, len(text) + _MOST_MADE):
            for made in range(min(total, _MOST_MADE) + 1):
                there, ahead = text[total - made :], cleaned[made : made + alike]
                if there and ahead and all(map(_alike, there, ahead)):
                    return total - made, made
    return 1, 1


def _alike(given: str, cleaned: str) -> bool:
    return given == cleaned or given.lower() == cleaned or (given.isspace() and cleaned == " ")
