"""Spoils captions: typing mistakes, the wrong case. The number of words stays as it is.

`amount` is what `mmlight.data.decode.corruptions.KINDS` says.
"""

import re

from mmlight.data.decode.draw import Draws

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def typos(text: str, *, amount: float, draws: Draws) -> str:
    """Mistype the share `amount` of the letters, at least one.

    A mistake swaps a letter with the next one, leaves it out, doubles it or hits the key beside it
    (of an English keyboard), each as often. Words keep at least one letter.
    """
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    count = min(len(places), max(1, round(amount * len(places)))) if amount > 0 else 0
    chosen = set()
    for _ in range(count):  # without replacement
        chosen.add(places.pop(draws.integer(len(places))))
    letters = list(text)
    for place in sorted(chosen, reverse=True):  # from the end: earlier places stay valid
        _mistype(letters, place, draws)
    return "".join(letters)


def case(text: str, *, amount: float, draws: Draws) -> str:
    """Put the share `amount` of the words, each drawn alone, in capitals, or out of them."""

    def change(word: re.Match[str]) -> str:
        found = word[0]
        if draws.uniform() >= amount:
            return found
        return found.lower() if found.isupper() else found.upper()

    return re.sub(r"\S+", change, text)


def _mistype(letters: list[str], place: int, draws: Draws) -> None:
    letter = letters[place]
    following = letters[place + 1] if place + 1 < len(letters) else ""
    before = letters[place - 1] if place > 0 else ""
    mistake = draws.integer(4)
    if mistake == 0 and following.isalpha():
        letters[place : place + 2] = [following, letter]
    elif mistake == 1 and (following.isalpha() or before.isalpha()):
        del letters[place]
    elif mistake == 2 and (beside := _beside(letter)):
        letters[place] = beside[draws.integer(len(beside))]
    else:
        letters[place] = letter * 2


def _beside(letter: str) -> str:
    """Return the keys to the left and right of a letter, in its case."""
    for row in _ROWS:
        if (key := row.find(letter.lower())) >= 0:
            found = row[max(0, key - 1) : key] + row[key + 1 : key + 2]
            return found.upper() if letter.isupper() else found
    return ""
