"""The words of captions: a tokenizer as a task that generates sees it.

Shapes as in `mmlight.batch`: N captions, L tokens; V tokens of a decoder's vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Text
from mmlight.decoders.sequence import with_ends
from mmlight.errors import UserError
from mmlight.text.saved_tokenizer import tokenizer_from_state


class CaptionWords:
    """A tokenizer whose captions have a beginning and an end.

    Many tokenizers of causal models put neither; here both are put where they are not.

    Args:
        text: what the data's preprocessing says of its text.

    Attributes:
        start_id: the token that captions begin behind.
        end_id: the one that ends them.
        max_tokens: most tokens of a caption.

    Raises:
        UserError: no text, or a tokenizer without a token that ends one.
    """

    def __init__(self, text: Mapping[str, Any] | None) -> None:
        if text is None:
            raise UserError(
                "data.text is not set; captions need a tokenizer, such as {tokenizer: "
                "{class_path: mmlight.text.tokenizer.ByteTokenizer}}, and data.members.text"
            )
        self._tokenizer = own = tokenizer_from_state(text["tokenizer"])
        if own.end_id is None:
            raise UserError(
                "data.text.tokenizer has no token that ends a text, so that a caption would never "
                "end; use mmlight.text.tokenizer.ByteTokenizer or another with one"
            )
        self.end_id = own.end_id
        self.start_id = own.end_id if own.start_id is None else own.start_id
        (example,) = own.encode(["a"], max_tokens=4)
        self._opens = example[:1] == [own.start_id]
        self._closes = example[-1:] == [own.end_id]
        self.max_tokens = int(text["max_tokens"])

    def with_ends(self, text: Text) -> Text:
        """Return captions with their beginning and end."""
        start_id = None if self._opens else self.start_id
        end_id = None if self._closes else self.end_id
        if start_id is None and end_id is None:
            return text
        return with_ends(text, start_id=start_id, end_id=end_id)

    def as_text(self, rows: Sequence[Sequence[int]], *, device: torch.device) -> Text:
        """Return generated tokens as captions, as the tokenizer would have made them.

        Args:
            rows: of each caption.
            device: where they are needed.
        """
        start = [self.start_id] if self._opens else []
        end = [self.end_id] if self._closes else []
        whole = [[*start, *tokens, *end] for tokens in rows]
        width = max(1, *map(len, whole))
        ids = [[*ids, *[self.end_id] * (width - len(ids))] for ids in whole]
        length_N1 = torch.tensor([[len(ids)] for ids in whole], device=device)
        number_N = torch.arange(len(rows), device=device)
        return Text(
            token_ids_NL=torch.tensor(ids, device=device),
            mask_NL=torch.arange(width, device=device) < length_N1,
            present_N=torch.ones(len(rows), dtype=torch.bool, device=device),
            item_N=number_N,
            caption_id_N=number_N,
        )

    def allowed(self, vocab_size: int, *, device: torch.device) -> Tensor:
        """Return which tokens may be generated, bool (V,): those that stand for text, and the end.

        Args:
            vocab_size: V, of the decoder, which may know more than the tokenizer.
            device: where it is needed.
        """
        own = self._tokenizer
        allowed_V = torch.arange(vocab_size, device=device) < own.vocab_size
        for silent in (own.pad_id, own.start_id, own.mask_id, own.unk_id):
            if silent is not None and silent != self.end_id:
                allowed_V[silent] = False
        return allowed_V

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return self._tokenizer.decode(tokens)

    def comparable(self, text: str) -> str:
        """Return a text as the tokenizer sees it, with single spaces between its words."""
        return " ".join(self.text(self._content(text)).split())

    def _content(self, text: str) -> list[int]:
        (ids,) = self._tokenizer.encode([text], max_tokens=10_000)
        return ids
