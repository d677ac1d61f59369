"""Ten thousand captions through open_clip's own tokenizers, a fifth of them nasty."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from hf_folders import KINDS, write_folder
from nasty_captions import captions, nasty_captions

from mmlight.text.clip_tokenizer import ClipTokenizer
from mmlight.text.json_tokenizer import HfTokenizer

pytestmark = pytest.mark.slow
TEXTS = [*captions(8000), *nasty_captions(2000)]
# What open_clip calls the ways of cleaning.
NAMES = {"lower": "clip", "whitespace": "mend", "canonicalize": "canonicalize"}


@pytest.fixture(scope="module")
def theirs():
    file = Path(os.environ.get("OPEN_CLIP", "")) / "open_clip" / "tokenizer.py"
    if not file.is_file():
        pytest.skip("OPEN_CLIP names no folder with open_clip (make slow does)")
    found = importlib.util.spec_from_file_location("open_clip_tokenizer", file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def rows(tokenizer, length):
    """Return the ids, padded to a length with the tokenizer's own padding."""
    ids_NL = tokenizer.encode_batch(TEXTS, max_tokens=length).ids_NL
    return np.pad(ids_NL, ((0, 0), (0, length - ids_NL.shape[1])), constant_values=tokenizer.pad_id)


@pytest.mark.parametrize("clean", NAMES)
def test_clips_tokens_are_those_of_open_clip(clean, theirs):
    ours = ClipTokenizer(str(Path(theirs.__file__).parent), clean=NAMES[clean])
    reference = theirs.SimpleTokenizer(clean=clean)
    equal_N = (rows(ours, 77) == reference(TEXTS).numpy()).all(1)
    assert equal_N.sum() == 10_000, TEXTS[int(np.argmin(equal_N))]
    for text, ids in zip(TEXTS, ours.encode(TEXTS, max_tokens=100_000), strict=True):
        assert ids[1:-1] == reference.encode(text), text


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_transformers_tokenizers_are_those_of_open_clip(kind, theirs, tmp_path):
    write_folder(kind, tmp_path)
    length, clean = KINDS[kind]
    named = {ours: name for name, ours in NAMES.items()}[clean]
    reference = theirs.HFTokenizer(str(tmp_path), context_length=length, clean=named)
    ours = HfTokenizer(str(tmp_path), clean=clean)
    equal_N = (rows(ours, length) == reference(TEXTS).numpy()).all(1)
    assert equal_N.sum() == 10_000, TEXTS[int(np.argmin(equal_N))]
