"""Tiny question-answering models, and batches of questions for them."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tasks import tiny

from mmlight.batch import Text
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.heads.fusion import TransformerFusion
from mmlight.tasks.answering import Answering
from mmlight.tasks.multimodal_decoder import MultimodalDecoder
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer

ANSWERS = ["red", "blue", "two"]
QUESTIONS = ["which colour?", "how many?", "what is it like?", "and then?"]
TEXT = {"max_tokens": 48, "vocab_size": 258, "tokenizer": ByteTokenizer().state()}


def preprocessing():
    return {
        "image": {"size": 16, "channels": 3},
        "audio": {"sample_rate_hz": 8000, "max_seconds": 1.0},
        "text": TEXT | {"vocab_size": ByteTokenizer().vocab_size},
        "class_names": ANSWERS,
    }


def decoder(**settings):
    sizes = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=128, dropout=0.0)
    return TowerSettings(encoder=partial(TransformerDecoder, **sizes | settings))


def text_tower():
    tower = tiny.towers().text
    sizes = {"vocab_size": 260, "max_position_embeddings": 48}
    config = tower.encoder.keywords["config"] | sizes
    return replace(tower, encoder=partial(tiny.HfText, config=config))


def answering(*names, **settings):
    towers = replace(tiny.towers(), text=None)
    given = {name: getattr(towers, name) for name in names or ("image",)}
    fusion = partial(
        TransformerFusion, fusion_dim=8, fusion_heads=2, modality_dropout=0.0, fusion_dropout=0.0
    )
    return built(Answering(towers=Towers(**given, text=text_tower()), fusion=fusion, **settings))


def multimodal(*names, text=None, **settings):
    towers = tiny.towers()
    given = {name: getattr(towers, name) for name in names or ("image",)}
    return built(MultimodalDecoder(towers=Towers(**given, text=text or decoder()), **settings))


def built(task):
    task.preprocessing = preprocessing()
    task.configure_model()
    task.log_gated = lambda values: None
    task.trainer = None
    return task


def text(texts, item_N=None):
    encoding = ByteTokenizer().encode_batch(texts, max_tokens=48)
    rows = torch.arange(len(texts)) if item_N is None else torch.tensor(item_N)
    return Text(
        torch.from_numpy(encoding.ids_NL),
        torch.from_numpy(np.array(encoding.mask_NL)),
        torch.ones(len(texts), dtype=torch.bool),
        rows,
        torch.arange(len(texts)),
    )


def batch(size=2, *, per_sample=1, answers=None, answer_items=None, types=None):
    """A batch of `per_sample` questions about each sample."""
    count = size * per_sample
    items = [n // per_sample for n in range(count)]
    asked = [QUESTIONS[n % len(QUESTIONS)] for n in range(count)]
    said = answers or [ANSWERS[n % len(ANSWERS)] for n in range(count)]
    return replace(
        tiny.batch(size),
        text=text(asked, items),
        captions=asked,
        answer=text(said, answer_items or items),
        answers=said,
        fields={} if types is None else {"type": types},
    )
