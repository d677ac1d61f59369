"""Packed, grouped and padded captions give the same features and gradients."""

import copy
from dataclasses import replace

import pytest
import torch
from encoder_inputs import SIZES, TEXT_CONFIGS, captions
from ranks import run_ranks

from mmlight.encoders import hf_text
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.lora import LoraSettings, add_adapters
from mmlight.encoders.text_batching import choose_layout, exact_layouts, has_collective_forwards
from mmlight.encoders.text_rows import GroupPlan, RowPlan
from mmlight.errors import UserError
from mmlight.insight.attention import attention_maps

SMALL = dict(vocab_size=50, max_position_embeddings=24, **SIZES)
ONE_KEY = dict(num_key_value_heads=1)
PACKED = TEXT_CONFIGS | {
    "albert": dict(model_type="albert", embedding_size=8, **SMALL),
    "camembert": dict(model_type="camembert", **SMALL),
    "data2vec-text": dict(model_type="data2vec-text", **SMALL),
    "electra": dict(model_type="electra", embedding_size=8, **SMALL),
    "gemma": dict(model_type="gemma", head_dim=8, **ONE_KEY, **SMALL),
    "gpt_neox": dict(model_type="gpt_neox", **SMALL),
    "mistral": dict(model_type="mistral", **ONE_KEY, **SMALL),
    "qwen2": dict(model_type="qwen2", **ONE_KEY, **SMALL),
    "qwen3": dict(model_type="qwen3", head_dim=8, **ONE_KEY, **SMALL),
    "xlm-roberta": dict(model_type="xlm-roberta", **SMALL),
}
GROUPED = {
    "deberta": dict(model_type="deberta", **SMALL),
    "deberta-v2": dict(model_type="deberta-v2", **SMALL),
    "ernie": dict(model_type="ernie", **SMALL),
    "mpnet": dict(model_type="mpnet", **SMALL),
    "opt": dict(
        model_type="opt",
        **dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32),
        **dict(vocab_size=50, max_position_embeddings=24, word_embed_proj_dim=16),
    ),
}
POOLS = ("mean", "last", "attention")
LENGTHS = (5, 17, 3, 1, 9, 20, 4, 4, 2, 11)


def make(kind, pool="mean", **more):
    torch.manual_seed(0)
    config = (PACKED | GROUPED)[kind]
    return HfText(config=config, pool=pool, **more).eval()


def batch(encoder=None, lengths=LENGTHS, **more):
    made = captions(lengths, **more)
    made = replace(made, present_N=made.present_N.clone())  # it was a view of the mask
    if encoder is not None and encoder.pad_token_id is not None:
        made = replace(
            made, token_ids_NL=made.token_ids_NL.masked_fill(~made.mask_NL, encoder.pad_token_id)
        )
        # A sample without text has one padding token.
        for row, length in enumerate(lengths):
            if length == 1:
                made.token_ids_NL[row, 0] = encoder.pad_token_id
                made.present_N[row] = False
    return made


def outcome(encoder, inputs, way, *, tokens=True):
    """Features and gradients of one way, and the plan that it took."""
    plans = []
    layout = encoder._layout
    encoder._layout = lambda given: plans.append(layout(given)) or plans[-1]
    encoder.text_batching = way
    encoder.zero_grad()
    torch.manual_seed(1)
    encoded = encoder(inputs, tokens=tokens)
    generator = torch.Generator().manual_seed(2)
    weight_ND = torch.randn(encoded.pooled_BD.shape, generator=generator).to(encoded.pooled_BD)
    loss = (encoded.pooled_BD * weight_ND).sum()
    parts = {"pooled": encoded.pooled_BD.detach()}
    if tokens:
        assert encoded.mask_BL is inputs.mask_NL
        real_NLD = encoded.tokens_BLD.masked_fill(~inputs.mask_NL[..., None], 0)
        weight_D = torch.randn(real_NLD.shape[-1], generator=generator).to(real_NLD)
        loss = loss + (real_NLD * weight_D).sum()
        parts["tokens"] = real_NLD.detach()
    loss.backward()
    parts |= {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    del encoder._layout
    return parts, plans[0]


def assert_equal(found, wanted, *, tolerance):
    assert found.keys() == wanted.keys()
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        gap = float((found[name] - value).abs().max())
        assert gap <= tolerance * max(1.0, largest), f"{name}: {gap} of {largest}"


@pytest.mark.parametrize("kind", PACKED)
def test_packing_is_exact_in_float64(kind):
    # Gemma's norms and rotations, and the mean, are computed in float32.
    tolerance = 1e-5 if kind == "gemma" else 1e-12
    encoder = make(kind, "last").double()
    inputs = batch(encoder)
    wanted, none = outcome(encoder, inputs, "padded")
    packed, rows = outcome(encoder, inputs, "packed")
    grouped, groups = outcome(encoder, inputs, "grouped")
    assert none is None and isinstance(rows, RowPlan) and isinstance(groups, GroupPlan)
    assert rows.num_rows < len(LENGTHS) and len(groups.members) > 1
    assert_equal(packed, wanted, tolerance=tolerance)
    assert_equal(grouped, wanted, tolerance=tolerance)


@pytest.mark.parametrize("kind", GROUPED)
def test_grouping_is_exact_in_float64(kind):
    encoder = make(kind, "last").double()
    inputs = batch(encoder)
    wanted, _ = outcome(encoder, inputs, "padded")
    grouped, groups = outcome(encoder, inputs, "grouped")
    assert isinstance(groups, GroupPlan) and len(groups.members) > 1
    assert_equal(grouped, wanted, tolerance=1e-12)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("kind", ["clip", "bert", "roberta"])
@pytest.mark.parametrize("pool", [*POOLS, "cls"])
def test_every_pooling_is_the_same(pool, kind, tokens):
    if pool == "cls" and kind == "clip":
        pytest.skip("refused for causal models")
    encoder = make(kind, pool)
    inputs = batch(encoder)
    wanted, _ = outcome(encoder, inputs, "padded", tokens=tokens)
    for way in ("packed", "grouped"):
        found, _ = outcome(encoder, inputs, way, tokens=tokens)
        assert_equal(found, wanted, tolerance=2e-6)


@pytest.mark.parametrize("kind", ["clip", "roberta"])
@pytest.mark.parametrize(
    "lengths", [(6,), (1,), (7, 7, 7, 7), (1, 1, 1), (20, 1), (11, 12, 13, 11), (1, 20, 1, 19, 2)]
)
def test_small_and_even_batches_are_the_same(kind, lengths):
    encoder = make(kind, "last").double()
    inputs = batch(encoder, lengths, padded_to=20)
    wanted, _ = outcome(encoder, inputs, "padded")
    for way in ("packed", "grouped"):
        found, plan = outcome(encoder, inputs, way)
        assert plan is not None
        assert_equal(found, wanted, tolerance=1e-12)


def test_several_captions_of_a_sample_are_the_same_in_evaluation():
    encoder = make("clip", "last")
    inputs = replace(batch(encoder), item_N=torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 4]))
    with torch.no_grad():
        encoder.text_batching = "padded"
        wanted = encoder(inputs).pooled_BD
        encoder.text_batching = "packed"
        torch.testing.assert_close(encoder(inputs).pooled_BD, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "bert", "modernbert", "gpt2", "llama"])
def test_checkpointing_changes_no_packed_gradient(kind):
    encoder = make(kind, "last").double()
    inputs = batch(encoder)
    wanted, _ = outcome(encoder, inputs, "packed")
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for rate in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    encoder.set_checkpointing(True)
    for way in ("packed", "grouped"):
        found, _ = outcome(encoder, inputs, way)
        assert_equal(found, wanted, tolerance=1e-12)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_adapters_learn_the_same(kind, method):
    encoder = make(kind, "last")
    add_adapters(encoder, LoraSettings(rank=2), method=method)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    encoder.double()
    inputs = batch(encoder)
    wanted, _ = outcome(encoder, inputs, "padded")
    assert any("lora_A" in name for name in wanted)
    for way in ("packed", "grouped"):
        found, _ = outcome(encoder, inputs, way)
        assert_equal(found, wanted, tolerance=1e-12)


@pytest.mark.parametrize("way", ["packed", "grouped"])
def test_dropout_drops_as_often_and_repeats_with_the_seed(way):
    encoder = make("bert", "mean", kwargs=dict(hidden_dropout_prob=0.3)).train()
    inputs = batch(encoder)
    encoder.text_batching = way

    def mean_square(seeds):
        squares = []
        for seed in seeds:
            torch.manual_seed(seed)
            squares.append(encoder(inputs).pooled_BD.detach().square().mean())
        return torch.stack(squares)

    assert torch.equal(mean_square(range(3)), mean_square(range(3)))
    here = mean_square(range(16))
    assert here.unique().numel() == 16
    encoder.text_batching = "padded"
    there = mean_square(range(16))
    spread = (here.var() / 16 + there.var() / 16).sqrt()
    assert (here.mean() - there.mean()).abs() < 4 * spread


@pytest.mark.slow  # tracing takes its time
@pytest.mark.parametrize("kind", ["clip", "bert"])
def test_compiled_blocks_are_the_same(kind):
    encoder = make(kind, "last")
    plain = copy.deepcopy(encoder)
    for block in encoder.blocks():
        if block.repeated:
            for module in block.modules:
                module.compile(backend="eager")
    for lengths in (LENGTHS, (3, 20, 4), (8, 2, 2, 17, 5)):
        inputs = batch(encoder, lengths)
        wanted, _ = outcome(plain, inputs, "padded")
        found, plan = outcome(encoder, inputs, "packed")
        assert isinstance(plan, RowPlan)
        assert_equal(found, wanted, tolerance=2e-6)


def test_auto_takes_what_saves_enough():
    def chosen(kind, lengths, **more):
        encoder = make(kind)
        return encoder._layout(batch(encoder, lengths, **more))

    uneven = (20, *[3] * 40)
    assert isinstance(chosen("clip", uneven), RowPlan)
    assert isinstance(chosen("mpnet", uneven), GroupPlan)
    for kind in ("clip", "mpnet"):
        assert chosen(kind, [9] * 40) is None
        assert chosen(kind, [9, 10] * 20) is None
        assert chosen(kind, (20, 3, 3)) is None  # too few to matter
    # Padded beyond its longest caption.
    rows = chosen("clip", [9] * 40, padded_to=20)
    assert rows.width in (9, 18)
    # Text that nobody asked to lay out otherwise stays as it is.
    encoder = make("clip", batching="padded")
    assert encoder._layout(batch(encoder, uneven)) is None


def test_long_captions_of_a_sliding_window_are_not_packed():
    windowed = dict(PACKED["modernbert"], local_attention=16)
    encoder = HfText(config=windowed).eval().double()
    layouts = encoder._layouts
    assert layouts.window == 8
    assert isinstance(choose_layout([8, 2, 3], 8, "packed", layouts), RowPlan)
    assert choose_layout([9, 2, 3], 9, "packed", layouts) is None
    # With auto they go in groups, and nothing changes.
    lengths = (20, *[3] * 40)
    inputs = batch(encoder, lengths)
    wanted, _ = outcome(encoder, inputs, "padded")
    found, plan = outcome(encoder, inputs, "auto")
    assert isinstance(plan, GroupPlan)
    assert_equal(found, wanted, tolerance=1e-12)


@pytest.mark.parametrize(
    ("config", "way"),
    [
        (dict(model_type="bloom", vocab_size=50, hidden_size=16, n_layer=2, n_head=2), "grouped"),
        (GROUPED["mpnet"], "packed"),
        (PACKED["bert"] | dict(is_decoder=True), "packed"),
        (PACKED["bert"] | dict(chunk_size_feed_forward=2), "packed"),
        (
            PACKED["llama"]
            | dict(rope_parameters=dict(rope_type="dynamic", factor=2.0, rope_theta=1e4)),
            "packed",
        ),
    ],
)
def test_models_that_would_change_are_left_alone(config, way):
    with pytest.raises(UserError, match=f"batching: {way} is not known to be exact"):
        HfText(config=config, batching=way)
    encoder = HfText(config=config)
    if way == "grouped" or config["model_type"] in ("bert", "llama"):
        assert encoder._layout(batch(lengths=(20, *[3] * 40))) is None


def test_a_convolution_over_tokens_is_left_alone():
    model = make("deberta-v2").model
    assert exact_layouts(model).grouped
    model.config.conv_kernel_size = 3  # of DeBERTa-v2-xlarge
    assert not exact_layouts(model).grouped


def test_an_unknown_way_is_named():
    with pytest.raises(UserError, match="batching: 'rows'; use one of auto, packed, grouped"):
        HfText(config=PACKED["bert"], batching="rows")


def test_the_way_is_kept_when_the_encoder_is_rebuilt():
    encoder = make("bert", batching="grouped")
    assert HfText(**encoder.rebuild_args()).text_batching == "grouped"


def test_masks_with_holes_and_empty_captions_stay_padded():
    encoder = make("bert", batching="packed")
    inputs = batch(encoder)
    inputs.mask_NL[1, 3] = False
    assert encoder._layout(inputs) is None
    inputs = batch(encoder)
    inputs.mask_NL[3] = False
    assert encoder._layout(inputs) is None
    assert encoder._layout(replace(inputs, mask_NL=inputs.mask_NL[:0])) is None


def test_attention_that_takes_no_mask_of_blocks_is_not_packed():
    encoder = make("bert", batching="packed")
    encoder.model.set_attn_implementation("eager")
    assert encoder._layout(batch(encoder)) is None


@pytest.mark.parametrize("way", ["packed", "grouped"])
def test_explanations_see_padded_captions(way):
    encoder = make("bert", "cls", batching=way)
    inputs = batch(encoder)
    with torch.no_grad():
        plain = encoder(inputs).pooled_BD
        with encoder.explicit_attention() as layers:
            stepwise = encoder(inputs).pooled_BD
        assert layers[0].shape == (10, 2, 20, 20) and len(layers) == 2
        torch.testing.assert_close(stepwise, plain, atol=1e-5, rtol=1e-5)
        assert attention_maps(encoder, inputs).layers[0].shape == (10, 2, 20, 20)
    canvas = encoder.read_canvas(inputs)
    assert canvas.values.shape == (10, 20, 16)
    values = canvas.values.clone().requires_grad_()
    with encoder.reading(values):
        again = encoder(inputs).pooled_BD
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(again.square().sum(), values)
    assert gradient[inputs.mask_NL].abs().sum() > 0 and not gradient[~inputs.mask_NL].any()
    assert encoder._layout(inputs) is not None


def test_exports_are_padded():
    encoder = make("bert", "last", batching="packed")
    inputs = batch(encoder)

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, ids, mask):
            return self.encoder(replace(inputs, token_ids_NL=ids, mask_NL=mask)).pooled_BD

    example = (inputs.token_ids_NL, inputs.mask_NL)
    axes = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},) * 2
    program = torch.export.export(Wrapped(), example, dynamic_shapes=axes, strict=False)
    other = batch(encoder, (2, 7, 9))
    torch.testing.assert_close(
        program.module()(other.token_ids_NL, other.mask_NL),
        encoder(other).pooled_BD,
        atol=1e-5,
        rtol=1e-5,
    )


def test_sharded_models_are_not_called_once_per_group():
    from torch.distributed.fsdp import FSDPModule

    encoder = make("mpnet", batching="grouped")
    assert not has_collective_forwards(encoder) and encoder._layout(batch(encoder)) is not None
    layer = encoder.model.encoder.layer[0]
    layer.__class__ = type("Sharded", (FSDPModule, type(layer)), {})
    assert has_collective_forwards(encoder) and encoder._layout(batch(encoder)) is None


RANKS = ((20, *[2] * 30, 1), [7] * 32)


def _train_on_ranks():
    """One rank packs, the other pads; a third of a tower's captions are missing on rank 0."""
    encoder = make("bert", "mean").double()
    lengths = RANKS[torch.distributed.get_rank()]
    model = torch.nn.parallel.DistributedDataParallel(encoder)
    inputs = batch(encoder, lengths)
    taken = encoder._layout(inputs) is not None
    model(inputs).pooled_BD.square().sum().backward()
    gradients = {n: p.grad for n, p in encoder.named_parameters()}
    return {"taken": taken, "gradients": gradients}


@pytest.mark.slow  # two processes import transformers
def test_ranks_that_pack_and_ranks_that_do_not_agree(tmp_path):
    results = run_ranks(_train_on_ranks, world_size=2, folder=tmp_path)
    assert [result["taken"] for result in results] == [True, False]
    encoder = make("bert", "mean", batching="padded").double()
    for lengths in RANKS:
        encoder(batch(encoder, lengths)).pooled_BD.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        for result in results:
            torch.testing.assert_close(result["gradients"][name] * 2, parameter.grad)


def test_a_packed_batch_is_planned_before_it_reaches_the_device():
    text = batch(lengths=(4, 2, 9))
    assert text.lengths() == [4, 2, 9]
    known = replace(text, mask_NL=text.mask_NL.clone())
    known.mask_NL._mmlight_lengths = [1, 1, 1]  # as if it had been moved
    assert known.lengths() == [1, 1, 1]
    # Other captions, other tensors: what was known is not carried over.
    assert known.map(lambda rows: rows[:2]).lengths() == [4, 2]
    assert hf_text.is_traced(text.mask_NL.to("meta"))
