"""Tokenizers in the formats of SigLIP's, SigLIP2's and RoBERTa's."""

import json

import pytest
from hf_folders import KINDS, write_folder
from nasty_captions import captions, nasty_captions
from transformers import AutoTokenizer

from mmlight.errors import UserError
from mmlight.text.clean import clean_caption
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.saved_tokenizer import tokenizer_from_state

TEXTS = [*captions(100), *nasty_captions(300)]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    path = tmp_path_factory.mktemp(kind)
    write_folder(kind, path)
    return path


def test_tokens_are_those_of_transformers(kind, folder):
    length, clean = KINDS[kind]
    expected = AutoTokenizer.from_pretrained(str(folder))(
        [clean_caption(text, clean) for text in TEXTS],
        max_length=length,
        padding="longest",
        truncation=True,
        return_tensors="np",
    )
    ours = HfTokenizer(str(folder), clean=clean)
    for tokenizer in (ours, tokenizer_from_state(json.loads(json.dumps(ours.state())))):
        encoding = tokenizer.encode_batch(TEXTS, max_tokens=length)
        assert (encoding.ids_NL == expected.input_ids).all()
        assert (encoding.mask_NL == expected.attention_mask.astype(bool)).all()


def test_offsets_count_characters_of_the_text_before_it_was_cleaned(kind, folder):
    tokenizer = HfTokenizer(str(folder), clean=KINDS[kind][1])
    text = "Two  dogs &amp; a_cat"
    encoding = tokenizer.encode_batch([text], max_tokens=40, offsets=True)
    assert encoding.ids_NL.tolist() == tokenizer.encode([text], max_tokens=40)
    pieces = [text[start:end] for start, end in encoding.offsets_NL2[0] if end > start]
    said = "".join(pieces)
    assert said.startswith("Twodogs") and said.endswith("cat")


def test_an_unknown_way_of_cleaning_is_refused(folder):
    with pytest.raises(UserError, match="clean must be one of none, whitespace, mend, clip, "):
        HfTokenizer(str(folder), clean="soap")
    with pytest.raises(UserError, match="clean must be one of"):
        tokenizer_from_state({**HfTokenizer(str(folder)).state(), "clean": "soap"})
