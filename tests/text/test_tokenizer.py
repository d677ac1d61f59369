import json
import pickle

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mmlight.errors import UserError
from mmlight.text.json_tokenizer import HfTokenizer, JsonTokenizer, tokenizer_config
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import ByteTokenizer

WORDS = ["<pad>", "<unk>", "<start>", "<end>", "a", "cat", "dog", "sat"]


def backend(*, ends: bool = True) -> tokenizers.Tokenizer:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(WORDS[:4])
    if ends:
        made.post_processor = processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
        )
    return made


@pytest.fixture
def folder(tmp_path):
    """As transformers saves it."""
    PreTrainedTokenizerFast(
        tokenizer_object=backend(),
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    ).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_bytes_round_trip_and_keep_the_end_token_when_cut():
    tokenizer = ByteTokenizer()
    encoding = tokenizer.encode_batch(["añ", "hello"], max_tokens=6)
    assert encoding.ids_NL.dtype == np.int64 and encoding.mask_NL.dtype == np.bool_
    assert encoding.ids_NL.shape == (2, 6)
    assert encoding.ids_NL[0].tolist() == [1, 97 + 4, 0xC3 + 4, 0xB1 + 4, 2, 0]
    assert encoding.mask_NL[0].tolist() == [True] * 5 + [False]
    assert encoding.ids_NL[1].tolist() == [1, *(byte + 4 for byte in b"hell"), 2]
    assert tokenizer.decode(encoding.ids_NL[0]) == "añ"
    assert int(encoding.ids_NL.max()) < tokenizer.vocab_size


@pytest.mark.parametrize("which", ["folder", "file"])
def test_hf_tokenizer_from_a_folder_or_a_lone_file(folder, which):
    path = folder if which == "folder" else folder / "tokenizer.json"
    tokenizer = HfTokenizer(str(path))
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id, tokenizer.unk_id) == (
        0,
        2,
        3,
        1,
    )
    assert tokenizer.mask_id is None
    assert tokenizer.vocab_size == len(WORDS)
    encoding = tokenizer.encode_batch(["a cat", "a dog sat zzz"], max_tokens=77)
    assert encoding.ids_NL.tolist() == [[2, 4, 5, 3, 0, 0], [2, 4, 6, 7, 1, 3]]
    assert encoding.mask_NL.sum(1).tolist() == [4, 6]
    assert tokenizer.decode([2, 4, 5, 3, 0]) == "a cat"


def test_cut_texts_keep_their_end_token(folder):
    tokenizer = HfTokenizer(str(folder))
    texts = ["a cat sat a dog sat", "a"]
    assert tokenizer.encode(texts, max_tokens=4) == [[2, 4, 5, 3], [2, 4, 3]]
    # another length on the same tokenizer
    assert tokenizer.encode(texts, max_tokens=3) == [[2, 4, 3], [2, 4, 3]]
    assert len(tokenizer.encode(texts, max_tokens=77)[0]) == 8


def test_padding_and_cutting_that_a_file_asks_for_are_ignored(tmp_path):
    made = backend()
    made.enable_padding(length=50)
    made.enable_truncation(2)
    tokenizer = JsonTokenizer(made.to_str(), pad_id=0)
    assert tokenizer.encode_batch(["a cat sat"], max_tokens=77).ids_NL.shape == (1, 5)


@pytest.mark.parametrize("kind", ["byte", "json"])
def test_state_is_plain_and_rebuilds_the_tokenizer(folder, kind):
    tokenizer = ByteTokenizer() if kind == "byte" else HfTokenizer(str(folder))
    texts = ["a cat sat", "dog ñ"]
    state = json.loads(json.dumps(tokenizer.state()))
    for again in (tokenizer_from_state(state), pickle.loads(pickle.dumps(tokenizer))):
        assert again.encode(texts, max_tokens=5) == tokenizer.encode(texts, max_tokens=5)
        for name in ("pad_id", "start_id", "end_id", "unk_id", "mask_id", "vocab_size"):
            assert getattr(again, name) == getattr(tokenizer, name)
        assert again.state() == tokenizer.state()


def test_a_state_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="'morse' is unknown"):
        tokenizer_from_state({"kind": "morse"})


def test_a_text_without_tokens_has_one_masked_in_padding():
    tokenizer = JsonTokenizer(backend(ends=False).to_str(), pad_id=0)
    encoding = tokenizer.encode_batch(["", "a cat"], max_tokens=8)
    assert encoding.ids_NL.tolist() == [[0, 0], [4, 5]]
    assert encoding.mask_NL.tolist() == [[True, False], [True, True]]


def test_without_a_padding_token_the_end_token_pads(tmp_path):
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    made.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HfTokenizer(str(tmp_path / "tokenizer.json"))
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id) == (1, 0, 1)


def test_the_written_config_loads_in_transformers(folder, tmp_path):
    tokenizer = HfTokenizer(str(folder / "tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text(str(tokenizer.state()["text"]))
    (tmp_path / "tokenizer_config.json").write_text(tokenizer_config(tokenizer))
    again = HfTokenizer(str(tmp_path))
    assert (again.pad_id, again.start_id, again.end_id, again.unk_id) == (0, 2, 3, 1)


def test_what_is_no_tokenizer_is_a_one_line_error(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.md").write_text("hello")
    for path in ("empty", "tokenizer.json", "other"):
        with pytest.raises(UserError, match="tokenizer") as caught:
            HfTokenizer(str(tmp_path / path))
        assert "\n" not in str(caught.value)


def test_offsets_of_bytes_are_those_of_their_character():
    tokenizer = ByteTokenizer()
    encoding = tokenizer.encode_batch(["añ b", "hello"], max_tokens=6, offsets=True)
    assert (
        encoding.ids_NL.tolist()
        == tokenizer.encode_batch(["añ b", "hello"], max_tokens=6).ids_NL.tolist()
    )
    # the space stands for no character
    assert encoding.offsets_NL2[0].tolist() == [[0, 0], [0, 1], [1, 2], [1, 2], [3, 3], [0, 0]]
    assert encoding.offsets_NL2[1].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [0, 0]]
    assert tokenizer.encode_batch(["a"], max_tokens=6).offsets_NL2 is None


def test_offsets_count_characters_of_the_text_as_given():
    """Whatever the tokenizer folds, strips or replaces before it cuts."""
    made = tokenizers.Tokenizer(
        models.WordPiece({"[UNK]": 0, "cafe": 1, "##s": 2, "\u00b4": 3, "!": 4}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = JsonTokenizer(made.to_str(), pad_id=0, unk_id=0)
    text = "  Cafe\u0301s \u200b \u00b4 😀!"
    (row,) = tokenizer.encode_batch([text], max_tokens=20, offsets=True).offsets_NL2
    assert [text[start:end] for start, end in row] == ["Cafe", "s", "\u00b4", "😀", "!"]


def test_offsets_of_byte_level_tokens_leave_out_the_space_before_a_word():
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.train_from_iterator(
        ["new york", "new"],
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = JsonTokenizer(made.to_str(), pad_id=0)
    text = "new york 東"
    encoding = tokenizer.encode_batch([text, ""], max_tokens=20, offsets=True)
    row = encoding.offsets_NL2[0]
    assert [text[start:end] for start, end in row[:2]] == ["new", "york"]
    assert {text[start:end] for start, end in row[3:]} == {"東"}  # three bytes of one character
    assert not encoding.offsets_NL2[1].any()
