"""``mmlight tokenizer train``: a tokenizer from the shards' own captions."""

import argparse
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from mmlight.data.checks import check_members
from mmlight.data.members import Contents, Members
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError, naming
from mmlight.terminal import Terminal
from mmlight.text.json_tokenizer import JsonTokenizer, tokenizer_config

PAD, UNK, START, END, MASK = "<pad>", "<unk>", "<start>", "<end>", "<mask>"
SPECIALS = [PAD, UNK, START, END, MASK]
KINDS = ("bpe", "wordpiece", "unigram", "word", "char", "clean")

# `clean_str` of https://github.com/yoonkim/CNN_sentence, in its order.
_CLEAN = [
    (r"[^A-Za-z0-9(),!?'`]", " "),
    *((f"'{ending}", f" '{ending}") for ending in ("s", "ve")),
    ("n't", " n't"),
    *((f"'{ending}", f" '{ending}") for ending in ("re", "d", "ll")),
    *((rf"\{sign}", f" {sign} ") for sign in ",!()?"),
]


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight tokenizer``."""
    parser = argparse.ArgumentParser(
        prog="mmlight tokenizer", description="Train a tokenizer on the captions of shards."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("train", help="train one, and write it as transformers reads it")
    add.add_argument("--shards", nargs="+", required=True, help="patterns, as in data.train.shards")
    add.add_argument(
        "--text",
        nargs="+",
        default=["txt"],
        help="members with captions, all of them: txt, json:captions, ... (default txt)",
    )
    add.add_argument("--text-lines", action="store_true", help="each line of it is a caption")
    add.add_argument(
        "--text-words", action="store_true", help="a list in it holds the words of one text"
    )
    add.add_argument("--out", type=Path, required=True, help="folder to write")
    add.add_argument("--vocab-size", type=int, default=8192, help="at most (default %(default)s)")
    add.add_argument(
        "--kind",
        choices=KINDS,
        default="bpe",
        help="bpe (byte level, nothing is unknown), wordpiece, unigram (arXiv 1804.10959), word, "
        "char, or clean: words as Kim (arXiv 1408.5882) cut them, without start and end (default "
        "%(default)s)",
    )
    add.add_argument("--lowercase", action="store_true", help="fold case before tokenising")
    args = parser.parse_args(argv)
    if args.vocab_size <= len(SPECIALS):
        raise UserError(f"--vocab-size {args.vocab_size}: more than {len(SPECIALS)} are needed")
    members = Members(
        text=args.text[0] if len(args.text) == 1 else dict.fromkeys(args.text, 1.0),
        text_lines=args.text_lines,
        text_words=args.text_words,
    )
    texts = captions(args.shards, members)
    first = next(texts, None)
    if first is None:
        raise UserError(
            f"--shards {' '.join(args.shards)}: no text can be read; see `mmlight shards check`"
        )
    tokenizer = train(
        itertools.chain([first], texts),
        vocab_size=args.vocab_size,
        kind=args.kind,
        lowercase=args.lowercase,
    )
    save(tokenizer, args.out)
    _describe(tokenizer, captions(args.shards, members), args.out)
    return 0


def captions(shards: Sequence[str], members: Members) -> Iterator[str]:
    """Yield every caption of shards, sample by sample; samples that cannot be read are left out.

    Raises:
        UserError: no such shards, or no sample has such members.
    """
    corpus = Corpus(load_or_build(expand(shards)))
    check_members(corpus, members, where="--shards")
    look = partial(_captions, corpus, members)
    walk = scan(range(len(corpus)), look, what="Reading captions", total=len(corpus))
    return (text for _, texts in walk for text in texts)


def _captions(corpus: Corpus, members: Members, number: int) -> list[str]:
    try:
        found = Contents(corpus.read(number, members.extensions())).captions(members)
    except (OSError, ValueError):
        return []  # broken text; `mmlight shards check` names it, training counts it
    return [text for text, _ in found]


def train(
    texts: Iterator[str], *, vocab_size: int, kind: str = "bpe", lowercase: bool = False
) -> JsonTokenizer:
    """Train a tokenizer that puts a start token before each text and an end token after it.

    Not so of kind ``clean``, which has neither.
    """
    model, before, trainer = _parts(kind, vocab_size)
    built = tokenizers.Tokenizer(model)
    cleaned = _CLEAN if kind == "clean" else []
    steps = [normalizers.Replace(tokenizers.Regex(a), b) for a, b in cleaned]
    built.normalizer = normalizers.Sequence(
        [normalizers.NFC(), *steps, *([normalizers.Lowercase()] if lowercase else [])]
    )
    built.pre_tokenizer = before
    decoders = {
        "bpe": tokenizers.decoders.ByteLevel,
        "wordpiece": tokenizers.decoders.WordPiece,
        "unigram": tokenizers.decoders.Metaspace,
        "char": tokenizers.decoders.Fuse,  # else decoding puts spaces between characters
    }
    if kind in decoders:
        built.decoder = decoders[kind]()
    built.train_from_iterator(texts, trainer)
    start = end = None
    if kind != "clean":
        start, end = built.token_to_id(START), built.token_to_id(END)
        built.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
        )
    return JsonTokenizer(
        built.to_str(),
        pad_id=SPECIALS.index(PAD),
        start_id=start,
        end_id=end,
        unk_id=built.token_to_id(UNK),
        mask_id=built.token_to_id(MASK),
    )


def _parts(
    kind: str, vocab_size: int
) -> tuple[models.Model, pre_tokenizers.PreTokenizer, trainers.Trainer]:
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": SPECIALS,
        "show_progress": False,
    }
    if kind == "bpe":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if vocab_size < len(alphabet) + len(SPECIALS):
            raise UserError(
                f"--vocab-size {vocab_size}: bpe holds all {len(alphabet)} bytes, so at least "
                f"{len(alphabet) + len(SPECIALS)} are needed; or use --kind word or char"
            )
        return (
            models.BPE(),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
            trainers.BpeTrainer(initial_alphabet=alphabet, **options),
        )
    if kind == "wordpiece":
        return (
            models.WordPiece(unk_token=UNK),
            pre_tokenizers.BertPreTokenizer(),
            trainers.WordPieceTrainer(**options),
        )
    if kind == "unigram":
        return (
            models.Unigram(),
            pre_tokenizers.Metaspace(),
            trainers.UnigramTrainer(unk_token=UNK, **options),
        )
    word = trainers.WordLevelTrainer(**options)
    if kind == "word":
        return models.WordLevel(unk_token=UNK), pre_tokenizers.BertPreTokenizer(), word
    if kind == "clean":
        return models.WordLevel(unk_token=UNK), pre_tokenizers.WhitespaceSplit(), word
    every = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    return models.WordLevel(unk_token=UNK), every, word


def save(tokenizer: JsonTokenizer, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; both appear together.

    Raises:
        UserError: the folder holds something else, which is left alone.
    """
    files = {
        "tokenizer.json": str(tokenizer.state()["text"]) + "\n",
        "tokenizer_config.json": tokenizer_config(tokenizer),
    }
    others = [p.name for p in folder.iterdir() if p.name not in files] if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise UserError(f"--out {folder}: holds {others[0] if others else 'a file'}; name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as around:
        part = Path(around, folder.name)
        part.mkdir()
        for name, text in files.items():
            with naming(folder / name):
                (part / name).write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)


def _describe(tokenizer: JsonTokenizer, texts: Iterator[str], folder: Path) -> None:
    examples: list[str] = []
    lengths: list[int] = []
    for text in texts:
        if len(examples) < 3 and text not in examples:
            examples.append(text)
        lengths.append(len(tokenizer.encode([text], max_tokens=1_000_000)[0]))
        if len(lengths) == 20_000:
            break
    backend = tokenizers.Tokenizer.from_str(str(tokenizer.state()["text"]))
    console = Terminal()
    console.print(
        f"{folder}: {tokenizer.vocab_size} tokens; captions have {np.mean(lengths):.1f} tokens on "
        f"average, {np.percentile(lengths, 95):.0f} at the 95th percentile, {max(lengths)} at most",
        soft_wrap=True,
    )
    for text in examples:
        pieces = " ".join(backend.encode(text).tokens)
        console.print(f"  {text:.200}", f"    {pieces:.400}", sep="\n", soft_wrap=True)
