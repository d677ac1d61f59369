"""What a scene of coloured shapes means: its objects, its words, and which split it belongs to.

A meaning is two objects and how they stand to each other. The leftmost (or topmost) object comes
first, so picture, canonical caption and spoken transcript determine one another. A quarter of the
(colour, shape) combinations, two of each colour and two of each shape, never occur in training:
every object of the ``test`` split is one of them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
RELATIONS = ("left", "above")
HELD_OUT_DIAGONALS = (0, 3)

SceneSplit = Literal["train", "val", "test"]
SPLITS: tuple[SceneSplit, ...] = ("train", "val", "test")


class SceneRandom:
    """Random numbers as a pure function of (seed, split, sample).

    They come from raw Philox bits: NumPy may change what its distributions return, never those.
    """

    def __init__(self, seed: int, *, split: int, sample: int) -> None:
        self._bits = np.random.Philox(key=seed, counter=[0, 0, split, sample])

    def uniform(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def below(self, number: int) -> int:
        """Return a whole number in [0, number)."""
        return int(self.uniform(0, number))

    def noise(self, *shape: int) -> NDArray[np.float32]:
        """Return an array of `shape`, uniform in [-1, 1)."""
        count = int(np.prod(shape))
        raw = np.asarray(self._bits.random_raw(-(-count // 4)), dtype="<u8").view("<u2")
        unit = raw[:count].astype(np.float32) / np.float32(32768) - np.float32(1)
        return unit.reshape(shape)

    def order(self, count: int) -> NDArray[np.int64]:
        """Return the numbers below `count` in random order."""
        return np.argsort(np.asarray(self._bits.random_raw(count)), kind="stable")


@dataclass(frozen=True)
class Thing:
    """A colour and a shape, by their places in `COLOURS` and `SHAPES`."""

    colour: int
    shape: int

    @property
    def name(self) -> str:
        """Such as ``red circle``."""
        return f"{COLOURS[self.colour]} {SHAPES[self.shape]}"

    @property
    def phrase(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept out of training."""
        return (self.shape - self.colour) % len(SHAPES) in HELD_OUT_DIAGONALS


@dataclass(frozen=True)
class Meaning:
    """Two different objects; `first` stands to the left of or above `second`."""

    first: Thing
    second: Thing
    relation: int

    @property
    def class_number(self) -> int:
        """The place of the first object's name in `class_names`."""
        return self.first.colour * len(SHAPES) + self.first.shape

    @property
    def transcript(self) -> str:
        """What the voice says."""
        return f"{self.first.name} {RELATIONS[self.relation]} {self.second.name}"

    def captions(self) -> list[str]:
        """Return sentences of this meaning, the canonical one first."""
        a, b = self.first.phrase, self.second.phrase
        if RELATIONS[self.relation] == "left":
            return [
                f"{a} to the left of {b}",
                f"{b} to the right of {a}",
                f"there is {a} left of {b}",
                f"on the left {a}, on the right {b}",
                f"{a} and, to its right, {b}",
            ]
        return [
            f"{a} above {b}",
            f"{b} below {a}",
            f"there is {a} over {b}",
            f"at the top {a}, at the bottom {b}",
            f"{a} and, under it, {b}",
        ]

    def tagged_tokens(self) -> tuple[list[str], list[str]]:
        """Return the canonical caption's words and their BIO tags (COLOUR, SHAPE, RELATION)."""
        tokens = self.captions()[0].split()
        tags = ["B-COLOUR" if t in COLOURS else "B-SHAPE" if t in SHAPES else "O" for t in tokens]
        start, stop = tags.index("B-SHAPE") + 1, len(tokens) - 3
        tags[start:stop] = ["B-RELATION"] + ["I-RELATION"] * (stop - start - 1)
        return tokens, tags


def class_names() -> list[str]:
    """Return all combinations, ``red circle`` first, in the order of class numbers."""
    return [Thing(c, s).name for c in range(len(COLOURS)) for s in range(len(SHAPES))]


def things() -> list[Thing]:
    """Return all combinations of a colour and a shape."""
    return [Thing(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]


def _meanings(*, held_out: bool) -> list[Meaning]:
    known = [t for t in things() if t.held_out == held_out]
    return [Meaning(a, b, r) for a in known for b in known if a != b for r in range(len(RELATIONS))]


MAX_EVAL_SAMPLES = len(_meanings(held_out=True))


def eval_meanings(split: SceneSplit, *, count: int, seed: int) -> list[Meaning]:
    """Return `count` different meanings for ``val`` (training's objects) or ``test``."""
    pool = _meanings(held_out=split == "test")
    order = SceneRandom(seed, split=SPLITS.index(split), sample=2**63).order(len(pool))
    return [pool[i] for i in order[:count]]


def all_meanings() -> list[Meaning]:
    """Return every pairing of every combination of colour and shape."""
    known, relations = things(), range(len(RELATIONS))
    return [Meaning(a, b, r) for a in known for b in known if a != b for r in relations]


def train_meanings(*, num_val: int, seed: int) -> list[Meaning]:
    """Return what training draws from: its objects in every pairing that `val` does not use."""
    taken = set(eval_meanings("val", count=num_val, seed=seed))
    return [m for m in _meanings(held_out=False) if m not in taken]
