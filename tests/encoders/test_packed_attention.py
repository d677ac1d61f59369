from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from encoder_inputs import SIZES, TEXT_CONFIGS, captions
from torch.nn.attention import varlen

from mmlight.encoders import packed_text
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.packed_text import PackedText
from mmlight.encoders.text_rows import plan_rows

LENGTHS = (5, 17, 3, 1, 9, 20, 4, 4, 2, 11)
CONFIGS = TEXT_CONFIGS | {
    "gpt_neox": dict(model_type="gpt_neox", vocab_size=50, max_position_embeddings=24, **SIZES),
    "qwen2": dict(
        model_type="qwen2",
        num_key_value_heads=1,
        **dict(vocab_size=50, max_position_embeddings=24, **SIZES),
    ),
}


def slow_varlen(
    query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size=(-1, -1)
):
    """What the kernel computes, one sequence after another."""
    assert query.ndim == key.ndim == 3 and query.shape == key.shape == value.shape
    assert starts.dtype == torch.int32 and starts is starts_k
    ends = starts.tolist()
    sizes = [after - before for before, after in pairwise(ends)]
    assert ends[0] == 0 and ends[-1] == len(query) and min(sizes) > 0
    assert max(sizes) == longest == longest_k
    attended = [
        F.scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in parts),
            scale=scale,
            is_causal=window_size == (-1, 0),
        ).transpose(0, 1)
        for parts in zip(query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    ]
    return torch.cat(attended)


@pytest.fixture
def on_device(monkeypatch):
    """Take the way of a GPU, with its kernel written out; gives the number of calls."""
    calls = []

    def kernel(*args, **kwargs):
        calls.append(1)
        return slow_varlen(*args, **kwargs)

    monkeypatch.setattr(packed_text, "fits_flash", lambda *_, dropout: dropout == 0)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    plain = PackedText.model_args

    def model_args(self):
        return plain(self) | self.sequence_args()

    monkeypatch.setattr(PackedText, "model_args", model_args)
    return calls


def gradients(encoder, inputs):
    encoder.zero_grad()
    features = encoder(inputs).pooled_BD
    features.square().sum().backward()
    named = encoder.named_parameters()
    return [features.detach(), *(p.grad.clone() for _, p in named if p.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_sequences_reach_the_kernel_of_every_model(kind, checkpointing, on_device):
    torch.manual_seed(0)
    config = dict(CONFIGS[kind])
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        if kind in ("bert", "roberta"):
            config[name] = 0.0
    if kind == "gpt2":
        config |= dict(attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    if kind == "distilbert":
        config |= dict(dropout=0.0, attention_dropout=0.0)
    encoder = HfText(config=config, pool="last", batching="padded").double().train()
    inputs = captions(LENGTHS)
    wanted = gradients(encoder, inputs)
    packed_text.use_packed_attention(encoder.model, causal=encoder._layouts.causal)
    assert packed_text.is_fused(encoder.model)
    assert not on_device
    encoder.set_checkpointing(checkpointing)
    encoder.text_batching = "packed"
    found = gradients(encoder, inputs)
    # Layers that are computed again in backward find the same sequences.
    assert len(on_device) == (4 if checkpointing else 2)
    for value, known in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, known, atol=1e-11, rtol=1e-10)


def test_dropout_goes_through_the_mask(on_device):
    encoder = HfText(config=TEXT_CONFIGS["bert"], batching="packed").train()
    packed_text.use_packed_attention(encoder.model, causal=False)
    assert encoder(captions(LENGTHS)).pooled_BD.isfinite().all()
    assert not on_device


def test_without_sequences_it_is_sdpa():
    torch.manual_seed(0)
    encoder = HfText(config=TEXT_CONFIGS["clip"], pool="last").eval()
    inputs = captions(LENGTHS)
    wanted = gradients(encoder, inputs)
    packed_text.use_packed_attention(encoder.model, causal=True)
    for value, known in zip(gradients(encoder, inputs), wanted, strict=True):
        assert torch.equal(value, known)
    # What is saved loads without this package.
    assert "mmlight" not in str(encoder.model.config.to_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("kind", ["clip", "bert", "roberta", "llama", "qwen2"])
def test_a_gpu_packs_exactly(kind, dtype, monkeypatch):
    wide = dict(hidden_size=64, intermediate_size=128)  # flash attention takes eights
    config = CONFIGS[kind] | wide
    if kind in ("bert", "roberta"):
        config |= dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    torch.manual_seed(0)
    encoder = HfText(config=config, pool="last").cuda().train()
    inputs = captions(LENGTHS).to("cuda")
    # Moving noted the lengths, so that nothing waits for the device.
    assert inputs.mask_NL._mmlight_lengths == list(LENGTHS)
    calls = []
    kernel = varlen.varlen_attn
    monkeypatch.setattr(
        varlen, "varlen_attn", lambda *args, **more: calls.append(1) or kernel(*args, **more)
    )

    def run(way):
        encoder.text_batching = way
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return gradients(encoder, inputs)

    wanted, found = run("padded"), run("packed")
    assert bool(calls) == (dtype != torch.float32)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for value, known in zip(found, wanted, strict=True):
        scale = known.abs().max().clamp(min=1e-3)
        assert (value - known).abs().max() <= tolerance * scale + tolerance


@pytest.mark.gpu
def test_planning_does_not_wait_for_the_gpu():
    encoder = HfText(config=TEXT_CONFIGS["clip"], pool="last", batching="packed")
    encoder.cuda().eval()
    inputs = captions(LENGTHS).to("cuda")
    encoder(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        encoder(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_free_ends_of_rows_are_sequences_of_their_own():
    encoder = HfText(config=TEXT_CONFIGS["clip"])
    inputs = captions((20, 15, 9, 4))
    plan = plan_rows([20, 15, 9, 4])
    packed = encoder._pack(inputs, plan)
    starts = packed.start_S.tolist()
    assert starts == sorted(set(starts)) and starts[-1] == plan.num_places
    assert packed.mask_R1CC.any(-1).all()
    assert packed.longest == 20
