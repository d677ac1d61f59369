import pytest
import torch
from encoder_inputs import AUDIO_CONFIGS, clips

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.mel import LogMelSettings, SpecAugmentSettings, spec_augment
from mmlight.encoders.mel_timm import MelTimm
from mmlight.errors import UserError
from mmlight.saved.description import describe

NARROW = dict(channels=(8, 8, 8, 8), stem_width=8)


def values(size=400):
    torch.manual_seed(0)
    lengths = torch.tensor([60, 31, 1, 0]).repeat(size // 4)
    mel = torch.randn(size, 40, 60) + 3
    mask = torch.arange(60) < lengths[:, None]
    return mel * mask[:, None], lengths


def hidden_places(settings):
    mel, lengths = values()
    torch.manual_seed(1)
    result = spec_augment(mel, lengths, settings)
    return mel, lengths, result, result != mel


def test_hides_bands_and_stretches_of_at_most_the_given_width():
    settings = SpecAugmentSettings(freq_masks=1, freq_width=0.25, time_masks=1, time_width=0.5)
    mel, lengths, result, hidden = hidden_places(settings)
    widest, longest = 0, 0
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(result[row, :, length:], mel[row, :, length:])
        if length < 2:
            continue
        bands = hidden[row, :, :length].all(1)
        frames = hidden[row, :, :length].all(0)
        # nothing but whole bands and whole frames, each in one piece
        assert torch.equal(hidden[row, :, :length], bands[:, None] | frames[None])
        for piece in (bands, frames):
            assert int((piece[1:] != piece[:-1]).sum()) <= 2
        widest = max(widest, int(bands.sum()))
        longest = max(longest, int(frames.sum())) if length == 60 else longest
        assert int(frames.sum()) <= length // 2
    assert (widest, longest) == (10, 30)


def test_hidden_places_hold_the_clips_own_mean():
    mel, lengths, result, hidden = hidden_places(SpecAugmentSettings())
    for row, length in enumerate(lengths.tolist()):
        if hidden[row].any():
            mean = mel[row, :, :length].mean()
            torch.testing.assert_close(
                result[row][hidden[row]], mean.expand(int(hidden[row].sum()))
            )


def test_the_seed_decides():
    settings = SpecAugmentSettings()
    mel, lengths = values()
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        runs.append(spec_augment(mel, lengths, settings))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def encoders():
    augment = SpecAugmentSettings(freq_masks=3, freq_width=0.5)
    yield lambda on: MelTimm(
        "resnet10t",
        mel=LogMelSettings(n_mels=32),
        kwargs=NARROW,
        spec_augment=augment if on else None,
    )
    for kind in ("whisper", "ast"):
        yield lambda on, kind=kind: HfAudio(
            config=AUDIO_CONFIGS[kind], spec_augment=augment if on else None
        )
    yield lambda on: HfAudio(
        config=AUDIO_CONFIGS["clap"],
        features=dict(sampling_rate=16000, hop_length=160, max_length_s=1, frequency_max=7500),
        spec_augment=augment if on else None,
    )


@pytest.mark.parametrize("make", list(encoders()), ids=["timm", "whisper", "ast", "clap"])
def test_encoders_augment_in_training_only(make):
    torch.manual_seed(0)
    plain = make(False)
    augmented = make(True)
    augmented.load_state_dict(plain.state_dict())

    def run(encoder, mode):
        encoder.train(mode)
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.BatchNorm2d):
                module.eval()
        torch.manual_seed(2)
        return encoder(clips()).pooled_BD

    assert torch.equal(run(plain, False), run(augmented, False))
    assert not torch.allclose(run(plain, True), run(augmented, True))
    assert describe(augmented.rebuild_args()) != describe(plain.rebuild_args())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"freq_width": 0}, "freq_width is 0"),
        ({"time_width": 1.5}, "time_width is 1.5"),
        ({"time_masks": -1}, "time_masks is -1"),
        ({"time_masks": 0, "freq_masks": 0}, "leave it out"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        SpecAugmentSettings(**settings)


def test_waveform_models_have_their_own():
    with pytest.raises(UserError, match="mask_time_prob"):
        HfAudio(config=AUDIO_CONFIGS["hubert"], spec_augment=SpecAugmentSettings())
