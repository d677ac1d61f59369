import pytest
import torch
from encoder_inputs import (
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    clips,
)

from mmlight.encoders.mel import LogMelSettings, SpecAugmentSettings
from mmlight.encoders.mel_gru import MelGru
from mmlight.errors import UserError

SMALL = dict(channels=4, dim=16, layers=2)


def make(**more):
    torch.manual_seed(0)
    encoder = MelGru(mel=LogMelSettings(n_mels=30), **(SMALL | more))
    for name, parameter in encoder.named_parameters():
        if "bias" in name:  # as after some training: padding would not stay zero
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return encoder


def test_shapes_blocks_and_frames():
    encoder = make().eval()
    encoded = encoder(clips((6400, 4000)), tokens=True)
    # 41 and 26 frames of the log-mel, a quarter of them rounded up twice.
    assert encoded.tokens_BLD.shape == (2, 11, 16)
    assert encoded.mask_BL.sum(1).tolist() == [11, 7]
    assert encoded.pooled_BD.shape == (2, encoder.out_dim)
    assert encoder.frame_ms == 40.0
    assert_blocks_partition(encoder)
    assert [block.repeated for block in encoder.blocks()] == [False, True, True, False]


@pytest.mark.parametrize("length", [4000, 4160, 4320, 4480, 4001])
def test_a_clip_gives_the_same_frames_in_any_batch(length):
    """Lengths of every remainder after division by the stride."""
    encoder = make().eval()
    alone = encoder(clips((length,)), tokens=True)
    for others in ((6400,), (16000, 800)):
        batch = clips((length, *others))
        together = encoder(batch, tokens=True)
        frames = int(together.mask_BL[0].sum())
        assert frames == int(alone.mask_BL.sum()) == alone.tokens_BLD.shape[1]
        torch.testing.assert_close(
            together.tokens_BLD[0, :frames], alone.tokens_BLD[0], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(together.pooled_BD[0], alone.pooled_BD[0], atol=1e-5, rtol=1e-5)


def test_both_directions_reach_every_frame():
    encoder = make().eval()
    before = encoder(clips((6400,)), tokens=True).tokens_BLD
    changed = clips((6400,))
    changed.waveform_BT[:, 3000:3400] *= 3
    difference_L = (encoder(changed, tokens=True).tokens_BLD - before).abs().sum(-1)[0]
    assert (difference_L > 1e-6).all()


def test_loudness_and_a_fixed_filter_make_no_difference():
    encoder = make().eval()
    loud = clips((6400,))
    quiet = clips((6400,))
    quiet.waveform_BT.mul_(0.25)
    torch.testing.assert_close(
        encoder(loud).pooled_BD, encoder(quiet).pooled_BD, atol=1e-3, rtol=1e-3
    )


def test_missing_and_tiny_clips_stay_finite():
    encoder = make().train()
    encoded = encoder(clips((6400, 0, 1)), tokens=True)
    assert encoded.tokens_BLD.isfinite().all() and encoded.mask_BL.sum(1).min() >= 1
    encoded.tokens_BLD.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder(clips((0, 0), padded_to=1)).pooled_BD.isfinite().all()


def test_all_parameters_learn_and_checkpointing_changes_no_gradient():
    encoder = make(dropout=0.2)
    assert_checkpointing_keeps_gradients(encoder, clips())


def test_rebuild_args_rebuild():
    first = make().eval()
    second = MelGru(**first.rebuild_args()).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(clips()).pooled_BD, second(clips()).pooled_BD)


def test_parts_of_the_spectrogram_are_hidden_in_training_only():
    settings = SpecAugmentSettings(time_masks=1, time_width=0.5)
    plain, hiding = make(dropout=0.0), make(dropout=0.0, spec_augment=settings)
    expected = plain(clips()).pooled_BD
    assert not torch.allclose(hiding.train()(clips()).pooled_BD, expected)
    assert torch.equal(hiding.eval()(clips()).pooled_BD, expected)
    assert MelGru(**hiding.rebuild_args()).spec_augment == settings


def test_bf16_autocast_is_finite():
    assert_bf16_is_finite(make(), clips())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(layers=0), "layers: 0 must be"),
        (dict(dropout=1.0), "dropout: 1.0 must be"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)
