"""Shards of tagged sentences, a tiny tagger, and batches of the real data module."""

import io
import json
import tarfile
from functools import partial

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.encoders.hf_text import HfText
from mmlight.tasks.tagging import Tagging
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer

FIELDS = {"words": "json:tokens", "tags": "json:tags"}
CONFIG = dict(
    model_type="bert",
    vocab_size=260,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)


def write_shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number, sample in enumerate(samples):
            for extension, value in sample.items():
                data = value.encode() if extension == "txt" else json.dumps(value).encode()
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def tagged(*pairs):
    """``("Ann", "B-person")`` and so on."""
    return {"json": {"tokens": [w for w, _ in pairs], "tags": [t for _, t in pairs]}}


def batches(path, samples, *, max_tokens=64, offsets=True, **members):
    """All samples in evaluation batches of the data module."""
    write_shard(path / "0.tar", samples)
    given = {"text": "json:tokens", "text_words": True, "fields": FIELDS} | members
    data = ShardDataModule(
        members=Members(**given),
        test=Split(str(path)),
        text=TextSettings(ByteTokenizer(), max_tokens=max_tokens, offsets=offsets),
        num_workers=0,
    )
    data.setup("test")
    return list(data.test_dataloader())


def tagger(types=("person", "place"), *, encoder=None, **settings):
    encoder = encoder or partial(HfText, config=CONFIG)
    task = Tagging(
        towers=Towers(text=TowerSettings(encoder=encoder)), types=list(types), **settings
    )
    task.configure_model()
    return task
