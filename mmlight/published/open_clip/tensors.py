"""How tensors of open_clip become ours, and ours theirs again.

Shapes: V tokens, L places, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

How = Literal["same", "transposed", "one axis", "two axes", "thirds", "last row"]


@dataclass(frozen=True)
class Move:
    """Some tensors of theirs that are some of ours.

    Attributes:
        theirs: their names.
        ours: our names.
        how: ``same``; ``transposed``, a matrix that is multiplied from the right there; ``one
            axis`` or ``two axes``, of length 1, that ours have in front; ``thirds``, one there that
            are three here; ``last row``, a table (V, D) and a further row (D) that are one here.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    how: How = "same"

    def read(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Return ours for theirs."""
        first = theirs[0]
        if self.how == "transposed":
            return [first.T]
        if self.how == "one axis":
            return [first[None]]
        if self.how == "two axes":
            return [first[None, None]]
        if self.how == "thirds":
            return list(first.chunk(3))
        if self.how == "last row":
            return [torch.cat([first, theirs[1][None]])]
        return [first]

    def write(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Return theirs for ours."""
        first = ours[0]
        if self.how == "transposed":
            return [first.T]
        if self.how == "one axis":
            return [first[0]]
        if self.how == "two axes":
            return [first[0, 0]]
        if self.how == "thirds":
            return [torch.cat(list(ours))]
        if self.how == "last row":
            return [first[:-1], first[-1]]
        return [first]


@dataclass(frozen=True)
class Plan:
    """A tower of theirs as one of ours.

    Attributes:
        encoder: description of our encoder.
        projection: settings of our projection.
        moves: tensors that are known one by one; our names are below the tower.
        prefixes: beginnings of names, theirs and ours, of all that is named alike behind them.
        zeros: of ours that they do not have, the shapes.
        ignored: beginnings of names of theirs that take no part.
    """

    encoder: dict[str, Any]
    projection: dict[str, Any]
    moves: list[Move]
    prefixes: tuple[tuple[str, str], ...] = ()
    zeros: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def read(self, theirs: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Take this tower's tensors out of a state dict of theirs.

        Args:
            theirs: what is taken, or ignored, is removed.

        Returns:
            Ours, and the names of those that are missing there.
        """
        ours: dict[str, Tensor] = {}
        missing: list[str] = []
        for move in self.moves:
            lacking = [name for name in move.theirs if name not in theirs]
            missing += lacking
            if not lacking:
                found = [theirs.pop(name) for name in move.theirs]
                ours |= zip(move.ours, move.read(found), strict=True)
        for name in list(theirs):
            if name.startswith(self.ignored or "\0"):
                del theirs[name]
        for their_prefix, our_prefix in self.prefixes:
            for name in [n for n in theirs if n.startswith(their_prefix)]:
                ours[our_prefix + name.removeprefix(their_prefix)] = theirs.pop(name)
        ours |= {name: torch.zeros(shape) for name, shape in self.zeros.items()}
        return ours, missing

    def write(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return theirs for all of a tower's tensors, which are removed."""
        theirs: dict[str, Tensor] = {}
        for move in self.moves:
            found = [ours.pop(name) for name in move.ours]
            theirs |= zip(move.theirs, move.write(found), strict=True)
        for their_prefix, our_prefix in self.prefixes:
            for name in [n for n in ours if n.startswith(our_prefix)]:
                theirs[their_prefix + name.removeprefix(our_prefix)] = ours.pop(name)
        for name in self.zeros:
            ours.pop(name, None)
        return theirs


def both(theirs: str, ours: str, how: How = "same") -> list[Move]:
    """Return the moves of a layer's weight and bias."""
    return [Move((f"{theirs}.{end}",), (f"{ours}.{end}",), how) for end in ("weight", "bias")]
