"""Tokenizers from plain state, which checkpoints and exports hold."""

from typing import Any

from mmlight.errors import UserError
from mmlight.text.clip_tokenizer import ClipBpe
from mmlight.text.json_tokenizer import SPECIALS, JsonTokenizer
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer


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
            return JsonTokenizer(
                str(state["text"]),
                pad_id=int(state["pad_id"]),
                clean=state.get("clean", "none"),
                **specials,
            )
        if kind == "clip":
            return ClipBpe(str(state["merges"]), clean=state.get("clean", "clip"))
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint's tokenizer cannot be read: {said}") from error
    raise UserError(
        f"tokenizer kind {kind!r:.40} is unknown; this version knows byte, char, clip, json"
    )
