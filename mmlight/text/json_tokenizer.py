"""Tokenizers of the tokenizers library: from a ``tokenizer.json``, a folder or a hub."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from mmlight.errors import UserError
from mmlight.hub_name import check_hub_name
from mmlight.text.clean import Cleaning, Places, check_cleaning, clean_caption
from mmlight.text.tokenizer import Offsets, State, Tokenizer

SPECIALS = ("pad_id", "start_id", "end_id", "unk_id", "mask_id")


class JsonTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library, from the text of its ``tokenizer.json``.

    Args:
        text: content of the file.
        pad_id: id of padding.
        start_id: id that opens a text, for those who build texts by hand.
        end_id: id that closes a text.
        unk_id: id of unknown text.
        mask_id: id that hides a token.
        clean: how texts are cleaned first (see `mmlight.text.clean.clean_caption`).
    """

    def __init__(
        self,
        text: str,
        *,
        pad_id: int,
        start_id: int | None = None,
        end_id: int | None = None,
        unk_id: int | None = None,
        mask_id: int | None = None,
        clean: Cleaning = "none",
    ) -> None:
        check_cleaning(clean, key="text.tokenizer.clean")
        self._clean = clean
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        # padding and cutting that the file asks for would change the batch behind our back
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._text = text
        self._max_tokens: int | None = None
        self.pad_id = pad_id
        self.start_id = start_id
        self.end_id = end_id
        self.unk_id = unk_id
        self.mask_id = mask_id
        # added tokens may have ids past the count when a vocabulary has holes
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self.vocab_size = 1 + max(highest, *(getattr(self, name) or 0 for name in SPECIALS))

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""
        self._cut_to(max_tokens)
        # encode_batch_fast skips the character offsets: 26k against 10k captions per CPU-second
        return [
            encoding.ids for encoding in self._tokenizer.encode_batch_fast(self._cleaned(texts))
        ]

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and each token's characters in the text as it was given."""
        self._cut_to(max_tokens)
        cleaned = self._cleaned(texts)
        encodings = self._tokenizer.encode_batch(cleaned)
        result: list[tuple[list[int], list[Offsets]]] = []
        for given, text, encoding in zip(texts, cleaned, encodings, strict=True):
            before = Places(given, text)
            places = [before.span(*place) for place in encoding.offsets]
            result.append((encoding.ids, places))
        return result

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        return [clean_caption(text, self._clean) for text in texts]

    def _cut_to(self, max_tokens: int) -> None:
        if max_tokens != self._max_tokens:
            # the library cuts the text, then adds start and end, so these survive
            self._tokenizer.enable_truncation(max_tokens)
            self._max_tokens = max_tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def normalize(self, text: str) -> str:
        """Return a text cleaned, and as the file's normalizer makes it."""
        normalizer = self._tokenizer.normalizer
        text = clean_caption(text, self._clean)
        return text if normalizer is None else normalizer.normalize_str(text)

    def state(self) -> State:
        """Return the whole ``tokenizer.json``, the special ids and how texts are prepared."""
        specials = {name: getattr(self, name) for name in SPECIALS}
        known = {name: value for name, value in specials.items() if value is not None}
        more: State = {} if self._clean == "none" else {"clean": self._clean}
        return {"kind": "json", "text": self._text, **known, **more}


class HfTokenizer(JsonTokenizer):
    """Any tokenizer of transformers that has a fast version, or a lone ``tokenizer.json``.

    Args:
        path: a folder with a tokenizer in it, a ``tokenizer.json`` file, or the name of a
            repository on the Hugging Face hub.
        clean: how texts are cleaned first: open_clip's SigLIP models take canonicalize, its others
            with a tokenizer of transformers mend (see `mmlight.text.clean.clean_caption`).
    """

    def __init__(self, path: str, clean: Cleaning = "none") -> None:
        local = Path(path).expanduser()
        if local.is_file():
            text = local.read_text(encoding="utf-8", errors="replace")
            specials = _guess_specials(text, where=path)
        else:
            text, specials = _load_with_transformers(path)
        # a causal model's tokenizer has no padding; the mask hides what stands there
        pad_id = specials.pop("pad_id", specials.get("end_id", 0))
        super().__init__(text, pad_id=pad_id, clean=clean, **specials)


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
    known = {name: value for name, value in ids.items() if value is not None}
    return backend.to_str(), known


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


def _guess_specials(text: str, *, where: str) -> dict[str, int]:
    """Find the special tokens of a lone ``tokenizer.json`` by their usual names."""
    try:
        vocabulary = tokenizers.Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
        added = {entry["content"] for entry in json.loads(text).get("added_tokens", [])}
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"tokenizer {where} cannot be read: {error}") from error
    usual = {
        "pad_id": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
        "start_id": ("<start>", "<s>", "[CLS]", "<|startoftext|>", "<|begin_of_text|>"),
        "end_id": ("<end>", "</s>", "[SEP]", "<|endoftext|>", "<|end_of_text|>"),
        "unk_id": ("<unk>", "[UNK]", "<|unk|>"),
        "mask_id": ("<mask>", "[MASK]", "<|mask|>"),
    }
    found: dict[str, int] = {}
    for name, tokens in usual.items():
        present = [token for token in tokens if token in vocabulary and token in added]
        if present:
            found[name] = vocabulary[present[0]]
    return found


def tokenizer_config(tokenizer: JsonTokenizer, *, max_tokens: int | None = None) -> str:
    """Return the ``tokenizer_config.json`` with which transformers loads the same tokenizer.

    Args:
        tokenizer: the tokenizer.
        max_tokens: to which texts are cut; None leaves that to whoever loads it.
    """
    backend = tokenizer._tokenizer
    names = {
        "pad_token": tokenizer.pad_id,
        "bos_token": tokenizer.start_id,
        "eos_token": tokenizer.end_id,
        "unk_token": tokenizer.unk_id,
        "mask_token": tokenizer.mask_id,
    }
    tokens = {name: backend.id_to_token(i) for name, i in names.items() if i is not None}
    length = {} if max_tokens is None else {"model_max_length": max_tokens}
    fixed = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
    config = {**fixed, **length, **tokens}
    return json.dumps(config, indent=2) + "\n"
