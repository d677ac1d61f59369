"""Folders with small tokenizers in the formats of published ones."""

import json
from pathlib import Path

from nasty_captions import captions
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GemmaTokenizer, RobertaTokenizer, T5TokenizerFast

# What open_clip's configurations say of each: length, cleaning.
KINDS = {"siglip": (64, "canonicalize"), "siglip2": (64, "canonicalize"), "roberta": (77, "mend")}


def write_folder(kind: str, folder: Path) -> None:
    """Train a tokenizer of a kind and write it as transformers does."""
    made = {"siglip": _siglip, "siglip2": _siglip2, "roberta": _roberta}[kind]()
    made.save_pretrained(folder)


def _siglip() -> T5TokenizerFast:
    """Return a unigram model as T5's, and its ids: 1 end and padding, 2 unknown."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer = normalizers.NFKC()
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    trained.train_from_iterator(map(str.lower, captions(1000)), trainer)
    trained.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(
        tokenizer_object=trained,
        vocab=_scores(trained),
        extra_ids=0,
        pad_token="</s>",
        model_max_length=64,
    )


def _scores(trained: Tokenizer) -> list[tuple[str, float]]:

    return [tuple(entry) for entry in json.loads(trained.to_str())["model"]["vocab"]]


def _siglip2() -> GemmaTokenizer:
    """Return byte pairs with bytes to fall back on, as Gemma's, closed by ``<eos>``."""
    trained = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *fallback],
        show_progress=False,
    )
    trained.train_from_iterator(captions(1000), trainer)

    model = json.loads(trained.to_str())["model"]
    tokenizer = GemmaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        padding_side="right",
        add_bos_token=False,
        add_eos_token=True,
    )
    return tokenizer


def _roberta() -> RobertaTokenizer:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(captions(1000), trainer)
    trained.decoder = decoders.ByteLevel()

    model = json.loads(trained.to_str())["model"]
    return RobertaTokenizer(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]]
    )
