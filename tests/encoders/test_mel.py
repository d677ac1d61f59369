import pytest
import torch
import torchaudio
from encoder_inputs import clips

from mmlight.encoders.mel import LogMel, LogMelSettings
from mmlight.errors import UserError


@pytest.mark.parametrize(
    "settings",
    [
        LogMelSettings(mean=0.0, std=1.0),
        LogMelSettings(
            sample_rate_hz=44100, n_mels=40, f_min_hz=50, f_max_hz=14000, mean=0.0, std=1.0
        ),
        LogMelSettings(n_fft=1024, hop_ms=5, mel_scale="slaney", mean=0.0, std=1.0),
    ],
)
def test_equals_torchaudio(settings):
    module = LogMel(settings)
    reference = torchaudio.transforms.MelSpectrogram(
        settings.sample_rate_hz,
        n_fft=module.power.n_fft,
        win_length=len(module.power.window),
        hop_length=module.hop,
        f_min=settings.f_min_hz,
        f_max=settings.f_max_hz,
        n_mels=settings.n_mels,
        pad_mode="constant",
        mel_scale=settings.mel_scale,
        norm="slaney" if settings.mel_scale == "slaney" else None,
    )
    wave = clips((16000, 16000)).waveform_BT
    expected = reference(wave)
    torch.testing.assert_close(module.power(wave), expected, rtol=1e-6, atol=1e-6)
    spectra = module(wave, torch.tensor([16000, 16000]))
    torch.testing.assert_close(spectra.log_mel_BML, expected.clamp(min=1e-6).log())


def test_decibel_equals_torchaudio():
    wave = clips((16000,)).waveform_BT
    settings = LogMelSettings(log="decibel", floor=1e-10, mean=0.0, std=1.0)
    module = LogMel(settings)
    expected = torchaudio.transforms.AmplitudeToDB()(module.power(wave))
    torch.testing.assert_close(
        module(wave, torch.tensor([16000])).log_mel_BML, expected, rtol=1e-5, atol=1e-4
    )


def test_padding_changes_no_frame_and_is_zero():
    module = LogMel(LogMelSettings())
    alone, batch = clips((4000,)), clips((4000, 9000))
    alone_frames = module(alone.waveform_BT, alone.length_B)
    frames = module(batch.waveform_BT, batch.length_B)
    assert frames.length_B.tolist() == [26, 57]
    torch.testing.assert_close(frames.log_mel_BML[0, :, :26], alone_frames.log_mel_BML[0])
    assert frames.log_mel_BML[0, :, 26:].eq(0).all()


def test_statistics_of_each_band():
    wave = clips((8000,))
    plain = LogMel(LogMelSettings(n_mels=32, mean=0.0, std=1.0))(wave.waveform_BT, wave.length_B)
    mean = plain.log_mel_BML.mean((0, 2))
    std = plain.log_mel_BML.std((0, 2))
    settings = LogMelSettings(n_mels=32, mean=mean.tolist(), std=std.tolist())
    normal = LogMel(settings)(wave.waveform_BT, wave.length_B).log_mel_BML
    torch.testing.assert_close(normal.mean((0, 2)), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 2)), torch.ones(32), atol=1e-4, rtol=0)


def test_autocast_leaves_spectra_in_float32():
    wave = clips((8000,))
    module = LogMel(LogMelSettings())
    with torch.autocast("cpu", torch.bfloat16):
        spectra = module(wave.waveform_BT, wave.length_B)
    assert spectra.log_mel_BML.dtype == torch.float32
    torch.testing.assert_close(
        spectra.log_mel_BML, module(wave.waveform_BT, wave.length_B).log_mel_BML
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_fft=256), "shorter than the window of 400"),
        (dict(f_max_hz=9000), "half the sampling rate"),
        (dict(n_mels=400), "hold no frequency"),
        (dict(mean=[1.0, 2.0]), "2 values for 64 bands"),
        (dict(std=0.0), "must be above 0"),
        (dict(log="log10"), "log is one of"),
        (dict(hop_ms=0.0), "must be above 0"),
        (dict(floor=0.0), "must be above 0"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        LogMel(LogMelSettings(**settings))
