import json

import numpy as np
import pytest
import torch
import transformers
from encoder_inputs import (
    AUDIO_CONFIGS,
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    clips,
)

from mmlight.encoders.hf_audio import HfAudio
from mmlight.errors import UserError

# CLAP on one second at 16 kHz: a repeated clip of ten at 48 kHz would make the tests slow.
CLAP = dict(sampling_rate=16000, hop_length=160, max_length_s=1, frequency_max=7500)
FIXED = ("whisper", "ast", "clap")


def make(kind, **more):
    torch.manual_seed(0)
    if kind == "clap":
        more = dict(features=CLAP) | more
    return HfAudio(config=AUDIO_CONFIGS[kind], **more)


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
def test_shapes_and_blocks(kind):
    encoder = make(kind).eval()
    encoded = encoder(clips(), tokens=True)
    assert encoded.pooled_BD.shape == (2, encoder.out_dim) == (2, 16)
    assert encoded.tokens_BLD.shape[::2] == (2, 16)
    assert encoded.mask_BL.shape == encoded.tokens_BLD.shape[:2]
    assert encoder.sample_rate_hz == 16000
    assert_blocks_partition(encoder)
    repeated = [block for block in encoder.blocks() if block.repeated]
    assert [len(block.modules) for block in repeated] == [1, 1]
    assert encoder.no_weight_decay() <= {name for name, _ in encoder.named_parameters()}


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
@pytest.mark.parametrize("pool", [None, "attention"])
def test_padding_changes_no_clip(kind, pool):
    encoder = make(kind, pool=pool).eval()
    short = encoder(clips()).pooled_BD
    padded = encoder(clips(padded_to=9900)).pooled_BD
    torch.testing.assert_close(padded, short, atol=1e-5, rtol=1e-5)
    alone = encoder(clips((6400,))).pooled_BD
    torch.testing.assert_close(alone[0], short[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-stable", "hubert"])
def test_frames_of_a_clip_in_a_batch_equal_those_of_the_model_alone(kind):
    encoder = make(kind).eval()
    batch = clips()
    encoded = encoder(batch, tokens=True)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    for row, length in enumerate(batch.length_B.tolist()):
        wave = batch.waveform_BT[row, :length].numpy()
        values = extractor(wave, sampling_rate=16000, return_tensors="pt").input_values
        expected = encoder.model(values).last_hidden_state[0]
        real = encoded.tokens_BLD[row][encoded.mask_BL[row]]
        torch.testing.assert_close(real, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["whisper", "ast", "clap", "clap-fused"])
def test_features_equal_those_of_transformers(kind):
    """Within 1e-4 of log-mels that span some 10 (decibels, some 100, within 1e-3)."""
    batch = clips((16000, 9000, 20000))
    waves = [batch.waveform_BT[row, :length].numpy() for row, length in enumerate(batch.length_B)]
    if kind == "whisper":
        encoder = make(kind)
        extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
        expected = extractor(waves, sampling_rate=16000, return_tensors="np").input_features
    elif kind == "ast":
        encoder = make(kind)
        extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
        expected = extractor(waves, sampling_rate=16000, return_tensors="np").input_values
    else:
        # Without the clip that transformers cuts at a random place.
        batch = clips((16000, 9000, 5000))
        waves = [
            batch.waveform_BT[row, :length].numpy() for row, length in enumerate(batch.length_B)
        ]
        fused = kind == "clap-fused"
        config = AUDIO_CONFIGS["clap"] | dict(enable_fusion=fused)
        if fused:
            config |= dict(fusion_type="aff_2d")
        encoder = HfAudio(config=config, features=CLAP)
        extractor = transformers.ClapFeatureExtractor(
            **CLAP, truncation="fusion" if fused else "rand_trunc"
        )
        expected = extractor(waves, sampling_rate=16000, return_tensors="np").input_features
        expected = np.asarray(expected)[:, :1]
    values = encoder.features(batch.waveform_BT, batch.length_B).values.numpy()
    assert values.shape == expected.shape
    tolerance = 1e-3 if "clap" in kind else 1e-4
    np.testing.assert_allclose(values, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("padding", ["pad", "repeat", "repeatpad"])
def test_clap_repeats_short_clips_as_asked(padding):
    settings = CLAP | dict(padding=padding)
    encoder = make("clap", features=settings)
    batch = clips((3000,))
    extractor = transformers.ClapFeatureExtractor(**settings, truncation="rand_trunc")
    expected = extractor(batch.waveform_BT[0].numpy(), sampling_rate=16000).input_features
    values = encoder.features(batch.waveform_BT, batch.length_B).values.numpy()
    np.testing.assert_allclose(values, np.asarray(expected), atol=1e-3, rtol=0)


def test_masks_follow_the_lengths():
    whisper = make("whisper").eval()(clips((16000, 3300)), tokens=True)
    assert whisper.mask_BL.sum(1).tolist() == [50, 11]
    ast = make("ast").eval()(clips((16000, 400 + 15 * 160)), tokens=True)
    # 32 x 64 in patches of 16 x 16 every 8: 3 rows of 7; 16 frames reach 2 columns.
    assert ast.mask_BL.view(2, 3, 7).sum(2).tolist() == [[7] * 3, [2] * 3]


@pytest.mark.parametrize(
    ("kind", "frame_ms"),
    [("wav2vec2", 1.25), ("hubert", 1.25), ("whisper", 20.0), ("ast", None), ("clap", None)],
)
def test_frame_ms_is_the_distance_of_two_tokens_in_time(kind, frame_ms):
    encoder = make(kind).eval()
    assert encoder.frame_ms == frame_ms
    if frame_ms is not None:
        short, long = (
            int(encoder(clips((length,)), tokens=True).mask_BL.sum()) for length in (3200, 6400)
        )
        assert (long - short) * frame_ms == pytest.approx(200, abs=frame_ms)


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
def test_missing_and_overlong_clips_stay_finite(kind):
    encoder = make(kind).eval()
    assert encoder(clips((0, 30000))).pooled_BD.isfinite().all()
    assert encoder(clips((0, 0), padded_to=1)).pooled_BD.isfinite().all()


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
def test_all_parameters_learn_and_checkpointing_changes_no_gradient(kind):
    encoder = make(kind)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    assert_checkpointing_keeps_gradients(encoder, clips())


def test_masking_in_training_is_off_unless_asked_for():
    encoder = make("wav2vec2")
    assert not hasattr(encoder.model, "masked_spec_embed")
    assert encoder.model.config.layerdrop == 0
    asked = make("wav2vec2", kwargs=dict(mask_time_prob=0.5, mask_time_length=2))
    batch = clips()
    asked.eval()
    plain = asked(batch).pooled_BD
    for module in asked.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    asked.train()
    for layer in asked.model.encoder.layers:
        layer.attention.dropout = 0.0
    assert not torch.allclose(asked(batch).pooled_BD, plain)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "ast", "clap"])
def test_checkpoints_load(tmp_path, kind):
    first = make(kind).eval()
    first.model.save_pretrained(tmp_path)
    more = dict(features=CLAP) if kind == "clap" else {}
    second = HfAudio(pretrained=str(tmp_path), **more).eval()
    torch.testing.assert_close(second(clips()).pooled_BD, first(clips()).pooled_BD)
    third = HfAudio(**second.rebuild_args()).eval()
    third.load_state_dict(second.state_dict())
    torch.testing.assert_close(third(clips()).pooled_BD, first(clips()).pooled_BD)


def test_a_whole_whisper_checkpoint_gives_its_encoder(tmp_path):
    fields = {k: v for k, v in AUDIO_CONFIGS["whisper"].items() if k != "model_type"}
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    config = transformers.WhisperConfig(
        **fields, **ids, vocab_size=20, decoder_layers=1, decoder_attention_heads=2
    )
    whole = transformers.WhisperForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    encoder = HfAudio(pretrained=str(tmp_path)).eval()
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    batch = clips((16000,))
    values = encoder.features(batch.waveform_BT, batch.length_B).values
    expected = whole.model.encoder(values).last_hidden_state.mean(1)
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)
    again = HfAudio(**encoder.rebuild_args()).eval()
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(again(batch).pooled_BD, expected)


def test_a_whole_clap_checkpoint_gives_its_audio_tower_and_features(tmp_path):
    audio = {k: v for k, v in AUDIO_CONFIGS["clap"].items() if k != "model_type"}
    text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    whole = transformers.ClapModel(
        transformers.ClapConfig(text_config=text, audio_config=audio)
    ).eval()
    whole.save_pretrained(tmp_path)
    transformers.ClapFeatureExtractor(**CLAP).save_pretrained(tmp_path)
    encoder = HfAudio(pretrained=str(tmp_path)).eval()
    assert encoder.sample_rate_hz == 16000
    batch = clips((16000,))
    values = encoder.features(batch.waveform_BT, batch.length_B).values
    expected = whole.audio_model(values).pooler_output
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "exactly one of config and pretrained; neither"),
        (dict(config={"model_type": "bert"}), "'bert' is no audio encoder"),
        (dict(config={"model_type": "clap"}), "use clap_audio_model"),
        (dict(config=AUDIO_CONFIGS["ast"] | {"strid": 1}), "no field 'strid'"),
        (
            dict(config=AUDIO_CONFIGS["ast"], features={"men": 0.0}),
            "no 'men' .did you mean 'mean'",
        ),
        (
            dict(config=AUDIO_CONFIGS["ast"], features={"max_length": 100}),
            "features.max_length: 100, but the model has 64",
        ),
        (dict(config=AUDIO_CONFIGS["whisper"], pool="model"), "does not suit"),
        (dict(config=AUDIO_CONFIGS["ast"], pool="cls"), "does not suit"),
        (dict(config=AUDIO_CONFIGS["wav2vec2"] | {"add_adapter": True}), "add_adapter"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        HfAudio(**arguments)


@pytest.mark.parametrize("kind", AUDIO_CONFIGS)
def test_bf16_autocast_is_finite(kind):
    assert_bf16_is_finite(make(kind), clips())


OWN_FEATURES = {
    "ast": transformers.ASTFeatureExtractor(
        num_mel_bins=32, max_length=64, sampling_rate=8000, mean=-3.0, std=2.5
    ),
    "wav2vec2": transformers.Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8000),
    "whisper": transformers.WhisperFeatureExtractor(chunk_length=1, n_fft=320, hop_length=160),
    "clap": transformers.ClapFeatureExtractor(
        **CLAP | {"padding": "repeat", "truncation": "rand_trunc"}
    ),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", OWN_FEATURES)
def test_a_checkpoints_own_features_are_taken_and_outlive_it(tmp_path, kind, whole):
    saved = transformers.WhisperModel(
        transformers.WhisperConfig(
            **{k: v for k, v in AUDIO_CONFIGS["whisper"].items() if k != "model_type"},
            **dict(vocab_size=20, decoder_layers=1, decoder_attention_heads=2),
            **dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
        )
    )
    (saved if kind == "whisper" else make(kind).model).save_pretrained(tmp_path)
    extractor = OWN_FEATURES[kind]
    if whole:  # as transformers 5 saves a processor, with a tokenizer, say, beside it
        said = json.dumps({"feature_extractor": extractor.to_dict(), "processor_class": "X"})
        (tmp_path / "processor_config.json").write_text(said)
    else:
        extractor.save_pretrained(tmp_path)
    encoder = HfAudio(pretrained=str(tmp_path))
    rate = extractor.sampling_rate
    assert encoder.preparation()["sample_rate_hz"] == rate
    batch = clips((9000,))
    wave = batch.waveform_BT[0, :9000].numpy()
    made = extractor(wave, sampling_rate=rate, return_tensors="np")
    expected = np.asarray(made[extractor.model_input_names[0]])
    again = HfAudio(**encoder.rebuild_args())
    for one in (encoder, again):
        values = one.features(batch.waveform_BT, batch.length_B).values.numpy()
        np.testing.assert_allclose(values, expected[:, : values.shape[1]], atol=1e-3, rtol=0)


def test_a_setting_that_the_checkpoint_does_not_name_has_an_effect(tmp_path):
    make("ast").model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 16000}')
    encoder = HfAudio(pretrained=str(tmp_path), features={"mean": -1.5})
    assert encoder.features.mean == -1.5


@pytest.mark.parametrize(
    ("kind", "seconds"), [("whisper", 1.0), ("ast", 0.655), ("clap", 1.0), ("wav2vec2", None)]
)
def test_models_of_one_length_say_it(kind, seconds):
    assert make(kind).preparation() == {"sample_rate_hz": 16000, "max_seconds": seconds}
