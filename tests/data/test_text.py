import pytest

from mmlight.data.text import TextSettings, caption_id
from mmlight.errors import UserError
from mmlight.text.clean import clean_caption
from mmlight.text.tokenizer import ByteTokenizer


def test_cleaning():
    raw = "  A &amp;amp; B\n\tcafÃ©  "
    assert clean_caption(raw, "none") == raw
    assert clean_caption(raw, "whitespace") == "A &amp;amp; B cafÃ©"
    assert clean_caption(raw, "clip") == "a & b café"


def test_caption_ids_are_stable_hashes():
    # fixed: checkpoints and logs of other machines hold the same ids
    assert caption_id("a cat") == caption_id("a cat") != caption_id("a dog")
    assert caption_id("a cat") == int.from_bytes(
        bytes.fromhex("67f5dfb40b23dda2"), "little", signed=True
    )
    assert all(-(2**63) <= caption_id(str(n)) < 2**63 for n in range(100))


@pytest.mark.parametrize("settings", [{"max_tokens": 2}, {"clean": "soap"}, {"max_characters": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError, match=r"text\."):
        TextSettings(ByteTokenizer(), **settings)


def test_offsets_exclude_cleaning_that_moves_characters():
    assert TextSettings(ByteTokenizer(), offsets=True).offsets
    with pytest.raises(UserError, match=r"text\.clean: 'whitespace' moves .* clean: none"):
        TextSettings(ByteTokenizer(), offsets=True, clean="whitespace")


def test_a_long_text_is_cut_before_it_is_cleaned():
    settings = TextSettings(ByteTokenizer(), clean="clip", max_characters=8)
    assert settings.prepared("A &amp; B") == "a &"
