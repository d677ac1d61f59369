"""Captions become token ids: settings, cleaning, caption ids and transformers' tokenizers."""

import hashlib
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ftfy

from mmlight.data.tokenizer import JsonTokenizer, Tokenizer, guess_specials
from mmlight.errors import UserError
from mmlight.hub_name import check_hub_name

Cleaning = Literal["none", "whitespace", "clip"]

MAX_CHARACTERS = 100_000


class HfTokenizer(JsonTokenizer):
    """Any tokenizer of transformers that has a fast version, or a lone ``tokenizer.json``.

    Args:
        path: a folder with a tokenizer in it, a ``tokenizer.json`` file, or the name of a
            repository on the Hugging Face hub.
    """

    def __init__(self, path: str) -> None:
        local = Path(path).expanduser()
        if local.is_file():
            text = local.read_text(encoding="utf-8", errors="replace")
            specials = guess_specials(text, where=path)
        else:
            text, specials = _load_with_transformers(path)
        # a causal model's tokenizer has no padding; the mask hides what stands there
        pad_id = specials.pop("pad_id", specials.get("end_id", 0))
        super().__init__(text, pad_id=pad_id, **specials)


def _load_with_transformers(path: str) -> tuple[str, dict[str, int]]:
    from transformers import AutoTokenizer

    local = Path(path).expanduser()
    if local.is_dir() and not any(local.iterdir()):
        raise UserError(f"tokenizer folder {path} is empty")
    check_hub_name(path, key="tokenizer")
    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            str(local) if local.exists() else path, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"tokenizer '{path}' cannot be loaded: {reason} (give a folder with a tokenizer,"
            " a tokenizer.json or the name of a repository on the hub)"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"tokenizer '{path}' has no fast version; convert it to tokenizer.json")
    ids = {
        "pad_id": loaded.pad_token_id,
        "start_id": _first(loaded.bos_token_id, loaded.cls_token_id),
        "end_id": _first(loaded.eos_token_id, loaded.sep_token_id),
        "unk_id": loaded.unk_token_id,
        "mask_id": loaded.mask_token_id,
    }
    return backend.to_str(), {name: value for name, value in ids.items() if value is not None}


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


@dataclass
class TextSettings:
    """How captions become token ids.

    Args:
        tokenizer: `mmlight.data.tokenizer.ByteTokenizer` (no file needed) or
            `mmlight.data.text.HfTokenizer` (any tokenizer of transformers, or one trained by
            ``mmlight tokenizer train``).
        max_tokens: longer captions are cut to this many tokens, start and end included. Captions
            are padded to the longest of their batch only.
        clean: clip mends broken Unicode, undoes HTML escapes, folds white space and lowers the
            case, as CLIP does; whitespace only folds white space.
        max_characters: longer captions are cut to so many characters before they are cleaned and
            tokenised, which take time for each of them (clip 2 microseconds: 29 s for a file of 20
            MB among the captions); of what is left, `max_tokens` are kept.
        offsets: also tell which characters of its caption each token stands for; tagging needs it.
        captions_per_sample: how many captions of a sample training takes at once, for contrastive
            tasks: all of them are its positives. They are drawn as one is, without repeats while
            there are others.
    """

    tokenizer: Tokenizer
    max_tokens: int = 77
    clean: Cleaning = "none"
    offsets: bool = False
    captions_per_sample: int = 1
    max_characters: int = MAX_CHARACTERS

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.max_tokens < 3:
            raise UserError(f"text.max_tokens must be 3 or more, not {self.max_tokens}")
        if self.max_characters < 1:
            raise UserError(f"text.max_characters must be 1 or more, not {self.max_characters}")
        if self.captions_per_sample < 1:
            raise UserError(
                f"text.captions_per_sample must be 1 or more, not {self.captions_per_sample}"
            )
        if self.clean not in ("none", "whitespace", "clip"):
            raise UserError(f"text.clean must be none, whitespace or clip, not '{self.clean}'")
        if self.offsets and self.clean != "none":
            raise UserError(
                f"text.clean: '{self.clean}' moves the characters that text.offsets counts; set "
                "clean: none (a tokenizer folds case and white space itself)"
            )

    def prepared(self, text: str) -> str:
        """Return a text cut and cleaned as captions are."""
        # half of a surrogate pair, from a terminal that is not UTF-8 or out of JSON
        text = text[: self.max_characters].encode("utf-8", "replace").decode("utf-8")
        return clean_caption(text, self.clean)


def clean_caption(text: str, how: Cleaning) -> str:
    """Clean one caption; ``clip`` is open_clip's default for its own tokenizer."""
    if how == "clip":
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        return " ".join(text.split()).lower()
    return " ".join(text.split()) if how == "whitespace" else text


def caption_id(text: str) -> int:
    """Return a 64-bit hash of a caption: equal captions, equal ids, in every run."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def tokenizer_config(tokenizer: JsonTokenizer) -> str:
    """Return the ``tokenizer_config.json`` with which transformers loads the same tokenizer."""
    backend = tokenizer._tokenizer
    names = {
        "pad_token": tokenizer.pad_id,
        "bos_token": tokenizer.start_id,
        "eos_token": tokenizer.end_id,
        "unk_token": tokenizer.unk_id,
        "mask_token": tokenizer.mask_id,
    }
    tokens = {name: backend.id_to_token(i) for name, i in names.items() if i is not None}
    return json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **tokens}, indent=2) + "\n"
