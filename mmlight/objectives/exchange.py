"""Whose samples a rank's rows are compared with, and how they get there.

Shapes as in `mmlight.batch`: B samples of this rank, G samples of all ranks, D joint width. The
rows of a similarity matrix are this rank's samples in one modality of a pair, its columns samples
in the other one; C columns are held at a time.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from mmlight import comm
from mmlight.modality import MODALITIES, Modality
from mmlight.objectives.pairs import Pair

Ranks = Literal["gather", "ring", "local"]


def column_modalities(pairs: tuple[Pair, ...]) -> tuple[Modality, ...]:
    """Return the fewest modalities such that each pair has one of them.

    Only these are sent: one for image-text, two for all pairs of image, text and audio.
    """
    for number in range(1, len(MODALITIES) + 1):
        for chosen in combinations(reversed(MODALITIES), number):
            if all(p.first in chosen or p.second in chosen for p in pairs):
                return tuple(m for m in MODALITIES if m in chosen)
    raise AssertionError("all modalities together are in every pair")


def sides(pair: Pair, columns: tuple[Modality, ...]) -> tuple[Modality, Modality]:
    """Return which modality of `pair` has the rows and which the columns."""
    if pair.second in columns:
        return pair.first, pair.second
    return pair.second, pair.first


def fetch_columns(
    features: dict[Modality, Tensor], columns: tuple[Modality, ...], *, ranks: Ranks
) -> dict[Modality, Tensor]:
    """Return the columns by modality: (G, D) of all ranks if gathered, else this rank's (B, D).

    Every rank calls it; a gather is one collective for all modalities, and a second one where
    samples have several captions. Gradients flow back.
    """
    # Gathered without gradients, the towers' would be 1 / W of what they should be beside the
    # temperature's: Adam hides that, clipping and weight decay don't.
    own = {m: features[m] for m in columns}
    if ranks != "gather" or not comm.is_distributed():
        return own
    gathered: dict[Modality, Tensor] = {}
    for length in dict.fromkeys(len(x_BD) for x_BD in own.values()):
        alike = {m: x_BD for m, x_BD in own.items() if len(x_BD) == length}
        parts = list(alike.values())
        together_GX = comm.gather_with_grad(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        widths = [x_BD.shape[1] for x_BD in parts]
        gathered |= zip(alike, together_GX.split(widths, dim=1), strict=True)
    return gathered


class RingBlocks:
    """Blocks of columns, and what belongs to them, that come to this rank's rows one by one.

    Where the ranks form a ring, each block visits all of them and returns: whoever iterates reads
    `held` and changes it in place, and after the loop it holds what belongs to this rank's own
    columns again. Otherwise there is one block, and nothing is sent. Every rank iterates to the
    end.

    Args:
        fixed: what is only read, first in `held`; of one shape on all ranks. It does not return:
            that would be a message for nothing.
        changing: what each rank adds to, behind it in `held`.
        ranks: how ranks meet.
    """

    def __init__(
        self, *, fixed: Sequence[Tensor], changing: Sequence[Tensor], ranks: Ranks
    ) -> None:
        self.held = [*fixed, *changing]
        self._num_fixed = len(fixed)
        self._num_blocks = comm.world_size() if ranks == "ring" else 1

    def __iter__(self) -> Iterator[int]:
        """Yield the number of the first column of each block among all columns."""
        size, last = len(self.held[0]), self._num_blocks - 1
        for block in range(self._num_blocks):
            yield (comm.rank() - block) % self._num_blocks * size if last else 0
            sent = self._num_fixed if block == last else 0
            if last and sent < len(self.held):
                self.held = [*self.held[:sent], *comm.shift(self.held[sent:])]
