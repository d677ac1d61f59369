"""The tokenizer of a model of open_clip, as far as it can be had without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.published.open_clip.settings import TextCfg
from mmlight.text.clean import Cleaning
from mmlight.text.clip_tokenizer import ClipTokenizer
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.tokenizer import Tokenizer

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
_OF_CLIP = ("bpe_simple_vocab_16e6.txt.gz", "merges.txt", "tokenizer.json")
_WORDS_OF_CLIP = 49408
# What open_clip calls ways of cleaning.
_CLEANING: dict[Any, Cleaning] = {
    "lower": "clip",
    "whitespace": "mend",
    "canonicalize": "canonicalize",
    "none": "none",
}


def read_tokenizer(folder: Path, given: Mapping[str, Any], cfg: TextCfg, *, key: str) -> Any:
    """Return how a model's texts are prepared, as a checkpoint of ours holds it.

    Args:
        folder: the model's.
        given: its ``text_cfg``, as it is in the file.
        cfg: the same, checked.
        key: the setting's name, for messages.

    Returns:
        Without ``tokenizer`` where none can be had: neither lies one in the folder, nor is the
        model's CLIP's with open_clip installed.

    Raises:
        UserError: the folder's own cannot be read, or gives more ids than the model embeds.
    """
    settings: dict[str, Any] = {
        "max_tokens": cfg.context_length,
        "clean": "none",  # it cleans by itself
        "offsets": False,
    }
    options = given.get("tokenizer_kwargs") or {}
    options = options if isinstance(options, Mapping) else {}
    of_clip = cfg.hf_tokenizer_name is None and cfg.hf_model_name is None
    how = _CLEANING.get(options.get("clean", "lower" if of_clip else "whitespace"))
    if how is None or options.get("strip_sep_token"):
        return settings
    try:
        tokenizer = _of_clip(folder, cfg, how) if of_clip else _of_folder(folder, how)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if tokenizer is None:
        return settings
    if cfg.hf_model_name is None and tokenizer.vocab_size > cfg.vocab_size:
        raise UserError(
            f"{key}: the tokenizer of {folder} has {tokenizer.vocab_size} ids, but the model "
            f"embeds {cfg.vocab_size}: it is another model's"
        )
    return settings | {"tokenizer": tokenizer.state(), "vocab_size": tokenizer.vocab_size}


def _of_clip(folder: Path, cfg: TextCfg, how: Cleaning) -> Tokenizer | None:
    if cfg.vocab_size != _WORDS_OF_CLIP:
        return None
    for vocabulary in (str(folder), None):
        if vocabulary is None or any((folder / name).is_file() for name in _OF_CLIP):
            try:
                return ClipTokenizer(vocabulary, clean=how)
            except UserError:  # another kind's: open_clip itself would not look at it
                continue
    return None


def _of_folder(folder: Path, how: Cleaning) -> Tokenizer | None:
    if not any((folder / name).is_file() for name in _FILES):
        return None
    return HfTokenizer(str(folder), clean=how)


def cleaning_name(how: Any) -> str | None:
    """Return what open_clip calls a way of cleaning; None where it has none."""
    return next((theirs for theirs, ours in _CLEANING.items() if ours == how), None)
