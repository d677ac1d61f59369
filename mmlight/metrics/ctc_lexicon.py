"""Beam search over the words of a lexicon, with a word n-gram model: flashlight-text.

Shapes: B clips, L frames, K classes (the symbols and the blank, which is the last).
"""

import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmlight.errors import UserError
from mmlight.metrics.ctc_decode import CtcDecoder, Decoded
from mmlight.terminal import one_line
from mmlight.text_file import decode_text, split_lines

_SPACE = " "
_NO_WORDS = ("<s>", "</s>", "<unk>", "<UNK>")
# The package has no wheel for later versions, and its build asks the network for sources.
_REMEDY = (
    "pip install 'mmlight[asr]'"
    if sys.version_info < (3, 13)
    else "it has no release for this version of Python; take 3.11 or 3.12, or another decoder "
    "(mmlight.metrics.ctc_decode.BeamDecoder)"
)


class LexiconDecoder(CtcDecoder):
    """Finds the best sequence of known words: acoustics, plus a language model, plus a bonus.

    The score of a sequence is ``log p(symbols) + lm_weight * log10 p(words) + word_score * number
    of words`` (as in wav2letter, arXiv 1812.07625, section 3.3). Needs single characters as
    symbols, a space among them.

    Args:
        lm: a word n-gram model, an ARPA file (``mmlight ngram``) or KenLM's binary; None takes all
            words of the lexicon as equally likely.
        lexicon: a file with one word per line; None takes the words of the ARPA file.
        beam_width: hypotheses that are kept after each frame.
        beam_threshold: those that score so much less than the best are dropped.
        lm_weight: factor of the language model.
        word_score: bonus for each word; below 0 it favours fewer words.

    Raises:
        UserError: no such file, neither of the two files, or values out of range.
    """

    outside: ClassVar[tuple[str, ...]] = ("lm", "lexicon")  # a checkpoint names no file

    def __init__(
        self,
        *,
        lm: str | None = None,
        lexicon: str | None = None,
        beam_width: int = 50,
        beam_threshold: float = 50.0,
        lm_weight: float = 1.0,
        word_score: float = 0.0,
    ) -> None:
        super().__init__()
        if lm is None and lexicon is None:
            raise UserError("decoder: give LexiconDecoder an lm, a lexicon, or both")
        if lm is None and lm_weight != 1.0:
            raise UserError("decoder.lm_weight has no effect without decoder.lm")
        for key, path in (("lm", lm), ("lexicon", lexicon)):
            if path is not None and not Path(path).is_file():
                raise UserError(f"decoder.{key}: {path}: no such file")
        if beam_width < 1 or not beam_threshold > 0:
            raise UserError(
                f"decoder: beam_width {beam_width} must be 1 or more, and beam_threshold "
                f"{beam_threshold} above 0"
            )
        self.lm, self.lexicon = lm, lexicon
        self.beam_width, self.beam_threshold = beam_width, beam_threshold
        self.lm_weight, self.word_score = lm_weight, word_score
        self._words = _read_words(lm, lexicon)
        self._pieces: list[str] = []
        self._search: _Search | None = None

    def build(self, pieces: Sequence[str]) -> None:
        """Spell the words with the symbols; words that these cannot spell are left out."""
        if _SPACE not in pieces or any(len(piece) > 1 for piece in pieces):
            raise UserError(
                "decoder: LexiconDecoder spells words with characters and a space; give data.text "
                "a tokenizer of characters"
            )
        self._pieces = list(pieces)
        known = set(pieces) - {_SPACE, ""}
        words = [word for word in self._words if set(word) <= known]
        source = self.lexicon or self.lm
        left_out = [word for word in self._words if not set(word) <= known]
        if not words:
            raise UserError(
                f"decoder: no word of {source} can be spelled with the model's characters "
                f"'{''.join(sorted(known))}'; its first is '{self._words[0]}'"
            )
        if left_out:
            warnings.warn(
                f"decoder: {len(left_out)} of {len(self._words)} words of {source} are left out: "
                f"the model lacks their characters (the first is '{one_line(left_out[0])}')",
                stacklevel=2,
            )
        self._words = words
        # At once: a missing package or a damaged file stops a run before it trains.
        self._search = _Search(self)

    def forward(self, log_p_BLK: Tensor, frames_B: Tensor) -> list[Decoded]:
        """Return the best words of each clip, as symbols with single spaces between the words."""
        if self._search is None:
            self._search = _Search(self)
        log_p_BLK = log_p_BLK.detach().float().cpu()
        return [
            self._search.decode(log_p_LK[:frames])
            for log_p_LK, frames in zip(log_p_BLK, frames_B.tolist(), strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # The library's objects cannot be copied; a copy of the task (EMA) makes its own.
        return self.__dict__ | {"_search": None}


class _Search:
    """The library's objects for one set of words."""

    def __init__(self, settings: LexiconDecoder) -> None:
        try:
            from flashlight.lib.text import decoder as flashlight
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import Dictionary
        except ImportError as error:
            raise UserError(f"decoder: LexiconDecoder needs flashlight-text: {_REMEDY}") from error
        pieces, words = settings._pieces, settings._words
        self._number = {piece: number for number, piece in enumerate(pieces)}
        self._space, blank = self._number[_SPACE], len(pieces)
        self._words = words
        dictionary = Dictionary([*words, "<unk>"])
        unknown = dictionary.get_index("<unk>")
        dictionary.set_default_index(unknown)
        # Kept: the decoder holds no reference of its own to the model (pytorch/audio issue 3218).
        self._lm: Any = flashlight.ZeroLM()
        if settings.lm:
            try:
                with _silent_stderr():
                    self._lm = KenLM(settings.lm, dictionary)
            except RuntimeError as error:
                said = " ".join(str(error).split()).rpartition(" threw ")[2]
                raise UserError(
                    f"decoder.lm: {settings.lm} cannot be read as a language model ({said})"
                ) from error
        trie = flashlight.Trie(len(pieces) + 1, self._space)
        start = self._lm.start(False)
        for word in words:
            index = dictionary.get_index(word)
            _, score = self._lm.score(start, index)
            trie.insert([self._number[c] for c in word] + [self._space], index, score)
        trie.smear(flashlight.SmearingMode.MAX)
        options = flashlight.LexiconDecoderOptions(
            beam_size=settings.beam_width,
            beam_size_token=len(pieces) + 1,
            beam_threshold=settings.beam_threshold,
            lm_weight=settings.lm_weight if settings.lm else 0.0,
            word_score=settings.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=flashlight.CriterionType.CTC,
        )
        self._decoder = flashlight.LexiconDecoder(
            options, trie, self._lm, self._space, blank, unknown, [], False
        )

    def decode(self, log_p_LK: Tensor) -> Decoded:
        # Each word ends with a space. The last one has none, so one certain frame of it is added.
        end_1K = log_p_LK.new_full((1, log_p_LK.shape[1]), -1e4)
        end_1K[0, self._space] = 0.0
        emissions = torch.cat([log_p_LK, end_1K]).contiguous()
        results = self._decoder.decode(emissions.data_ptr(), *emissions.shape)
        if not results:
            return Decoded([], -math.inf)
        best = results[0]
        text = _SPACE.join(self._words[index] for index in best.words if index >= 0)
        return Decoded([self._number[c] for c in text], float(best.score))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Swallow what a library in C++ prints: a bar for every model that is read."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _read_words(lm: str | None, lexicon: str | None) -> list[str]:
    """Return the words of the lexicon, or those of the ARPA file, in order, each once."""
    source = lexicon or lm
    assert source is not None
    try:
        lines = split_lines(decode_text(Path(source).read_bytes()))
    except UnicodeDecodeError as error:
        raise UserError(
            f"decoder: {source} is not a text file; KenLM's binary needs decoder.lexicon, a file "
            "with one word per line"
        ) from error
    if lexicon is not None:
        words = [line.strip() for line in lines if line.strip()]
        if bad := next((word for word in words if len(word.split()) > 1), None):
            raise UserError(f"decoder.lexicon: '{bad}' is not one word; write one per line")
    else:
        words = _arpa_words(lines, source)
    words = [word for word in dict.fromkeys(words) if word not in _NO_WORDS]
    if not words:
        raise UserError(f"decoder: {source} holds no words")
    return words


def _arpa_words(lines: list[str], source: str) -> list[str]:
    if "\\1-grams:" not in lines:
        raise UserError(f"decoder.lm: {source} is not an ARPA file: it has no line \\1-grams:")
    after = lines[lines.index("\\1-grams:") + 1 :]
    listed = takewhile(lambda line: not line.startswith("\\"), after)
    return [line.split()[1] for line in listed if line.strip()]
