"""One vocabulary of text tokens and image codes, and the sequences that are made of it.

Shapes as in `mmlight.batch`: B samples, L codes of an image, W tokens of a caption's field, S
places of a sequence.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CodeWords:
    """What token ids mean, and where things stand.

    A caption's field has one width, padded, and padding is seen as any token is (DALL-E, arXiv
    2102.12092): so each code of an image has one position, and no mask is needed.

    Attributes:
        text_size: number of text tokens; their ids are those of the tokenizer.
        num_codes: K; their ids come last.
        width: W.
        length: L.
        pad_id: of the tokenizer.
        end_id: of the tokenizer; where it has none, padding ends a text.
    """

    text_size: int
    num_codes: int
    width: int
    length: int
    pad_id: int
    end_id: int | None

    @property
    def text_start(self) -> int:
        """The token in front of a caption's field."""
        return self.text_size

    @property
    def image_start(self) -> int:
        """The token in front of an image's codes."""
        return self.text_size + 1

    @property
    def first_code(self) -> int:
        """The token of code 0."""
        return self.text_size + 2

    @property
    def vocab_size(self) -> int:
        """All tokens."""
        return self.first_code + self.num_codes

    @property
    def num_places(self) -> int:
        """S."""
        return self.width + self.length + 2

    def fields(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return captions as fields (B, W)."""
        right = self.width - ids_BL.shape[1]
        ids_BW = F.pad(ids_BL, (0, right), value=self.pad_id)  # a negative pad cuts
        mask_BW = F.pad(mask_BL, (0, right), value=False)
        return torch.where(mask_BW, ids_BW, self.pad_id)

    def text_part(self, field_BW: Tensor) -> Tensor:
        """Return a caption's part of a sequence (B, 1 + W)."""
        return F.pad(field_BW, (1, 0), value=self.text_start)

    def image_part(self, codes_BL: Tensor) -> Tensor:
        """Return an image's part (B, 1 + L), also of its first codes, or of none."""
        return F.pad(codes_BL + self.first_code, (1, 0), value=self.image_start)

    def without_caption(self, size: int, *, device: torch.device) -> Tensor:
        """Return fields of captions that were left out (size, W)."""
        return torch.full((size, self.width), self.pad_id, device=device)

    def said_BW(self, field_BW: Tensor) -> Tensor:
        """Return which tokens of fields are to be said: those of the text, its end included."""
        is_end_BW = field_BW == (self.pad_id if self.end_id is None else self.end_id)
        return is_end_BW.cumsum(1) - is_end_BW.int() == 0

    def is_code(self, device: torch.device) -> Tensor:
        """Return which tokens are codes, bool (V,)."""
        return torch.arange(self.vocab_size, device=device) >= self.first_code

    def is_text(self, device: torch.device) -> Tensor:
        """Return which tokens are text, bool (V,)."""
        return torch.arange(self.vocab_size, device=device) < self.text_size
