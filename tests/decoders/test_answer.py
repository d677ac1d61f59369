"""Answers as texts: stops over the borders of tokens, nothing shown that is taken back."""

import pytest
import torch

from mmlight.decoders.answer import Growing, answer, token_prompt
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

BYTES = ByteTokenizer()


def tokens_of(text):
    return BYTES.encode([text], max_tokens=1000)[0][1:-1]


def shown(text, *, stop=(), before=""):
    """Return the pieces that are shown while a text comes token by token."""
    growing = Growing(BYTES, before=tokens_of(before), stop=stop)
    ids = tokens_of(text)
    pieces = []
    for count in range(1, len(ids) + 1):
        pieces.append(growing.more(ids[:count]))
        if growing.is_over(ids[:count]):
            break
    pieces.append(growing.more(ids[:count], is_last=True))
    assert "".join(pieces) == growing.ended(ids[:count])
    return [piece for piece in pieces if piece]


def test_no_part_of_a_stop_is_shown_and_what_was_none_comes_late():
    assert shown("ab\n\nQ: c", stop=["\n\nQ"]) == ["a", "b"]
    assert shown("ab\n\nA", stop=["\n\nQ"]) == ["a", "b", "\n\nA"]
    assert shown("aab aac", stop=["aac", "xyz"]) == ["aab", " "]
    assert "".join(shown("never", stop=["ever and"])) == "never"


def test_the_first_of_several_stops_counts():
    assert "".join(shown("one. two! three", stop=["!", "."])) == "one"


def test_characters_of_several_bytes_are_shown_whole():
    assert shown("é€🙂!") == ["é", "€", "🙂", "!"]
    half = tokens_of("a🙂")[:-2]
    growing = Growing(BYTES, before=(), stop=())
    assert growing.more(half, is_last=True) == "a" == growing.ended(half)


def test_what_stands_in_front_is_no_part_of_the_answer():
    assert "".join(shown("b", before="ä" * 9)) == "b"


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = TransformerDecoder(vocab_size=28, dim=16, num_layers=2, num_heads=2, max_tokens=24)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.double().eval()


LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz", lowercase=False)
SAID = ["abc", "x", "hello"]


def texts(decoder, *said, pieces=None, **settings):
    rows = LETTERS.encode(list(said), max_tokens=99)
    prompt = token_prompt(decoder, rows, device=torch.device("cpu"))

    def on_text(row, text):
        pieces.setdefault(row, []).append(text)

    listen = None if pieces is None else on_text
    return answer(decoder, LETTERS, prompt, Sampling(**settings), before=rows, on_text=listen)


def test_a_stop_ends_an_answer_before_it_greedily_drawn_and_by_beams(decoder):
    for settings in ({}, {"temperature": 1.5, "seed": 4}, {"beams": 3}):
        plain = texts(decoder, *SAID, max_new_tokens=12, **settings)
        stop = plain[0].text[4:6]  # two tokens, where each token is a character
        pieces = {}
        found = texts(decoder, *SAID, max_new_tokens=12, stop=[stop], pieces=pieces, **settings)
        assert all(stop not in one.text for one in found)
        if "beams" not in settings:
            assert found[0].text == plain[0].text[: plain[0].text.index(stop)]
            assert found[0].is_ended and found[0].num_tokens < 12
        for row, one in enumerate(found):
            assert "".join(pieces.get(row, [])) == one.text


def test_what_goes_beyond_the_positions_goes_on_behind_its_later_half(decoder):
    long = texts(decoder, *SAID, max_new_tokens=60)
    assert [one.num_tokens for one in long] == [60] * 3
    assert [texts(decoder, one, max_new_tokens=60)[0].text for one in SAID] == [
        one.text for one in long
    ]
    # 24 positions: of 25 tokens, the last 12 are read again.
    for said, one in zip(SAID, long, strict=True):
        whole = said + one.text
        assert texts(decoder, whole[13:25], max_new_tokens=5)[0].text == whole[25:30]
    assert texts(decoder, "a" * 40, max_new_tokens=5) == texts(decoder, "a" * 40, max_new_tokens=5)
