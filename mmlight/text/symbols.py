"""The symbols that a transcript is made of: a tokenizer, seen from a task.

Shapes as in `mmlight.batch`: B samples, N texts, L tokens; S symbols of the longest transcript.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Text
from mmlight.errors import UserError
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import CharTokenizer
from mmlight.trainer.internals import FakeTensor


@dataclass(frozen=True)
class Transcripts:
    """What was said in each clip.

    Attributes:
        symbol_BS: int64 classes, padded with anything.
        length_B: int64, real symbols of each clip.
    """

    symbol_BS: Tensor
    length_B: Tensor

    def frames_needed(self) -> Tensor:
        """Return the least number of frames (B,) that can say each transcript.

        One for each symbol, and one for a blank between two equal ones.
        """
        place_S = torch.arange(1, self.symbol_BS.shape[1], device=self.symbol_BS.device)
        doubled_BS = self.symbol_BS[:, 1:] == self.symbol_BS[:, :-1]
        counted_BS = doubled_BS & (place_S < self.length_B.unsqueeze(1))
        return self.length_B + counted_BS.sum(1)


class Symbols:
    """The tokens of a tokenizer, each a symbol with the token's id as its number.

    Args:
        text: what the data's preprocessing says of its text.

    Raises:
        UserError: a tokenizer of a later version, or a damaged one.
    """

    def __init__(self, text: Mapping[str, Any]) -> None:
        self._tokenizer = own = tokenizer_from_state(text["tokenizer"])
        self.count = int(text["vocab_size"])
        self.max_tokens = int(text["max_tokens"])
        # No symbols of their own, though they have numbers.
        ids = {own.pad_id, own.start_id, own.end_id, own.mask_id}
        self._silent = sorted(i for i in ids if i is not None)
        # In a text of characters nothing stands for an unknown one.
        self._unsaid = own.unk_id if isinstance(own, CharTokenizer) else None

    def text(self, symbols: Sequence[int]) -> str:
        """Return the text of some symbols; unknown ones are left out."""
        return self._tokenizer.decode([s for s in symbols if s != self._unsaid])

    def pieces(self) -> list[str]:
        """Return the text of each symbol alone, empty for those that have none."""
        return [self.text([number]) for number in range(self.count)]

    def comparable(self, text: str) -> str:
        """Return a text as the tokenizer sees it, with single spaces between its words."""
        return " ".join(self._tokenizer.normalize(text).split())

    def transcripts(self, text: Text, keys: Sequence[str]) -> Transcripts:
        """Return texts without start, end and padding.

        Args:
            text: one text for each sample.
            keys: of the samples, for the message.

        Raises:
            UserError: a text that may have been cut.
        """
        keep_BL = text.mask_NL & text.present_N.unsqueeze(1)
        full_B = keep_BL.sum(1) >= self.max_tokens
        if not isinstance(full_B, FakeTensor) and full_B.any():
            raise UserError(
                f"data.text.max_tokens is {self.max_tokens}, and the transcript of "
                f"{keys[int(full_B.nonzero()[0])]} fills it; raise it: a transcript that is cut "
                "no longer says what is said"
            )
        silent = torch.tensor(self._silent, device=keep_BL.device, dtype=torch.int64)
        keep_BL &= ~torch.isin(text.token_ids_NL, silent)
        # Kept tokens first, in their order.
        order_BL = torch.argsort((~keep_BL).to(torch.int8), dim=1, stable=True)
        length_B = keep_BL.sum(1)
        # Of what has no values, the most that it may be.
        is_fake = isinstance(length_B, FakeTensor)
        longest = keep_BL.shape[1] if is_fake else max(1, int(length_B.max()))
        return Transcripts(text.token_ids_NL.gather(1, order_BL)[:, :longest], length_B)
