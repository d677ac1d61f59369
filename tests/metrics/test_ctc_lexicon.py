"""Decoding with words and a language model, through flashlight-text."""

import copy
import math
import sys

import pytest
import torch

from mmlight.errors import UserError
from mmlight.metrics.ctc_lexicon import LexiconDecoder

PIECES = ["", "", " ", "a", "b", "c"]
BLANK = len(PIECES)
# "ab" is followed by "c", "cb" ends the sentence.
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.5
-0.6\t</s>
-0.6\tab\t-0.5
-0.6\tcb\t-0.5
-0.6\tc\t-0.5

\\2-grams:
-0.1\t<s> ab
-0.1\tab c
-0.1\tcb </s>
-0.1\tc </s>

\\end\\
"""


@pytest.fixture
def lm(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return str(path)


def emissions(*frames):
    """Log-probabilities of frames: each maps characters ("_" is the blank) to probabilities."""
    rows = []
    for frame in frames:
        rest = (1 - sum(frame.values())) / (BLANK + 1 - len(frame))
        row = [rest] * (BLANK + 1)
        for character, p in frame.items():
            row[BLANK if character == "_" else PIECES.index(character)] = p
        rows.append(row)
    return torch.tensor([rows]).log()


def built(**settings):
    decoder = LexiconDecoder(**settings)
    decoder.build(PIECES)
    return decoder


def heard(decoder, log_p_1LK):
    (found,) = decoder(log_p_1LK, torch.tensor([log_p_1LK.shape[1]]))
    return "".join(PIECES[symbol] for symbol in found.symbols)


UNSURE = emissions({"a": 0.45, "c": 0.5}, {"b": 0.9}, {" ": 0.9}, {"c": 0.9}, {"_": 0.9})


def test_the_language_model_decides_between_words_that_sound_alike(lm):
    assert heard(built(lm=lm, lm_weight=0.0), UNSURE) == "cb c"
    assert heard(built(lm=lm, lm_weight=1.0), UNSURE) == "ab c"


def test_the_score_is_acoustics_plus_language_model_plus_words(lm):
    certain = emissions({"a": 0.99}, {"b": 0.99}, {" ": 0.99}, {"c": 0.99})
    decoder = built(lm=lm, lm_weight=2.0, word_score=0.5)
    (found,) = decoder(certain, torch.tensor([4]))
    # <s> ab, ab c, c </s>: each -0.1. Other alignments of the same add next to nothing.
    expected = 4 * math.log(0.99) + 2.0 * -0.3 + 2 * 0.5
    assert found.log_probability == pytest.approx(expected, abs=1e-2)


def test_only_words_of_the_lexicon_are_heard(lm, tmp_path):
    (tmp_path / "words.txt").write_text("ab\nb\n")
    spelled = emissions({"a": 0.9}, {"c": 0.6, "b": 0.3}, {"_": 0.9})
    assert heard(built(lexicon=str(tmp_path / "words.txt")), spelled) == "ab"
    both = built(lm=lm, lexicon=str(tmp_path / "words.txt"))
    assert heard(both, spelled) == "ab"


def test_spaces_at_the_ends_and_doubled_are_no_words(lm):
    spaced = emissions(
        {" ": 0.9},
        {"a": 0.9},
        {"b": 0.9},
        {" ": 0.9},
        {"_": 0.9},
        {" ": 0.9},
        {"c": 0.9},
        {" ": 0.9},
    )
    assert heard(built(lm=lm), spaced) == "ab c"


def test_lengths_cut_padding_off_and_silence_is_nothing(lm):
    decoder = built(lm=lm)
    log_p = UNSURE.expand(2, -1, -1)
    found = decoder(log_p, torch.tensor([5, 2]))
    # Of two frames nothing follows the word, and "cb" is what ends a sentence.
    assert ["".join(PIECES[s] for s in f.symbols) for f in found] == ["ab c", "cb"]
    assert heard(decoder, emissions(*[{"_": 0.999}] * 4)) == ""


def test_a_copy_decodes_the_same(lm):
    decoder = built(lm=lm)
    expected = heard(decoder, UNSURE)
    assert heard(copy.deepcopy(decoder), UNSURE) == expected


def test_words_that_cannot_be_spelled_are_told(lm, tmp_path):
    (tmp_path / "words.txt").write_text("ab\nxyz\n")
    with pytest.warns(UserWarning, match="1 of 2 words .* 'xyz'"):
        built(lexicon=str(tmp_path / "words.txt"))
    (tmp_path / "words.txt").write_text("AB\n")
    with pytest.raises(UserError, match=r"no word of .* its first is 'AB'"):
        built(lexicon=str(tmp_path / "words.txt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give LexiconDecoder an lm, a lexicon"),
        ({"lm": "nowhere.arpa"}, "no such file"),
        ({"lexicon": "words.txt", "lm_weight": 2.0}, "lm_weight has no effect"),
        ({"lm": "words.txt"}, "is not an ARPA file"),
        ({"lexicon": "two.txt"}, "'a b' is not one word"),
        ({"lm": "binary"}, "needs decoder.lexicon"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("ab\n")
    (tmp_path / "two.txt").write_text("a b\n")
    (tmp_path / "binary").write_bytes(b"\xff\x00\x80mmap lm")
    with pytest.raises(UserError, match=message):
        LexiconDecoder(**settings)


def test_a_damaged_language_model_is_one_line_and_reading_one_is_quiet(lm, tmp_path, capfd):
    built(lm=lm)(UNSURE, torch.tensor([5]))
    assert capfd.readouterr().err == ""
    path = tmp_path / "damaged.arpa"
    path.write_text(ARPA.replace("-0.1\tab c\n", ""))
    with pytest.raises(UserError, match=r"damaged\.arpa cannot be read as a language") as error:
        built(lm=str(path))
    assert "\n" not in str(error.value)


def test_pieces_of_several_characters_are_refused(lm):
    with pytest.raises(UserError, match="a tokenizer of characters"):
        LexiconDecoder(lm=lm).build(["", " ", "ab", "c"])


def test_a_missing_package_is_one_line_with_what_would_work(tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text("ab\n")
    decoder = LexiconDecoder(lexicon=str(tmp_path / "words.txt"))
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    monkeypatch.setitem(sys.modules, "flashlight", None)
    remedy = "pip install" if sys.version_info < (3, 13) else r"3\.11 or 3\.12.*BeamDecoder"
    with pytest.raises(UserError, match=rf"needs flashlight-text: .*{remedy}") as error:
        decoder.build(PIECES)
    assert "\n" not in str(error.value)
