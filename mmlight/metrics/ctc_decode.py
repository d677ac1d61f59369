"""From frames to symbols: the likeliest alignment, and prefix beam search.

Shapes: B clips, L frames, K classes (the symbols and the blank, which is the last), W beams, S
symbols so far.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmlight.errors import UserError

# The number of the empty prefix: any that is far from those of symbols.
_EMPTY = 0x243F6A8885A308D3


@dataclass(frozen=True)
class Decoded:
    """What is heard in a clip.

    Attributes:
        symbols: classes, without blanks.
        log_probability: of these symbols, in nats, as far as the search knows it.
    """

    symbols: list[int]
    log_probability: float


class CtcDecoder(nn.Module, ABC):
    """Finds the transcript of each clip. Has no parameters; a module, so that YAML can name it."""

    def build(self, pieces: Sequence[str]) -> None:
        """Learn what the symbols are; the task calls it before the first clip.

        Args:
            pieces: the text of each symbol, empty for those that have none.
        """

    @abstractmethod
    def forward(self, log_p_BLK: Tensor, frames_B: Tensor) -> list[Decoded]:
        """Return the best transcript of each clip.

        Args:
            log_p_BLK: log-probabilities of the classes; the blank is the last.
            frames_B: int64, real frames of each clip; they come first.
        """


class GreedyDecoder(CtcDecoder):
    """The likeliest class of each frame; repetitions and blanks are dropped.

    Its log-probability is that of this one alignment.
    """

    def forward(self, log_p_BLK: Tensor, frames_B: Tensor) -> list[Decoded]:
        """Return the symbols of the best alignment of each clip."""
        best_BL, class_BL = (values.cpu() for values in log_p_BLK.max(-1))
        blank = log_p_BLK.shape[-1] - 1
        found: list[Decoded] = []
        for best_L, class_L, frames in zip(best_BL, class_BL, frames_B.tolist(), strict=True):
            runs = torch.unique_consecutive(class_L[:frames]).tolist()
            symbols = [symbol for symbol in runs if symbol != blank]
            found.append(Decoded(symbols, float(best_L[:frames].double().sum())))
        return found


class BeamDecoder(CtcDecoder):
    """Prefix beam search: sums the alignments that say the same (arXiv 1408.2873, algorithm 1).

    Without a language model. All clips and beams advance together, a frame at a time, on the
    device of the log-probabilities.

    Args:
        beam_width: prefixes that are kept after each frame.

    Raises:
        UserError: a width below 1.
    """

    def __init__(self, *, beam_width: int = 16) -> None:
        super().__init__()
        if beam_width < 1:
            raise UserError(f"beam_width: {beam_width} must be 1 or more")
        self.beam_width = beam_width

    def forward(self, log_p_BLK: Tensor, frames_B: Tensor) -> list[Decoded]:
        """Return the likeliest symbols that survive the search."""
        return [beams[0] for beams in self.beams(log_p_BLK, frames_B)]

    @torch.no_grad()
    def beams(self, log_p_BLK: Tensor, frames_B: Tensor) -> list[list[Decoded]]:
        """Return the surviving transcripts of each clip, the likeliest first."""
        size, length, num_classes = log_p_BLK.shape
        state = _Beams.start(
            size, self.beam_width, log_p_BLK, longest=length, blank=num_classes - 1
        )
        for frame in range(int(frames_B.max()) if size else 0):
            state = state.advance(log_p_BLK[:, frame], is_real_B=frame < frames_B)
        return state.results()


@dataclass(frozen=True)
class _Beams:
    """The prefixes of each clip after some frames; unused beams have probability 0.

    Attributes:
        blank: the class of the blank.
        with_blank_BW: log-probability of alignments of the prefix that end in a blank.
        with_last_BW: of those that end in its last symbol.
        last_BW: its last symbol, -1 for the empty prefix.
        hash_BW: a number of the whole prefix.
        parent_BW: that number of the prefix without its last symbol.
        symbol_BWS: the prefixes, of `length_BW` symbols.
        length_BW: number of symbols.
    """

    blank: int
    with_blank_BW: Tensor
    with_last_BW: Tensor
    last_BW: Tensor
    hash_BW: Tensor
    parent_BW: Tensor
    symbol_BWS: Tensor
    length_BW: Tensor

    @classmethod
    def start(
        cls, size: int, width: int, log_p_BLK: Tensor, *, longest: int, blank: int
    ) -> "_Beams":
        nothing_BW = log_p_BLK.new_full((size, width), -torch.inf)
        zero_BW = torch.zeros((size, width), dtype=torch.int64, device=log_p_BLK.device)
        certain_BW = nothing_BW.clone()
        certain_BW[:, 0] = 0.0
        return cls(
            blank=blank,
            with_blank_BW=certain_BW,
            with_last_BW=nothing_BW,
            last_BW=zero_BW - 1,
            hash_BW=zero_BW + _EMPTY,
            parent_BW=zero_BW,
            symbol_BWS=torch.zeros(
                (size, width, longest), dtype=torch.int64, device=log_p_BLK.device
            ),
            length_BW=zero_BW,
        )

    @property
    def total_BW(self) -> Tensor:
        return torch.logaddexp(self.with_blank_BW, self.with_last_BW)

    def advance(self, log_p_BK: Tensor, *, is_real_B: Tensor) -> "_Beams":
        """Return the prefixes after one more frame; clips that have ended stay as they are."""
        width = self.last_BW.shape[1]
        num_symbols = self.blank
        log_p_BS = log_p_BK[:, :num_symbols]
        has_last_BW = self.last_BW >= 0
        last_BW = self.last_BW.clamp(min=0)
        # A prefix stays: by a blank, or by its last symbol once more.
        stay_blank_BW = self.total_BW + log_p_BK[:, self.blank :]
        log_p_last_BW = log_p_BS.gather(1, last_BW).masked_fill(~has_last_BW, -torch.inf)
        stay_last_BW = self.with_last_BW + log_p_last_BW
        # It grows by a symbol; by its last one only behind a blank.
        grown_BWS = self.total_BW.unsqueeze(2) + log_p_BS.unsqueeze(1)
        again_BW1 = (self.with_blank_BW + log_p_last_BW).unsqueeze(2)
        is_last_BWS = torch.nn.functional.one_hot(last_BW, num_symbols).bool()
        is_last_BWS &= has_last_BW.unsqueeze(2)
        grown_BWS = torch.where(is_last_BWS, again_BW1, grown_BWS)
        # What grows into a prefix that is there already is added to it.
        is_parent_BWW = self.parent_BW.unsqueeze(2) == self.hash_BW.unsqueeze(1)
        is_parent_BWW &= has_last_BW.unsqueeze(2) & (self.total_BW > -torch.inf).unsqueeze(2)
        lasts_BWW = last_BW.unsqueeze(1).expand(-1, width, -1)
        into_BWW = grown_BWS.gather(2, lasts_BWW).transpose(1, 2)
        into_BW = into_BWW.masked_fill(~is_parent_BWW, -torch.inf).amax(2)
        stay_last_BW = torch.logaddexp(stay_last_BW, into_BW)
        taken_BWS = torch.zeros_like(grown_BWS, dtype=torch.int32)
        taken_BWS.scatter_add_(2, lasts_BWW, is_parent_BWW.transpose(1, 2).to(torch.int32))
        grown_BWS = grown_BWS.masked_fill(taken_BWS > 0, -torch.inf)

        stay_BW = torch.logaddexp(stay_blank_BW, stay_last_BW)
        candidates = torch.cat([stay_BW, grown_BWS.flatten(1)], dim=1)
        score_BW, chosen_BW = candidates.topk(width, dim=1)
        grows_BW = chosen_BW >= width
        place_BW = (chosen_BW - width).clamp(min=0)
        source_BW = torch.where(grows_BW, place_BW // num_symbols, chosen_BW)
        symbol_BW = place_BW % num_symbols

        def kept(values: Tensor) -> Tensor:
            return values.gather(1, source_BW)

        nothing = log_p_BK.new_tensor(-torch.inf)
        length_BW = kept(self.length_BW)
        symbol_BWS = self.symbol_BWS.gather(
            1, source_BW.unsqueeze(2).expand(-1, -1, self.symbol_BWS.shape[2])
        )
        # A prefix has at most as many symbols as there were frames, so the place exists.
        end_BW1 = length_BW.clamp(max=symbol_BWS.shape[2] - 1).unsqueeze(2)
        before_BW1 = symbol_BWS.gather(2, end_BW1)
        written_BW1 = torch.where(grows_BW.unsqueeze(2), symbol_BW.unsqueeze(2), before_BW1)
        symbol_BWS = symbol_BWS.scatter(2, end_BW1, written_BW1)
        hash_BW = kept(self.hash_BW)
        moved = _Beams(
            blank=self.blank,
            with_blank_BW=torch.where(grows_BW, nothing, kept(stay_blank_BW)),
            with_last_BW=torch.where(grows_BW, score_BW, kept(stay_last_BW)),
            last_BW=torch.where(grows_BW, symbol_BW, kept(self.last_BW)),
            hash_BW=torch.where(grows_BW, _hash(hash_BW, symbol_BW), hash_BW),
            parent_BW=torch.where(grows_BW, hash_BW, kept(self.parent_BW)),
            symbol_BWS=symbol_BWS,
            length_BW=length_BW + grows_BW,
        )
        return self._merged(moved, is_real_B)

    def _merged(self, other: "_Beams", is_other_B: Tensor) -> "_Beams":
        def pick(name: str) -> Tensor:
            ours, theirs = getattr(self, name), getattr(other, name)
            return torch.where(is_other_B.view(-1, *[1] * (ours.ndim - 1)), theirs, ours)

        names = [name for name in self.__dataclass_fields__ if name != "blank"]
        return _Beams(blank=self.blank, **{name: pick(name) for name in names})

    def results(self) -> list[list[Decoded]]:
        """Return the prefixes of each clip, the likeliest first."""
        total_BW, order_BW = self.total_BW.sort(dim=1, descending=True, stable=True)
        columns = (total_BW, order_BW, self.symbol_BWS, self.length_BW)
        return [
            [
                Decoded(symbols[beam][: lengths[beam]], total)
                for total, beam in zip(totals, order, strict=True)
                if total > -torch.inf
            ]
            for totals, order, symbols, lengths in zip(*(c.tolist() for c in columns), strict=True)
        ]


def _hash(hash_BW: Tensor, symbol_BW: Tensor) -> Tensor:
    """Return the number of a prefix with one more symbol.

    Exact comparison of prefixes would cost W x W x S; of the W prefixes of a clip, two have one
    number with a chance of about W x W / 2^64.
    """
    mixed = (hash_BW ^ (symbol_BW + 1)) * 0x5851F42D4C957F2D  # Knuth's MMIX; wraps around
    return mixed ^ (mixed >> 29)
