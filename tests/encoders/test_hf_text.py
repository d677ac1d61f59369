import json

import pytest
import torch
import transformers
from encoder_inputs import (
    SIGLIP_TEXT,
    TEXT_CONFIGS,
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    captions,
)
from transformers import AutoConfig, AutoModel

from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError

POOLS = {
    "bert": "cls",
    "roberta": "mean",
    "distilbert": "attention",
    "modernbert": "mean",
    "clip": "last",
    "gpt2": "attention",
    "siglip": "model",
    "llama": "last",
}

CONFIGS = TEXT_CONFIGS | {"siglip": SIGLIP_TEXT}


def make(kind, **more):
    torch.manual_seed(0)
    return HfText(**(dict(config=CONFIGS[kind], pool=POOLS[kind]) | more))


@pytest.mark.parametrize("kind", POOLS)
def test_shapes_blocks_and_limits(kind):
    encoder = make(kind).eval()
    encoded = encoder(captions(), tokens=True)
    assert encoded.pooled_BD.shape == (2, encoder.out_dim) == (2, 16)
    assert encoded.tokens_BLD.shape == (2, 20 if kind == "siglip" else 5, 16)
    assert encoded.mask_BL.sum(1).tolist() == [5, 3]
    assert (encoder.vocab_size, encoder.max_tokens) == (50, 20)
    assert_blocks_partition(encoder)
    repeated = [block for block in encoder.blocks() if block.repeated]
    assert [len(block.modules) for block in repeated] == [1, 1]


@pytest.mark.parametrize("kind", POOLS)
def test_padding_changes_no_caption(kind):
    encoder = make(kind).eval()
    short = encoder(captions()).pooled_BD
    torch.testing.assert_close(
        encoder(captions(padded_to=11)).pooled_BD, short, atol=1e-5, rtol=1e-5
    )
    alone = encoder(captions((5,))).pooled_BD
    torch.testing.assert_close(alone[0], short[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", POOLS)
def test_longest_caption_fits_and_a_longer_one_is_refused(kind):
    encoder = make(kind).eval()
    assert encoder(captions((20, 1))).pooled_BD.isfinite().all()
    with pytest.raises(UserError, match="21 tokens, but the text encoder takes at most 20"):
        encoder(captions((21, 1)))


@pytest.mark.parametrize("kind", POOLS)
def test_all_parameters_learn_and_checkpointing_changes_no_gradient(kind):
    assert_checkpointing_keeps_gradients(make(kind), captions())


@pytest.mark.parametrize("kind", ["clip", "gpt2", "llama"])
def test_causal_models_do_not_look_ahead(kind):
    encoder = make(kind).eval()
    batch = captions((6, 6))
    before = encoder(batch, tokens=True).tokens_BLD
    batch.token_ids_NL[:, 4] += 1
    after = encoder(batch, tokens=True).tokens_BLD
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])


def test_clip_pools_the_end_token_like_transformers():
    encoder = make("clip").eval()
    batch = captions((6, 4))
    batch.token_ids_NL[0, 5] = batch.token_ids_NL[1, 3] = 49
    expected = encoder.model(input_ids=batch.token_ids_NL).pooler_output
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_sees_padding_and_pools_its_last_place_like_transformers(kind):
    config = SIGLIP_TEXT | dict(model_type=f"{kind}_text_model", projection_size=24)
    encoder = make("siglip", config=config).eval()
    batch = captions((6, 4))
    padded = torch.full((2, 20), 1)
    padded[:, :6] = batch.token_ids_NL.masked_fill(~batch.mask_NL, 1)
    expected = encoder.model(input_ids=padded).pooler_output
    assert expected.shape == (2, encoder.out_dim) == (2, 24)
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)
    weights_BL = encoder.pooling_weights(encoder(batch, tokens=True).mask_BL)
    assert weights_BL.argmax(1).tolist() == [19, 19] and weights_BL.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("batching", ["padded", "grouped", "packed"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_models_own_pooling_is_that_of_transformers(kind, batching):
    encoder = make(kind, pool="model", batching=batching).eval()
    batch = captions((6, 4, 2))
    pad_id = encoder.pad_token_id
    batch.token_ids_NL.masked_fill_(~batch.mask_NL, pad_id)
    expected = encoder.model(
        input_ids=batch.token_ids_NL, attention_mask=batch.mask_NL
    ).pooler_output
    torch.testing.assert_close(encoder(batch).pooled_BD, expected, atol=1e-6, rtol=1e-5)
    assert_checkpointing_keeps_gradients(encoder, batch)


def test_clip_from_scratch_starts_like_open_clip():
    sizes = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4)
    encoder = HfText(config=TEXT_CONFIGS["clip"] | sizes | dict(vocab_size=500))
    model = encoder.model
    layer = model.encoder.layers[0]
    expected = {
        model.embeddings.token_embedding: 0.02,
        model.embeddings.position_embedding: 0.01,
        layer.self_attn.q_proj: 128**-0.5,
        layer.self_attn.out_proj: 128**-0.5 * 8**-0.5,
        layer.mlp.fc1: 256**-0.5,
        layer.mlp.fc2: 128**-0.5 * 8**-0.5,
    }
    for module, std in expected.items():
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)
    assert layer.self_attn.q_proj.bias.eq(0).all()
    assert 0 < layer.mlp.fc1.bias.abs().max() <= 128**-0.5


@pytest.mark.parametrize("kind", ["bert", "modernbert", "clip"])
def test_checkpoints_load_in_float32(tmp_path, kind):
    first = make(kind).eval()
    first.model.to(torch.bfloat16).save_pretrained(tmp_path)
    first.model.float()
    second = HfText(pretrained=str(tmp_path), pool=POOLS[kind]).eval()
    assert next(second.parameters()).dtype == torch.float32
    torch.testing.assert_close(second(captions()).pooled_BD, first(captions()).pooled_BD)
    third = HfText(config=str(tmp_path), pool=POOLS[kind]).eval()
    assert not torch.allclose(third(captions()).pooled_BD, first(captions()).pooled_BD)


def test_a_whole_clip_checkpoint_gives_its_text_tower(tmp_path):
    text = {k: v for k, v in TEXT_CONFIGS["clip"].items() if k != "model_type"}
    vision = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision)
    ).eval()
    whole.save_pretrained(tmp_path)
    encoder = HfText(pretrained=str(tmp_path), pool="last").eval()
    batch = captions((6, 4))
    batch.token_ids_NL[0, 5] = batch.token_ids_NL[1, 3] = 49
    expected = whole.text_model(input_ids=batch.token_ids_NL).pooler_output
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)


def test_a_checkpoint_with_a_pooler_and_a_head_is_taken_without_them(tmp_path):
    fields = {k: v for k, v in TEXT_CONFIGS["bert"].items() if k != "model_type"}
    config = AutoConfig.for_model("bert", **fields)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "masked")
    AutoModel.from_config(config).save_pretrained(tmp_path / "pooler")
    for folder, left in (("masked", "cls.predictions.bias"), ("pooler", "pooler.dense.bias")):
        encoder = HfText(pretrained=str(tmp_path / folder))
        assert "tensors of" in encoder.origin and "new: none" in encoder.origin
        assert f"left over there: {left}" in encoder.origin
        assert not any("pooler" in name for name, _ in encoder.named_parameters())


def test_fields_of_older_releases_do_not_stop_a_rebuild(tmp_path):
    make("bert").model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    old = {"gradient_checkpointing": False, "position_embedding_type": "absolute", "mine": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | old))
    first = HfText(pretrained=str(tmp_path))
    rebuilt = first.rebuild_args()
    assert not old.keys() & rebuilt["config"].keys()
    del old["mine"]  # but those of older releases are in checkpoints that were written before
    again = HfText(**rebuilt | {"config": rebuilt["config"] | old})
    again.load_state_dict(first.state_dict())
    batch = captions()
    assert torch.equal(again.eval()(batch).pooled_BD, first.eval()(batch).pooled_BD)


def test_a_checkpoint_of_another_size_is_refused(tmp_path):
    make("bert").model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks weights of a BertModel"):
        HfText(pretrained=str(tmp_path), kwargs=dict(num_hidden_layers=3))
    with pytest.raises(UserError, match="pretrained: cannot load"):
        HfText(pretrained=str(tmp_path), kwargs=dict(hidden_size=32))
    with pytest.raises(UserError, match="pretrained"):
        HfText(pretrained=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", ["bert", "clip", "gpt2"])
def test_rebuild_args_need_no_checkpoint(tmp_path, kind):
    make(kind).model.save_pretrained(tmp_path)
    first = HfText(pretrained=str(tmp_path), pool="attention").eval()
    second = HfText(**first.rebuild_args()).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(captions()).pooled_BD, second(captions()).pooled_BD)


def test_fields_of_the_config_can_be_changed():
    encoder = make("bert", kwargs=dict(hidden_dropout_prob=0.5))
    assert encoder.model.embeddings.dropout.p == 0.5
    encoder.train()
    assert not torch.equal(encoder(captions()).pooled_BD, encoder(captions()).pooled_BD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "exactly one of config and pretrained; neither is set"),
        (dict(config={"model_type": "bert"}, pretrained="x"), "both are set"),
        (dict(config={"hidden_size": 3}), "needs a model_type"),
        (dict(config={"model_type": "brt"}), "no 'brt' .did you mean 'bert'"),
        (
            dict(config={"model_type": "bert", "hiden_size": 3}),
            "no field 'hiden_size' .did you mean 'hidden_size'",
        ),
        (dict(config=TEXT_CONFIGS["bert"], kwargs={"drop": 1}), "no field 'drop'"),
        (dict(config=TEXT_CONFIGS["clip"], pool="cls"), "causal 'clip_text_model'"),
        (dict(config=TEXT_CONFIGS["gpt2"], pool="model"), "'gpt2' has no pooling of its own"),
        (dict(config=TEXT_CONFIGS["bert"], pool="max"), "pool: 'max'"),
        (dict(config={"model_type": "t5"}), "more than a text encoder"),
        (dict(config="/nowhere/at/all"), "there is no file or folder /nowhere/at/all"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        HfText(**arguments)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "clip"])
def test_bf16_autocast_is_finite(kind):
    assert_bf16_is_finite(make(kind), captions((5, 1)))
