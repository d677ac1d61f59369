"""Spoils waveforms: noise in the background, another tempo.

Both take and give mono float32 in [-1, 1]; `amount` is what `KINDS` of `corruptions` says.
"""

import numpy as np
import torch
from torchaudio.functional import phase_vocoder

from mmlight.data.decode.audio import Waveform
from mmlight.data.decode.draw import Draws

_WINDOW_S = 0.032


def noise(waveform: Waveform, *, amount: float, draws: Draws, sample_rate_hz: int) -> Waveform:
    """Add pink noise at a signal-to-noise ratio of `amount` dB over the whole clip.

    Pink noise loses 3 dB per octave, as most background noise does. A mixture that is too loud is
    turned down as a whole, which keeps the ratio. A silent clip stays silent.
    """
    count = len(waveform)
    spectrum = np.fft.rfft(draws.normals(count))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    pink = np.fft.irfft(spectrum, n=count)
    power = np.mean(np.square(pink))
    if power == 0:  # a clip of one sample
        return waveform
    wanted = np.mean(np.square(waveform, dtype=np.float64)) / 10 ** (amount / 10)
    mixed = waveform + np.sqrt(wanted / power) * pink
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


def tempo(waveform: Waveform, *, amount: float, draws: Draws, sample_rate_hz: int) -> Waveform:
    """Play faster or slower, as drawn, by the factor `amount`; the pitch stays.

    A phase vocoder over Hann windows of 32 ms.
    """
    rate = amount if draws.integer(2) else 1 / amount
    length = max(1, round(len(waveform) / rate))
    n_fft = 1 << max(round(_WINDOW_S * sample_rate_hz) - 1, 3).bit_length()
    hop = n_fft // 4
    window = torch.hann_window(n_fft)
    spectrum = torch.stft(
        torch.from_numpy(waveform),
        n_fft,
        hop,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    advance = torch.linspace(0, torch.pi * hop, n_fft // 2 + 1).unsqueeze(1)
    stretched = phase_vocoder(spectrum, rate, advance)
    result = torch.istft(stretched, n_fft, hop, window=window, length=length)
    return result.clamp(-1, 1).numpy()
