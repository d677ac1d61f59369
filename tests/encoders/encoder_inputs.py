"""Tiny inputs and settings for the encoder tests."""

import torch

from mmlight.batch import Audio, Images, Text

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
TEXT_CONFIGS = {
    "bert": dict(model_type="bert", vocab_size=50, max_position_embeddings=20, **SIZES),
    "roberta": dict(model_type="roberta", vocab_size=50, max_position_embeddings=22, **SIZES),
    "distilbert": dict(
        model_type="distilbert",
        **dict(vocab_size=50, max_position_embeddings=20, dim=16, n_layers=2, n_heads=2),
        hidden_dim=32,
    ),
    "modernbert": dict(
        model_type="modernbert",
        vocab_size=50,
        max_position_embeddings=20,
        **dict(pad_token_id=0, cls_token_id=1, bos_token_id=1, sep_token_id=2, eos_token_id=2),
        **SIZES,
    ),
    "clip": dict(
        model_type="clip_text_model",
        vocab_size=50,
        max_position_embeddings=20,
        **dict(bos_token_id=48, eos_token_id=49),
        **SIZES,
    ),
    "gpt2": dict(
        model_type="gpt2",
        **dict(vocab_size=50, n_positions=20, n_embd=16, n_layer=2, n_head=2),
        **dict(bos_token_id=49, eos_token_id=49),
    ),
    "llama": dict(model_type="llama", vocab_size=50, max_position_embeddings=20, **SIZES),
}
# Pads to all of its positions, which no way of batching may change.
SIGLIP_TEXT = dict(
    model_type="siglip_text_model",
    vocab_size=50,
    max_position_embeddings=20,
    projection_size=16,
    **dict(pad_token_id=1, bos_token_id=48, eos_token_id=49),
    **SIZES,
)
WAVE = dict(
    **SIZES,
    **dict(conv_dim=[8, 8], conv_stride=[5, 4], conv_kernel=[10, 8]),
    **dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2),
)
AUDIO_CONFIGS = {
    "wav2vec2": dict(model_type="wav2vec2", feat_extract_norm="group", **WAVE),
    "wav2vec2-stable": dict(
        model_type="wav2vec2", feat_extract_norm="layer", do_stable_layer_norm=True, **WAVE
    ),
    "hubert": dict(model_type="hubert", feat_extract_norm="group", **WAVE),
    "whisper": dict(
        model_type="whisper",
        **dict(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32),
        **dict(num_mel_bins=80, max_source_positions=50),
    ),
    "ast": dict(
        model_type="audio-spectrogram-transformer",
        **SIZES,
        **dict(num_mel_bins=32, max_length=64, time_stride=8, frequency_stride=8),
    ),
    "clap": dict(
        model_type="clap_audio_model",
        **dict(patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[2, 2]),
        **dict(hidden_size=16, num_mel_bins=64, spec_size=256, num_hidden_layers=2),
    ),
}


def images(size=32, *, channels=3, count=2):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator
    )
    return Images(pixels, torch.ones(count, dtype=torch.bool))


def captions(lengths=(5, 3), *, padded_to=None):
    generator = torch.Generator().manual_seed(0)
    size, longest = len(lengths), padded_to or max(lengths)
    ids = torch.zeros(size, longest, dtype=torch.int64)
    mask = torch.zeros(size, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 49, (length,), generator=generator)
        mask[row, :length] = True
    return Text(ids, mask, mask[:, 0], torch.arange(size), torch.arange(size))


def clips(lengths=(6400, 4000), *, padded_to=None):
    generator = torch.Generator().manual_seed(0)
    size, longest = len(lengths), padded_to or max(lengths)
    waveform = torch.zeros(size, longest)
    for row, length in enumerate(lengths):
        waveform[row, :length] = torch.rand(length, generator=generator) - 0.5
    length_B = torch.tensor(lengths)
    return Audio(waveform, length_B, length_B > 0)


def assert_blocks_partition(encoder):
    """Each parameter in exactly one block."""
    seen = [id(p) for block in encoder.blocks() for m in block.modules for p in m.parameters()]
    assert len(seen) == len(set(seen))
    assert set(seen) == {id(p) for p in encoder.parameters()}


def assert_checkpointing_keeps_gradients(encoder, inputs):
    encoder.train()

    def gradients():
        encoder.zero_grad()
        torch.manual_seed(0)
        encoder(inputs).pooled_BD.square().sum().backward()
        return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.requires_grad}

    # A parameter without a gradient would stop DDP; `.clone()` of None fails here.
    plain = gradients()
    encoder.set_checkpointing(True)
    recomputed = gradients()
    encoder.set_checkpointing(False)
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


def assert_bf16_is_finite(encoder, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encoder.train()(inputs)
    encoded.pooled_BD.float().square().sum().backward()
    assert encoded.pooled_BD.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
