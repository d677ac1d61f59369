"""Tokenizers: text in, padded token ids out; each can be rebuilt from plain strings and numbers.

Shapes: N captions, L tokens of the longest of them.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from mmlight.errors import UserError

State = dict[str, str | int]
# The first character that a token stands for, and the one after its last.
Offsets = tuple[int, int]


@dataclass(frozen=True)
class Encoding:
    """Token ids of several texts, padded on the right to the longest.

    Attributes:
        ids_NL: int64; padding positions hold the tokenizer's padding id.
        mask_NL: bool, True for real tokens.
        offsets_NL2: int64, the first character of its text that each token stands for, white space
            before it left out, and the one after its last; equal for tokens that stand for none.
            None unless asked for.
    """

    ids_NL: npt.NDArray[np.int64]
    mask_NL: npt.NDArray[np.bool_]
    offsets_NL2: npt.NDArray[np.int64] | None = None


class Tokenizer(ABC):
    """Turns texts into token ids.

    Attributes:
        vocab_size: ids are below this; the text encoder needs as many embeddings.
        pad_id: id of padding.
        start_id: id that opens every text, or None.
        end_id: id that closes every text, or None.
        unk_id: id of unknown text, or None where every text has tokens of its own.
        mask_id: id that hides a token in masked language modelling, or None.
    """

    vocab_size: int
    pad_id: int
    start_id: int | None = None
    end_id: int | None = None
    unk_id: int | None = None
    mask_id: int | None = None

    @abstractmethod
    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""

    @abstractmethod
    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and the characters of its text that each token stands for."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids, without start, end and padding."""

    @abstractmethod
    def state(self) -> State:
        """Return plain strings and numbers from which `tokenizer_from_state` rebuilds this."""

    def encode_batch(
        self, texts: Sequence[str], *, max_tokens: int, offsets: bool = False
    ) -> Encoding:
        """Encode several texts and pad them to the longest of them.

        Args:
            texts: N texts, one or more.
            max_tokens: most tokens of a text, start and end included.
            offsets: also tell the characters that each token stands for.
        """
        places: list[list[Offsets]] = []
        if offsets:
            both = self.encode_with_offsets(texts, max_tokens=max_tokens)
            rows = [ids for ids, _ in both]
            places = [
                [_without_space(text, *place) for place in row]
                for text, (_, row) in zip(texts, both, strict=True)
            ]
        else:
            rows = self.encode(texts, max_tokens=max_tokens)
        lengths = np.array([len(row) for row in rows])
        # a text without any token keeps one masked-in padding id: pooling divides by the count
        width = max(1, int(lengths.max()))
        mask_NL = np.arange(width) < np.maximum(lengths, 1)[:, None]
        ids_NL = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for row, ids in zip(ids_NL, rows, strict=True):
            row[: len(ids)] = ids
        if not offsets:
            return Encoding(ids_NL, mask_NL)
        offsets_NL2 = np.zeros((len(rows), width, 2), dtype=np.int64)
        for place, row_places in zip(offsets_NL2, places, strict=True):
            place[: len(row_places)] = np.array(row_places, np.int64).reshape(-1, 2)
        return Encoding(ids_NL, mask_NL, offsets_NL2)


def _without_space(text: str, start: int, end: int) -> Offsets:
    # byte-level and sentencepiece tokens hold the space before a word
    while start < end and text[start].isspace():
        start += 1
    return start, end


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as tokens; needs no file. Ids: 0 padding, 1 start, 2 end, 3 mask, 4-259 bytes."""

    vocab_size = 260
    pad_id = 0
    start_id = 1
    end_id = 2
    mask_id = 3
    _first_byte = 4

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""
        room = max(0, max_tokens - 2)
        return [
            [
                self.start_id,
                *(byte + self._first_byte for byte in text.encode("utf-8")[:room]),
                self.end_id,
            ]
            for text in texts
        ]

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and the character that each byte belongs to."""
        result: list[tuple[list[int], list[Offsets]]] = []
        for text, ids in zip(texts, self.encode(texts, max_tokens=max_tokens), strict=True):
            of_bytes = [(n, n + 1) for n, char in enumerate(text) for _ in char.encode("utf-8")]
            result.append((ids, [(0, 0), *of_bytes[: len(ids) - 2], (0, 0)]))
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids; half a character at a cut becomes U+FFFD."""
        data = bytes(i - self._first_byte for i in ids if i >= self._first_byte)
        return data.decode("utf-8", "replace")

    def state(self) -> State:
        """Return the kind; there is nothing else to know."""
        return {"kind": "byte"}


_SPECIALS = ("pad_id", "start_id", "end_id", "unk_id", "mask_id")


class JsonTokenizer(Tokenizer):
    """A tokenizer of the tokenizers library, from the text of its ``tokenizer.json``.

    Args:
        text: content of the file.
        pad_id: id of padding.
        start_id: id that opens a text, for those who build texts by hand.
        end_id: id that closes a text.
        unk_id: id of unknown text.
        mask_id: id that hides a token.
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
    ) -> None:
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
        self.vocab_size = 1 + max(highest, *(getattr(self, name) or 0 for name in _SPECIALS))

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""
        self._cut_to(max_tokens)
        # encode_batch_fast skips the character offsets: 26k against 10k captions per CPU-second
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and each token's characters in the text as it was given."""
        self._cut_to(max_tokens)
        encodings = self._tokenizer.encode_batch(list(texts))
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def _cut_to(self, max_tokens: int) -> None:
        if max_tokens != self._max_tokens:
            # the library cuts the text, then adds start and end, so these survive
            self._tokenizer.enable_truncation(max_tokens)
            self._max_tokens = max_tokens

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def state(self) -> State:
        """Return the whole ``tokenizer.json`` and the special ids."""
        specials = {name: getattr(self, name) for name in _SPECIALS}
        known = {name: value for name, value in specials.items() if value is not None}
        return {"kind": "json", "text": self._text, **known}


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
            from mmlight.data.tokenizer_char import CharTokenizer  # which imports this module

            return CharTokenizer(str(state["characters"]), bool(state["lowercase"]))
        if kind == "json":
            specials: dict[str, Any] = {
                name: int(state[name]) for name in _SPECIALS[1:] if name in state
            }
            return JsonTokenizer(str(state["text"]), pad_id=int(state["pad_id"]), **specials)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        said = " ".join(str(error).split())[:200]
        raise UserError(f"the checkpoint's tokenizer cannot be read: {said}") from error
    raise UserError(f"tokenizer kind {kind!r:.40} is unknown; this version knows byte, char, json")


def guess_specials(text: str, *, where: str) -> dict[str, int]:
    """Find the special tokens of a lone ``tokenizer.json`` by their usual names.

    Args:
        text: content of the file.
        where: its path, for the message.

    Raises:
        UserError: the text is not a tokenizer.
    """
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
