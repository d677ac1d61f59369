"""Answers of a decoder that is sharded over ranks, some of which have more to say."""

import ranks
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from mmlight import comm
from mmlight.decoders.generate import Prompt, generate
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder

TEXTS = ([3, 5, 7], [4], [2, 2, 9, 11, 1], [8, 6])


def make():
    torch.manual_seed(0)
    decoder = TransformerDecoder(
        vocab_size=19, dim=16, num_layers=2, num_heads=2, max_tokens=20, dropout=0.0
    )
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return decoder.eval()


def answers(decoder, texts, *, count):
    found = []
    for text in texts:
        ids = torch.tensor([text])
        prompt = Prompt(decoder.embed(ids), torch.ones_like(ids, dtype=torch.bool))
        sampling = Sampling(max_new_tokens=count)
        found += generate(decoder, prompt, sampling, end_id=None)
    return [one.tokens for one in found]


def _on_a_rank():
    decoder, mesh = make(), init_device_mesh("cpu", (2,))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh)
    for name in ("embed", "decode", "logits"):
        register_fsdp_forward_method(decoder, name)
    mine = TEXTS[comm.rank() :: 2]
    # The second rank says far more than the first.
    with torch.no_grad():
        said = answers(decoder, mine, count=4 + 26 * comm.rank())
    is_sharded = all(p.__class__.__name__ == "DTensor" for p in decoder.parameters())
    # It learns as before.
    decoder.train().logits(decoder.decode(decoder.embed(torch.tensor([mine[0]])))).sum().backward()
    return said, is_sharded, all(p.grad is not None for p in decoder.parameters())


def test_ranks_say_answers_of_different_lengths(tmp_path):
    whole = make()
    results = ranks.run_ranks(_on_a_rank, world_size=2, folder=tmp_path)
    for rank, (said, is_sharded, learns) in enumerate(results):
        assert is_sharded and learns
        assert said == answers(whole, TEXTS[rank::2], count=4 + 26 * rank)
