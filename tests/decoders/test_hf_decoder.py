"""Causal models of transformers: their own scores, in whatever pieces a sequence comes."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmlight.batch import Text
from mmlight.decoders.decoder import Memory, masked_places
from mmlight.decoders.hf_decoder import MODEL_TYPES, HfDecoder
from mmlight.errors import UserError

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
}
WIDTHS = {"intermediate_size": 24, "num_key_value_heads": 1}


def config(model_type, **more):
    sizes = SIZES | more
    if model_type not in ("gpt2", "gpt_neox"):
        sizes |= WIDTHS
    if "qwen3" in model_type:
        sizes |= {"head_dim": 8}
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return {"model_type": model_type, **sizes, **ids}


def make(model_type, **more):
    torch.manual_seed(0)
    decoder = HfDecoder(config=config(model_type, **more)).double().eval()
    for parameter in decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def ids(*shape, seed=0):
    return torch.randint(1, 23, shape, generator=torch.Generator().manual_seed(seed))


def all_at_once(decoder, token_ids, memory=None):
    return decoder.logits(decoder.decode(decoder.embed(token_ids), memory=memory))


# Norms of Llama and its like, and turned positions, are float32 whatever the model is.
def close(found, right, model_type):
    atol = 1e-12 if model_type == "gpt2" else 2e-5
    torch.testing.assert_close(found, right, rtol=0, atol=atol)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_scores_are_those_of_transformers_own_model(model_type, tmp_path):
    torch.manual_seed(0)
    kept = {k: v for k, v in config(model_type).items() if k != "model_type"}
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **kept)).eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path)
    decoder = HfDecoder(pretrained=str(tmp_path)).eval()
    token_ids = ids(3, 9)
    with torch.no_grad():
        right = theirs(input_ids=token_ids).logits
        torch.testing.assert_close(all_at_once(decoder, token_ids), right, rtol=0, atol=1e-5)
    again = HfDecoder(**decoder.rebuild_args()).eval()
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(all_at_once(again, token_ids), all_at_once(decoder, token_ids))
    assert decoder.is_pretrained and decoder.new_parameters() == set()
    assert decoder.preparation() == {"tokenizer_folder": None}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_padding_a_cache_and_packing_change_nothing(model_type):
    decoder = make(model_type)
    token_ids = ids(2, 7)
    whole = all_at_once(decoder, token_ids)
    cache, parts = decoder.new_cache(), []
    for part in token_ids.split([3, 1, 2, 1], 1):
        parts.append(decoder.logits(decoder.decode(decoder.embed(part), cache=cache)))
    assert cache.length == 7
    close(torch.cat(parts, 1), whole, model_type)

    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), token_ids], 1)
    mask = torch.arange(10).expand(2, -1) >= 3
    cache = decoder.new_cache()
    places = masked_places(mask[:, :8], length=8)
    first = decoder.decode(decoder.embed(padded[:, :8]), places=places, cache=cache)[:, 3:]
    cache.select(torch.tensor([1, 0]))
    places = masked_places(mask, length=2)
    rest = decoder.decode(decoder.embed(padded[[1, 0], 8:]), places=places, cache=cache)[[1, 0]]
    close(decoder.logits(torch.cat([first, rest], 1)), whole, model_type)

    packed = Text(
        token_ids_NL=torch.cat([token_ids[:1, :4], token_ids[1:, :6]], 1),
        mask_NL=torch.ones(1, 10, dtype=torch.bool),
        present_N=torch.ones(1, dtype=torch.bool),
        item_N=torch.zeros(1, dtype=torch.int64),
        caption_id_N=torch.zeros(1, dtype=torch.int64),
        sample_NL=torch.tensor([[0] * 4 + [1] * 6]),
    )
    found = decoder.logits(decoder(packed, tokens=True).tokens_BLD)
    close(found, torch.cat([whole[:1, :4], whole[1:, :6]], 1), model_type)


def test_gpt2_attends_to_a_memory_that_goes_with_its_rows(tmp_path):
    decoder = make("gpt2", add_cross_attention=True)
    assert decoder.memory_dim == 16
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    memory = Memory(torch.randn(2, 5, 16, generator=generator).double(), mask)
    token_ids = ids(2, 6)
    whole = all_at_once(decoder, token_ids, memory)
    one = Memory(memory.tokens_NMD[1:, :3], mask[1:, :3])
    close(all_at_once(decoder, token_ids[1:], one), whole[1:], "gpt2")
    cache = decoder.new_cache()
    first = decoder.decode(decoder.embed(token_ids[:, :4]), memory=memory, cache=cache)
    cache.select(torch.tensor([1, 1, 0]))
    rows = Memory(memory.tokens_NMD[[1, 1, 0]], mask[[1, 1, 0]])
    rest = decoder.decode(decoder.embed(token_ids[[1, 1, 0], 4:]), memory=rows, cache=cache)
    close(decoder.logits(first), whole[:, :4], "gpt2")
    close(decoder.logits(rest), whole[[1, 1, 0], 4:], "gpt2")

    make("gpt2").float().model.save_pretrained(tmp_path)
    added = HfDecoder(pretrained=str(tmp_path), kwargs={"add_cross_attention": True})
    new = added.new_parameters()
    assert new and all("cross" in name for name in new)


def test_its_layers_are_blocks_and_its_attention_can_be_looked_at():
    for model_type in ("gpt2", "llama"):
        decoder = make(model_type)
        assert sum(block.repeated for block in decoder.blocks()) == 2
        text = Text(ids(1, 5), torch.ones(1, 5, dtype=torch.bool), *[torch.ones(1).bool()] * 3)
        before = decoder(text).pooled_BD
        with decoder.explicit_attention() as layers:
            places = masked_places(torch.ones(1, 5, dtype=torch.bool), length=5)
            slow = decoder.decode(decoder.embed(text.token_ids_NL), places=places)
        assert [layer.shape for layer in layers] == [(1, 2, 5, 5)] * 2
        assert float(layers[0].triu(1).abs().max()) == 0
        close(slow[:, -1], before, model_type)


def test_a_window_that_places_see_is_the_longest_sequence():
    assert HfDecoder(config=config("mistral", sliding_window=6)).max_tokens == 6
    decoder = make("gpt2")
    with pytest.raises(UserError, match="25 places, but the decoder takes at most 24"):
        decoder.decode(decoder.embed(ids(1, 25)))


def test_other_kinds_of_models_are_refused():
    with pytest.raises(UserError, match="'bert' is no causal language model that mmlight knows"):
        HfDecoder(config={"model_type": "bert"})
    with pytest.raises(UserError, match="neither is set"):
        HfDecoder()
