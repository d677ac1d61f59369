import gzip
import json
import math
import pickle
from itertools import groupby, pairwise

import numpy as np
import pytest
import regex
from nasty_captions import captions, nasty_captions
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from mmlight.errors import UserError
from mmlight.text import clip_tokenizer
from mmlight.text.clean import clean_caption
from mmlight.text.clip_tokenizer import ClipTokenizer
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.saved_tokenizer import tokenizer_from_state

BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES += [byte for byte in range(256) if byte not in BYTES]
SHOWN = {byte: chr(byte if n < 188 else 256 + n - 188) for n, byte in enumerate(BYTES)}


def learned_merges() -> list[str]:
    words = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False)
    words.train_from_iterator(map(str.lower, captions(500)), trainer)
    merges = json.loads(words.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


MERGES = learned_merges()
RANK = {merge: n for n, merge in enumerate(MERGES)}
TOKENS = [*SHOWN.values(), *(c + "</w>" for c in SHOWN.values())]
TOKENS += [merge.replace(" ", "") for merge in MERGES]
ID_OF = {token: n for n, token in enumerate([*TOKENS, "<start_of_text>", "<end_of_text>"])}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    path.write_bytes(gzip.compress("\n".join(['"bpe" v1', *MERGES, ""]).encode()))
    return path


def slowly(text: str) -> list[int]:
    """Return the ids of a text, pair by pair, as the paper's code finds them."""
    ids = []
    pattern = (
        r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    for word in regex.findall(pattern, clean_caption(text, "clip"), flags=regex.IGNORECASE):
        if word in ID_OF and word.endswith("_of_text>"):
            ids.append(ID_OF[word])
            continue
        parts = [SHOWN[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            ranks = [RANK.get(f"{a} {b}", math.inf) for a, b in pairwise(parts)]
            if ranks[at := int(np.argmin(ranks))] == math.inf:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ID_OF[part] for part in parts]
    return ids


def test_tokens_are_those_that_merging_pair_by_pair_finds(file):
    tokenizer = ClipTokenizer(str(file))
    texts = [text[:400] for text in [*captions(40), *nasty_captions(200)]]
    found = tokenizer.encode(texts, max_tokens=100_000)
    start, end = ID_OF["<start_of_text>"], ID_OF["<end_of_text>"]
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id) == (start, end, 0)
    assert tokenizer.vocab_size == end + 1
    for text, ids in zip(texts, found, strict=True):
        assert ids == [start, *slowly(text), end], repr(text)


def test_a_long_text_is_cut_and_its_last_token_is_the_end(file):
    tokenizer = ClipTokenizer(str(file))
    encoding = tokenizer.encode_batch(["one two " * 50, "cat"], max_tokens=77)
    assert encoding.ids_NL.shape == (2, 77)
    assert encoding.ids_NL[0, [0, -1]].tolist() == [tokenizer.start_id, tokenizer.end_id]
    assert encoding.ids_NL[1, encoding.mask_NL[1].sum() :].max() == 0


@pytest.mark.parametrize("kind", ["folder", "merges", "json"])
def test_the_vocabulary_of_a_transformers_folder_is_the_same(kind, file, tmp_path):
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in ID_OF.items()}
    folder = tmp_path / "clip"
    if kind == "json":
        CLIPTokenizer(
            vocab=vocabulary, merges=[tuple(merge.split()) for merge in MERGES]
        ).save_pretrained(folder)
    else:
        folder.mkdir()
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]), encoding="utf-8")
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    given = folder / "merges.txt" if kind == "merges" else folder
    assert ClipTokenizer(str(given)).state() == ClipTokenizer(str(file)).state()


def test_transformers_own_tokenizer_of_clip_is_read_as_it_is(tmp_path):
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    theirs = CLIPTokenizer(
        vocab={names.get(token, token): number for token, number in ID_OF.items()},
        merges=[tuple(merge.split()) for merge in MERGES],
    )
    theirs.save_pretrained(tmp_path / "clip")
    texts = [*captions(100), *nasty_captions(300)]
    ours = HfTokenizer(str(tmp_path / "clip")).encode(texts, max_tokens=77)
    assert ours == theirs(texts, max_length=77, truncation=True).input_ids


def test_the_state_rebuilds_it_without_a_file(file):
    tokenizer = ClipTokenizer(str(file), clean="canonicalize")
    texts = [*captions(20), *nasty_captions(120)]
    expected = tokenizer.encode(texts, max_tokens=40)
    state = json.loads(json.dumps(tokenizer.state()))
    for again in (tokenizer_from_state(state), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode(texts, max_tokens=40) == expected
    assert ClipTokenizer(str(file)).encode(texts, max_tokens=40) != expected


def test_offsets_count_characters_of_the_text_before_it_was_cleaned(file):
    tokenizer = ClipTokenizer(str(file))
    text = "\x1b[0mTwo  CATS &amp;amp; a cafÃ©\u00a0house's 👍🏽 Straße &lt;b&gt;"
    encoding = tokenizer.encode_batch([text], max_tokens=77, offsets=True)
    assert encoding.ids_NL.tolist() == tokenizer.encode([text], max_tokens=77)
    pieces = [text[start:end] for start, end in encoding.offsets_NL2[0]]
    assert pieces[0] == pieces[-1] == ""
    assert {"&amp;amp;", "&lt;", "&gt;"} <= set(pieces)
    # The bytes of one sign share its place.
    once = "".join(piece for piece, _ in groupby(pieces))
    assert once == "TwoCATS&amp;amp;acafÃ©house's👍🏽Straße&lt;b&gt;"
    for nasty in nasty_captions(150):
        ((ids, places),) = tokenizer.encode_with_offsets([nasty], max_tokens=77)
        assert [ids] == tokenizer.encode([nasty], max_tokens=77) and len(ids) == len(places)
        assert all(0 <= start <= end <= len(nasty) for start, end in places)


def test_decoding_gives_the_words_back(file):
    tokenizer = ClipTokenizer(str(file))
    (ids,) = tokenizer.encode(["A  Photo of cafés!"], max_tokens=77)
    assert tokenizer.decode([*ids, 0, 0]) == "a photo of cafés !"


def test_the_file_of_an_installed_open_clip_is_found_without_loading_it(
    file, tmp_path, monkeypatch
):
    monkeypatch.setattr(clip_tokenizer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not on this machine; give bpe_simple_vocab.* install"):
        ClipTokenizer()
    monkeypatch.undo()
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemError('loaded')")
    file.rename(package / file.name)
    monkeypatch.syspath_prepend(package.parent)
    assert ClipTokenizer().vocab_size == len(ID_OF)


def test_what_is_no_vocabulary_of_clip_is_refused_in_a_line(file, tmp_path):
    def refused(path, match):
        with pytest.raises(UserError, match=match) as caught:
            ClipTokenizer(str(path))
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", "no file or folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds none of bpe_simple.*, merges.txt, tokenizer.json")
    file.write_bytes(b"no gzip")
    refused(file, "cannot be read")
    file.write_bytes(gzip.compress("\n".join(MERGES).encode()))
    refused(file, "lacks the first line")
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    refused(tmp_path / "tokenizer.json", "not of CLIP's kind")
    (tmp_path / "merges.txt").write_text("\n".join(["#version", *MERGES]), encoding="utf-8")
    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(json.dumps({MERGES[0].replace(" ", ""): 3}))
    refused(tmp_path / "merges.txt", "do not follow its merges")
    vocabulary.unlink()
    with pytest.raises(UserError, match="clean must be one of none, whitespace, mend, clip"):
        ClipTokenizer(str(tmp_path / "merges.txt"), clean="soap")
