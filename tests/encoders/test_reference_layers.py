"""Fast kernels of encoders and decoders against layers as they are written on paper, in float64."""

import pytest
import torch
import torch.nn.functional as F

from mmlight.batch import Text
from mmlight.decoders.decoder import Memory, masked_places
from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.reference import attention, feed_forward, gelu, several_heads
from mmlight.encoders.timm_image import TimmImage

LENGTHS = [7, 3, 5, 2]


def equal(found, right):
    torch.testing.assert_close(found, right, rtol=0, atol=1e-10)


def drawn(module):
    """Return a module in float64 with weights that make attention choose."""
    torch.manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return module


def linear(layer):
    """Return a linear layer's matrix, input first, and its bias."""
    matrix = layer.weight.detach()
    return (matrix if type(layer).__name__ == "Conv1D" else matrix.T), layer.bias.detach()


def through(layer, hidden_LD):
    matrix, bias = linear(layer)
    return hidden_LD @ matrix + bias


def texts():
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(1, 30, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    rows = torch.arange(len(LENGTHS))
    return Text(ids, mask, torch.ones(len(LENGTHS), dtype=torch.bool), rows, rows)


def test_the_reference_is_attention_as_torch_has_it():
    q, k, v = (torch.randn(5, 4, dtype=torch.float64) for _ in range(3))
    equal(attention(q, k, v), (q @ k.T / 2).softmax(1) @ v)
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    weights = (q @ k.T / 2).masked_fill(~sees, -torch.inf).softmax(1)
    equal(attention(q, k, v, sees_LM=sees), weights @ v)
    w1, b1, w2, b2 = (torch.randn(*s, dtype=torch.float64) for s in ((4, 6), (6,), (6, 4), (4,)))
    equal(feed_forward(q, w1, b1, w2, b2), (q @ w1 + b1).clamp(min=0) @ w2 + b2)
    equal(feed_forward(q, w1, b1, w2, b2, activation=gelu), F.gelu(q @ w1 + b1) @ w2 + b2)


@pytest.mark.parametrize("batching", ["padded", "grouped", "packed"])
def test_bert_padded_in_groups_and_packed(batching):
    config = {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "hidden_act": "relu",
    }
    encoder = drawn(HfText(config=config, batching=batching))
    text = texts()
    with torch.no_grad():
        found = encoder(text, tokens=True).tokens_BLD
        for row, length in enumerate(LENGTHS):
            hidden = encoder.model.embeddings(text.token_ids_NL[row : row + 1, :length])[0]
            for layer in encoder.model.encoder.layer:
                own = layer.attention.self
                asked = (through(part, hidden) for part in (own.query, own.key, own.value))
                said = several_heads(*asked, heads=2)
                out = layer.attention.output
                hidden = out.LayerNorm(through(out.dense, said) + hidden)
                inside = feed_forward(
                    hidden, *linear(layer.intermediate.dense), *linear(layer.output.dense)
                )
                hidden = layer.output.LayerNorm(inside + hidden)
            equal(found[row, :length], hidden)


def test_a_vit_of_timm():
    sizes = dict(patch_size=4, embed_dim=8, depth=2, num_heads=2, act_layer="relu")
    encoder = drawn(TimmImage("vit_tiny_patch16_224", img_size=8, kwargs=sizes))
    before, after = [], []
    blocks = encoder.model.blocks
    blocks[0].register_forward_pre_hook(lambda _, args: before.append(args[0]))
    blocks[-1].register_forward_hook(lambda _, args, output: after.append(output))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        encoder.model(encoder._normalise(pixels).double())
        for row in range(2):
            hidden = before[0][row]
            for block in blocks:
                asked = through(block.attn.qkv, block.norm1(hidden)).chunk(3, 1)
                hidden = hidden + through(block.attn.proj, several_heads(*asked, heads=2))
                layers = (*linear(block.mlp.fc1), *linear(block.mlp.fc2))
                hidden = hidden + feed_forward(block.norm2(hidden), *layers)
            equal(after[0][row], hidden)


def test_our_decoder_with_a_memory_and_padding():
    decoder = drawn(
        TransformerDecoder(
            vocab_size=30, dim=8, num_layers=2, num_heads=2, max_tokens=9, memory_dim=6
        )
    )
    text = texts()
    seen = torch.arange(4) < torch.tensor([4, 1, 3, 2])[:, None]
    memory = Memory(torch.randn(4, 4, 6, dtype=torch.float64), seen)
    with torch.no_grad():
        places = masked_places(text.mask_NL.flip(1), length=7)
        found = decoder.decode(
            decoder.embed(text.token_ids_NL.flip(1)), places=places, memory=memory
        )
        for row, length in enumerate(LENGTHS):
            ids = text.token_ids_NL.flip(1)[row, 7 - length :]
            hidden = decoder.embed(ids) + decoder.positions.weight[:length]
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            others = memory.tokens_NMD[row, seen[row]]
            for layer in decoder.layers:
                for norm, own, asked, sees in (
                    (layer.norm, layer.attention, None, causal),
                    (layer.cross_norm, layer.cross, others, None),
                ):
                    normal = norm(hidden)
                    keys, values = through(own.key_value, normal if asked is None else asked).chunk(
                        2, 1
                    )
                    said = several_heads(
                        through(own.query, normal), keys, values, heads=2, sees_LM=sees
                    )
                    hidden = hidden + through(own.out, said)
                layers = (*linear(layer.feed[0]), *linear(layer.feed[2]))
                hidden = hidden + feed_forward(layer.feed_norm(hidden), *layers, activation=gelu)
            equal(found[row, 7 - length :], decoder.norm(hidden))


def test_gpt2_of_transformers():
    config = {
        "model_type": "gpt2",
        "vocab_size": 30,
        "n_embd": 8,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 9,
        "activation_function": "relu",
    }
    decoder = drawn(HfDecoder(config=config))
    text = texts()
    with torch.no_grad():
        found = decoder(text, tokens=True).tokens_BLD
        for row, length in enumerate(LENGTHS):
            hidden = decoder.embed(text.token_ids_NL[row, :length])
            hidden = hidden + decoder.model.wpe.weight[:length]
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            for layer in decoder.model.h:
                asked = through(layer.attn.c_attn, layer.ln_1(hidden)).chunk(3, 1)
                said = several_heads(*asked, heads=2, sees_LM=causal)
                hidden = hidden + through(layer.attn.c_proj, said)
                layers = (*linear(layer.mlp.c_fc), *linear(layer.mlp.c_proj))
                hidden = hidden + feed_forward(layer.ln_2(hidden), *layers)
            equal(found[row, :length], decoder.model.ln_f(hidden))


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_the_kernel_of_models_whose_norms_are_float32(model_type, monkeypatch):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    decoder = drawn(
        HfDecoder(config={"model_type": model_type, "vocab_size": 30, **sizes, **heads})
    )
    calls = []
    kernel = F.scaled_dot_product_attention

    def listen(query, key, value, **given):
        found = kernel(query, key, value, **given)
        calls.append((query, key, value, given, found))
        return found

    monkeypatch.setattr(F, "scaled_dot_product_attention", listen)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listen)
    ids = texts().token_ids_NL
    mask = torch.arange(7).expand(4, -1) >= torch.tensor([0, 4, 2, 5])[:, None]
    cache = decoder.new_cache()
    with torch.no_grad():
        for part in (slice(0, 5), slice(5, 7)):
            places = masked_places(mask[:, : part.stop], length=part.stop - part.start)
            decoder.decode(decoder.embed(ids[:, part]), places=places, cache=cache)
    assert len(calls) == 4
    for query, key, value, given, found in calls:
        groups = query.shape[1] // key.shape[1]
        for row in range(4):
            for head in range(4):
                right = attention(
                    query[row, head],
                    key[row, head // groups],
                    value[row, head // groups],
                    sees_LM=given["attn_mask"][row, 0],
                    scale=given.get("scale"),
                )
                equal(found[row, head], right)
