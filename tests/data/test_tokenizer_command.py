import json
import re

import pytest
from shard_files import write_tar

from mmlight.data.tokenizer_command import KINDS, main
from mmlight.errors import UserError
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.saved_tokenizer import tokenizer_from_state

CAPTIONS = [f"a {c} {s}" for c in ("red", "blue", "green") for s in ("circle", "star", "square")]


@pytest.fixture
def shards(tmp_path):
    members = []
    for number, caption in enumerate(CAPTIONS * 3):
        members.append((f"{number:03d}.txt", caption.encode()))
        captions = [f"Caption {number}", caption]
        members.append((f"{number:03d}.json", json.dumps({"captions": captions}).encode()))
    members.append(("broken.txt", b"\xff\xfe not UTF-8"))
    members.append(("broken.json", b"[" * 100_000))
    return str(write_tar(tmp_path / "shards/0.tar", members))


def train(shards, out, *options):
    return main(["train", "--shards", shards, "--out", str(out), *options])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_transformers_the_same_tokens(shards, tmp_path, kind):
    from transformers import AutoTokenizer

    assert train(shards, tmp_path / "tokenizer", "--kind", kind, "--vocab-size", "300") == 0
    ours = HfTokenizer(str(tmp_path / "tokenizer"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = ours.encode(CAPTIONS, max_tokens=77)
    assert ids == theirs(CAPTIONS)["input_ids"]
    if kind != "clean":
        assert all(row[0] == ours.start_id and row[-1] == ours.end_id for row in ids)
    assert ours.unk_id not in {i for row in ids for i in row}
    assert max(max(row) for row in ids) < ours.vocab_size <= 300
    assert theirs.pad_token_id == ours.pad_id


def test_clean_cuts_as_the_code_of_kim(shards, tmp_path):
    """Against regular expressions of Python, one after another, on texts that need each."""
    texts = [
        "Didn't she say (twice!) that they've, we're, I'd, you'll \u2014 O'Neill's 3.5% ?",
        "What`s the U.S.\tname ''quoted''\n?",
        "  \u00fcber & co. ",
    ]
    shards = [(f"{n}.txt", text.encode()) for n, text in enumerate(texts)]
    write_tar(tmp_path / "texts.tar", shards)
    train(str(tmp_path / "texts.tar"), tmp_path / "clean", "--kind", "clean")
    tokenizer = HfTokenizer(str(tmp_path / "clean"))

    def clean(text):
        text = re.sub(r"[^A-Za-z0-9(),!?'`]", " ", text)
        for ending in ("'s", "'ve", "n't", "'re", "'d", "'ll"):
            text = re.sub(ending, f" {ending}", text)
        return re.sub(r"([,!()?])", r" \1 ", text).split()

    for text, ids in zip(texts, tokenizer.encode(texts, max_tokens=99), strict=True):
        assert [tokenizer.decode([i]) for i in ids] == clean(text)


def test_shards_without_a_text_that_can_be_read_are_refused(tmp_path):
    path = write_tar(tmp_path / "0.tar", [("0.txt", b"Gr\xf6\xdfe")])
    with pytest.raises(UserError, match="no text can be read"):
        train(str(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bpe_and_char_keep_every_character(shards, tmp_path):
    for kind in ("bpe", "char"):
        train(shards, tmp_path / kind, "--kind", kind, "--vocab-size", "300")
        tokenizer = HfTokenizer(str(tmp_path / kind))
        ids = tokenizer.encode(CAPTIONS, max_tokens=77)
        assert [tokenizer.decode(row).strip() for row in ids] == CAPTIONS, kind


def test_bpe_has_tokens_for_text_it_never_saw(shards, tmp_path):
    train(shards, tmp_path / "tokenizer", "--vocab-size", "300")
    tokenizer = HfTokenizer(str(tmp_path / "tokenizer"))
    ids = tokenizer.encode(["Grüße 漢字"], max_tokens=77)[0]
    assert tokenizer.unk_id not in ids
    assert tokenizer.decode(ids).strip() == "Grüße 漢字"


def test_lone_file_and_state_give_the_same_tokens(shards, tmp_path):
    train(shards, tmp_path / "tokenizer", "--vocab-size", "300")
    folder = HfTokenizer(str(tmp_path / "tokenizer"))
    file = HfTokenizer(str(tmp_path / "tokenizer/tokenizer.json"))
    rebuilt = tokenizer_from_state(json.loads(json.dumps(folder.state())))
    for other in (file, rebuilt):
        assert other.encode(CAPTIONS, max_tokens=5) == folder.encode(CAPTIONS, max_tokens=5)
        for name in ("pad_id", "start_id", "end_id", "unk_id", "mask_id", "vocab_size"):
            assert getattr(other, name) == getattr(folder, name), name


def test_lists_of_captions_and_case_folding_are_used(shards, tmp_path, capsys):
    options = ("--text", "json:captions", "--kind", "word", "--vocab-size", "300", "--lowercase")
    train(shards, tmp_path / "tokenizer", *options)
    vocabulary = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert {"caption", "26", "star"} <= set(vocabulary)
    assert "Caption" not in vocabulary
    shown = capsys.readouterr().out
    assert f"{len(vocabulary)} tokens" in shown
    assert "95th percentile" in shown
    assert "Caption 0" in shown


def test_same_captions_give_the_same_file(shards, tmp_path):
    for name in ("first", "second"):
        train(shards, tmp_path / name, "--vocab-size", "280")
    files = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


def test_nothing_is_written_over_other_files(shards, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"notes\.txt"):
        train(shards, out, "--vocab-size", "300")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    train(shards, tmp_path / "again", "--vocab-size", "300")
    train(shards, tmp_path / "again", "--vocab-size", "280")  # its own files may be replaced
    assert HfTokenizer(str(tmp_path / "again")).vocab_size <= 280
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--vocab-size", "100"), "at least 261"),
        (("--vocab-size", "5"), "more than 5"),
        (("--text", "text"), "did you mean 'txt'"),
        (("--text", "json:caption"), "did you mean 'captions'"),
    ],
)
def test_what_cannot_be_trained_is_refused(shards, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(shards, tmp_path / "tokenizer", *options)
    assert not (tmp_path / "tokenizer").exists()


def test_a_list_of_words_is_one_text(tmp_path):
    words = json.dumps({"tokens": ["New", "York"]}).encode()
    shards = str(write_tar(tmp_path / "shards/0.tar", [("0.json", words), ("1.json", words)]))
    options = ("--text", "json:tokens", "--text-words", "--kind", "word", "--vocab-size", "50")
    assert train(shards, tmp_path / "tokenizer", *options) == 0
    tokenizer = HfTokenizer(str(tmp_path / "tokenizer"))
    assert len(tokenizer.encode(["New York"], max_tokens=9)[0]) == 4  # start and end
