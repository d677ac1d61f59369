"""The tokenizer that a model was trained with, out of the model's own files."""

from collections.abc import Sequence

from mmlight.errors import UserError
from mmlight.published.read import read_model
from mmlight.text.json_tokenizer import SPECIALS
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import Offsets, State, Tokenizer


class SavedTokenizer(Tokenizer):
    """The tokenizer with which a model was trained, from the model's own file.

    Args:
        saved: a run's folder, a checkpoint, an exported folder, or a published model.

    Raises:
        UserError: no such file, or no tokenizer in it.
    """

    def __init__(self, saved: str) -> None:
        text = (read_model(saved, key="tokenizer")[1].preprocessing or {}).get("text")
        if not isinstance(text, dict) or "tokenizer" not in text:
            raise UserError(f"tokenizer: {saved} holds none; its model reads no text")
        self._own = tokenizer_from_state(text["tokenizer"])
        for name in ("vocab_size", *SPECIALS):
            setattr(self, name, getattr(self._own, name))

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""
        return self._own.encode(texts, max_tokens=max_tokens)

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and the characters of its text that each token stands for."""
        return self._own.encode_with_offsets(texts, max_tokens=max_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids, without start, end and padding."""
        return self._own.decode(ids)

    def state(self) -> State:
        """Return the tokenizer's own state, which names no file."""
        return self._own.state()
