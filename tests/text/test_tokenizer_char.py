import pytest

from mmlight.errors import UserError
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import CharTokenizer


def test_characters_are_tokens_and_case_is_folded():
    tokenizer = CharTokenizer("abc ")
    assert tokenizer.vocab_size == 6
    encoding = tokenizer.encode_batch(["A b", "caX"], max_tokens=9)
    assert encoding.ids_NL.tolist() == [[2, 5, 3], [4, 2, 1]]
    assert tokenizer.decode([2, 5, 3, 0]) == "a b"
    assert tokenizer.decode([4, 2, 1]) == "ca\ufffd"
    assert CharTokenizer("Aa", lowercase=False).encode(["Aa"], max_tokens=9) == [[2, 3]]


def test_offsets_name_the_character_of_the_text_as_given():
    tokenizer = CharTokenizer("ix ")
    # The Turkish capital becomes two characters.
    ids, places = tokenizer.encode_with_offsets(["X\u0130x"], max_tokens=9)[0]
    assert ids == [3, 2, 1, 3]
    assert places == [(0, 1), (1, 2), (1, 2), (2, 3)]
    assert tokenizer.encode(["xxxx"], max_tokens=3) == [[3, 3, 3]]


def test_state_rebuilds_the_tokenizer():
    for tokenizer in (CharTokenizer(), CharTokenizer("Zz", lowercase=False)):
        again = tokenizer_from_state(tokenizer.state())
        assert again.state() == tokenizer.state()
        assert again.encode(["Zz it's"], max_tokens=9) == tokenizer.encode(
            ["Zz it's"], max_tokens=9
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "is empty"),
        (("aba",), "holds 'a' twice"),
        (("aB",), "'B' never comes up"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        CharTokenizer(*arguments)
