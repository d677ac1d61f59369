import pytest
import torch

from mmlight.batch import Text
from mmlight.data.tokenizer_command import save, train
from mmlight.errors import UserError
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.symbols import Symbols
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

TEXTS = ["one two", "Two, one!", "", "ONE"]


@pytest.fixture(params=["char", "byte", "json-char", "json-bpe"])
def tokenizer(request, tmp_path):
    kind = request.param
    if kind == "char":
        return CharTokenizer(" !,enotw")
    if kind == "byte":
        return ByteTokenizer()
    save(
        train(iter(TEXTS), vocab_size=300, kind=kind.removeprefix("json-"), lowercase=True),
        tmp_path / "made",
    )
    return HfTokenizer(str(tmp_path / "made"))


def symbols(tokenizer, max_tokens=40):
    return Symbols(
        {
            "tokenizer": tokenizer.state(),
            "vocab_size": tokenizer.vocab_size,
            "max_tokens": max_tokens,
        }
    )


def as_text(tokenizer, texts, max_tokens=40):
    encoding = tokenizer.encode_batch(texts, max_tokens=max_tokens)
    count = torch.arange(len(texts))
    return Text(
        token_ids_NL=torch.from_numpy(encoding.ids_NL),
        mask_NL=torch.from_numpy(encoding.mask_NL),
        present_N=torch.tensor([bool(text) for text in texts]),
        item_N=count,
        caption_id_N=count,
    )


def test_targets_say_the_text_without_start_end_and_padding(tokenizer):
    known = symbols(tokenizer)
    target = known.transcripts(as_text(tokenizer, TEXTS), list("abcd"))
    assert target.length_B[2] == 0
    for row, text in enumerate(TEXTS):
        numbers = target.symbol_BS[row, : target.length_B[row]].tolist()
        assert known.comparable(known.text(numbers)) == known.comparable(text)
        assert all(0 <= number < known.count for number in numbers)


def test_case_is_folded_as_the_tokenizer_does_it(tokenizer):
    folds = not isinstance(tokenizer, ByteTokenizer)
    assert symbols(tokenizer).comparable("  ONE   Two ") == ("one two" if folds else "ONE Two")


def test_a_transcript_that_may_be_cut_is_refused(tokenizer):
    with pytest.raises(UserError, match="of b fills it"):
        symbols(tokenizer, 6).transcripts(
            as_text(tokenizer, ["o", "one two one two"], max_tokens=6), ["a", "b"]
        )


def test_pieces_are_single_characters_where_tokens_are():
    assert symbols(CharTokenizer("ab ")).pieces() == ["", "", "a", "b", " "]


def test_a_kind_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="kind 'morse' is unknown"):
        Symbols({"tokenizer": {"kind": "morse"}, "vocab_size": 2, "max_tokens": 4})
