"""A tiny language model, and batches of the real data module from shards of texts."""

from functools import partial

from tagging_data import write_shard

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.tasks.causal_language import CausalLanguage
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer

SIZES = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=48, dropout=0.0)


def data_of(path, samples, *, members, max_tokens=40, tokenizer=None, **text):
    write_shard(path / "0.tar", samples)
    data = ShardDataModule(
        members=Members(**members),
        test=Split(str(path)),
        text=TextSettings(tokenizer or ByteTokenizer(), max_tokens=max_tokens, **text),
        num_workers=0,
        eval_batch_size=4,
    )
    data.setup("test")
    return data


def towers(encoder=None, **sizes):
    made = encoder or partial(TransformerDecoder, **SIZES | sizes)
    return Towers(text=TowerSettings(encoder=made))


def built(data, *, kind=CausalLanguage, encoder=None, sizes=None, **settings):
    """Return a task built for this data, in evaluation mode."""
    task = kind(towers=towers(encoder, **(sizes or {})), **settings)
    task.preprocessing = data.preprocessing()
    task.configure_model()
    task.log_gated = lambda values: None
    return task.eval()
