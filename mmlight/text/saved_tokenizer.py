"""Tokenizers from plain state, which checkpoints and exports hold."""

from collections.abc import Sequence
from typing import Any

from mmlight.errors import UserError
from mmlight.saved.checkpoint import read_saved
from mmlight.saved.locate import locate
from mmlight.text.json_tokenizer import SPECIALS, JsonTokenizer
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer, Offsets, State, Tokenizer


def tokenizer_from_state(state: Any) -> Tokenizer:
    """Rebuild a tokenizer from what its `state` returned.

    Args:
        state: the state, which may come from a file that anyone wrote.

    Raises:
        UserError: the state is of a kind this version does not know, or damaged.
    """
    try:
        kind = state.get("kind")
        if kind == "byte":
            return ByteTokenizer()
        if kind == "char":
            return CharTokenizer(str(state["characters"]), bool(state["lowercase"]))
        if kind == "json":
            specials: dict[str, Any] = {
                name: int(state[name]) for name in SPECIALS[1:] if name in state
            }
            return JsonTokenizer(str(state["text"]), pad_id=int(state["pad_id"]), **specials)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint's tokenizer cannot be read: {said}") from error
    raise UserError(f"tokenizer kind {kind!r:.40} is unknown; this version knows byte, char, json")


class SavedTokenizer(Tokenizer):
    """The tokenizer with which a model was trained, from the model's own file.

    Args:
        saved: a run's folder, a checkpoint, or a folder that ``mmlight export`` wrote.

    Raises:
        UserError: no such file, or no tokenizer in it.
    """

    def __init__(self, saved: str) -> None:
        text = (read_saved(locate(saved, key="tokenizer").path).preprocessing or {}).get("text")
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
