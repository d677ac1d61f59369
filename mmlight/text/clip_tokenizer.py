"""CLIP's tokenizer (arXiv 2103.00020), token for token that of open_clip."""

import gzip
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import regex
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mmlight.errors import UserError
from mmlight.text.clean import Cleaning, Places, check_cleaning, clean_caption
from mmlight.text.tokenizer import Offsets, State, Tokenizer

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
# As many of the file's merges are CLIP's; more stand in it.
_NUM_MERGES = 49152 - 256 - 2
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = regex.compile(
    _START + "|" + _END + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


class ClipBpe(Tokenizer):
    """CLIP's byte pairs, from the merges themselves.

    Args:
        merges: one a line, its two parts with a space between. They make the ids: 256 bytes, 256
            bytes that end a word, one for each merge, start and end; padding is 0.
        clean: how captions are cleaned first (see `mmlight.text.clean.clean_caption`).
    """

    pad_id = 0
    start_id: int
    end_id: int

    def __init__(self, merges: str, *, clean: Cleaning = "clip") -> None:
        check_cleaning(clean, key="text.tokenizer.clean")
        pairs = [_pair(line) for line in merges.split("\n")]
        single = _byte_tokens()
        tokens = [*single, *(token + "</w>" for token in single), *map("".join, pairs)]
        vocabulary = {token: number for number, token in enumerate([*tokens, _START, _END])}
        self._merges, self._clean = merges, clean
        self._tokenizer = tokenizers.Tokenizer(
            models.BPE(vocab=vocabulary, merges=pairs, end_of_word_suffix="</w>")
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        self._tokenizer.decoder = decoders.ByteLevel()
        # A caption that holds one of them as a word has its id.
        self._tokenizer.add_special_tokens([_START, _END])
        self.start_id, self.end_id = vocabulary[_START], vocabulary[_END]
        self.vocab_size = 1 + self.end_id

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the token ids of each text, cut to `max_tokens` with the end token kept."""
        words = [_WORDS.findall(self.normalize(text)) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(words, is_pretokenized=True)
        room = max(0, max_tokens - 2)
        return [[self.start_id, *encoding.ids[:room], self.end_id] for encoding in encodings]

    def encode_with_offsets(
        self, texts: Sequence[str], *, max_tokens: int
    ) -> list[tuple[list[int], list[Offsets]]]:
        """Return what `encode` does, and the characters of its text that each token stands for."""
        result: list[tuple[list[int], list[Offsets]]] = []
        for text in texts:
            cleaned = self.normalize(text)
            found = list(_WORDS.finditer(cleaned))
            encoding = self._tokenizer.encode([word[0] for word in found], is_pretokenized=True)
            ids = encoding.ids[: max(0, max_tokens - 2)]
            before = Places(text, cleaned)
            places: list[Offsets] = []
            # `zip` stops where the ids were cut.
            for _, word, (start, end) in zip(
                ids, encoding.word_ids, encoding.offsets, strict=False
            ):
                assert word is not None  # no special token is added here
                at = found[word].start()
                places.append(before.span(at + start, at + end))
            result.append(([self.start_id, *ids, self.end_id], [(0, 0), *places, (0, 0)]))
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some token ids, words a space apart, without start and end."""
        # Padding has the id of "!", so only what follows the end is known to be none of it.
        kept = list(ids)
        if self.end_id in kept:
            kept = kept[: kept.index(self.end_id)]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text.replace("</w>", " ").strip()

    def normalize(self, text: str) -> str:
        """Return a text cleaned."""
        cleaned = clean_caption(text, self._clean)
        # Half of a surrogate pair, which only ``mend`` and what includes it replace.
        return cleaned.encode("utf-8", "replace").decode("utf-8")

    def state(self) -> State:
        """Return the merges and how captions are cleaned."""
        return {"kind": "clip", "merges": self._merges, "clean": self._clean}


class ClipTokenizer(ClipBpe):
    """CLIP's tokenizer as open_clip has it: cleaned, in lower case, start, end, padding 0.

    Args:
        vocabulary: ``bpe_simple_vocab_16e6.txt.gz``, ``merges.txt`` or ``tokenizer.json`` of a CLIP
            model, or a folder with one of them. Left out, it is the file of the open_clip package,
            if that is installed; the package itself is not loaded.
        clean: how captions are cleaned first; clip, as CLIP does, mends broken Unicode, undoes HTML
            escapes, folds white space and lowers the case (more of them in
            `mmlight.text.clean.clean_caption`).

    Raises:
        UserError: no such file, or another model's.
    """

    def __init__(self, vocabulary: str | None = None, clean: Cleaning = "clip") -> None:
        path = _installed() if vocabulary is None else _found(Path(vocabulary).expanduser())
        try:
            merges = "\n".join(_read(path))
            super().__init__(merges, clean=clean)
        except UserError:
            raise
        except Exception as error:  # the library raises plain Exception
            said = " ".join(str(error).split())[:200]
            raise UserError(f"text.tokenizer.vocabulary: {path} cannot be read: {said}") from error


def _installed() -> Path:
    package = find_spec("open_clip")
    folders = list(package.submodule_search_locations or ()) if package is not None else []
    for folder in folders:
        if (path := Path(folder) / _VOCABULARY).is_file():
            return path
    raise UserError(
        f"text.tokenizer.vocabulary: CLIP's is not on this machine; give {_VOCABULARY} or a folder "
        "of a CLIP model (merges.txt or tokenizer.json), or install open_clip_torch, which has it"
    )


def _found(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"text.tokenizer.vocabulary: no file or folder {path}")
    names = (_VOCABULARY, "merges.txt", "tokenizer.json")
    for name in names:
        if (path / name).is_file():
            return path / name
    raise UserError(f"text.tokenizer.vocabulary: {path} holds none of {', '.join(names)}")


def _read(path: Path) -> Iterator[str]:
    """Yield the merges of a file; of another model's file, raise."""
    if path.suffix == ".json":
        model: Any = json.loads(path.read_text(encoding="utf-8")).get("model", {})
        if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
            raise UserError(
                f"text.tokenizer.vocabulary: {path} is not of CLIP's kind (byte pairs that end in "
                "</w>); take mmlight.text.json_tokenizer.HfTokenizer"
            )
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        vocabulary = model["vocab"]
    else:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode().split("\n")
        if len(lines[0].split()) == 2 and not lines[0].startswith(('"', "#")):
            raise UserError(f"text.tokenizer.vocabulary: {path} lacks the first line, its version")
        merges = [line.rstrip("\r") for line in lines[1:] if line.strip()]
        beside = path.with_name("vocab.json")
        vocabulary = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    merges = merges[:_NUM_MERGES]
    for number, merge in enumerate(merges, start=512):
        if vocabulary.get("".join(_pair(merge)), number) != number:
            raise UserError(
                f"text.tokenizer.vocabulary: ids of {path} do not follow its merges as CLIP's do; "
                "take mmlight.text.json_tokenizer.HfTokenizer"
            )
    yield from merges


def _pair(line: str) -> tuple[str, str]:
    first, second = line.split(" ")
    return first, second


def _byte_tokens() -> list[str]:
    """Return the character that stands for each byte, in the order of CLIP's ids."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = len([byte for byte in range(256) if byte not in shown])
    return [chr(code) for code in [*shown, *range(256, 256 + hidden)]]
