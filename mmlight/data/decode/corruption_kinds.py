"""The kinds of corruptions: functions that spoil pixels, waveforms and captions.

`amount` is what `mmlight.data.decode.corruptions.KINDS` says. Shapes: C channels, H and W pixels.
Pixels are uint8 of the model's size, waveforms mono float32 in [-1, 1], before and after.
"""

import math
import re

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur

from mmlight.data.decode.audio import Waveform
from mmlight.data.decode.draw import Draws

_GREY = 128


def image_noise(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Add Gaussian noise of standard deviation `amount` (of a range of 1) to each value."""
    values = draws.normals(pixels_CHW.numel()).reshape(pixels_CHW.shape) * (255 * amount)
    noisy = pixels_CHW.numpy().astype(np.float32) + values
    return torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def blur(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Blur with a Gaussian whose standard deviation is `amount` shorter sides."""
    sigma = amount * min(pixels_CHW.shape[1:])
    reach = min(math.ceil(3 * sigma), min(pixels_CHW.shape[1:]) - 1)  # mirrored at the edges
    if sigma == 0 or reach == 0:
        return pixels_CHW
    return gaussian_blur(pixels_CHW, [2 * reach + 1] * 2, [sigma, sigma])


def jpeg(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Compress to a JPEG file of quality `amount` and decode it again."""
    file = encode_jpeg(pixels_CHW.contiguous(), quality=round(amount))
    return decode_jpeg(file, mode=ImageReadMode.UNCHANGED)


def occlusion(pixels_CHW: Tensor, *, amount: float, draws: Draws) -> Tensor:
    """Cover a rectangle of `amount` of the area, shaped as the image, at a drawn place."""
    height, width = pixels_CHW.shape[1:]
    box_height, box_width = (round(side * math.sqrt(amount)) for side in (height, width))
    top = draws.integer(height - box_height + 1)
    left = draws.integer(width - box_width + 1)
    covered_CHW = pixels_CHW.clone()
    covered_CHW[:, top : top + box_height, left : left + box_width] = _GREY
    return covered_CHW


_WINDOW_S = 0.032


def audio_noise(
    waveform: Waveform, *, amount: float, draws: Draws, sample_rate_hz: int
) -> Waveform:
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
    from torchaudio.functional import phase_vocoder

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


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def typos(text: str, *, amount: float, draws: Draws) -> str:
    """Mistype the share `amount` of the letters, at least one.

    A mistake swaps a letter with the next one, leaves it out, doubles it or hits the key beside it
    (of an English keyboard), each as often. Words keep at least one letter.
    """
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    count = min(len(places), max(1, round(amount * len(places)))) if amount > 0 else 0
    chosen = set()
    for _ in range(count):  # without replacement
        chosen.add(places.pop(draws.integer(len(places))))
    letters = list(text)
    for place in sorted(chosen, reverse=True):  # from the end: earlier places stay valid
        _mistype(letters, place, draws)
    return "".join(letters)


def case(text: str, *, amount: float, draws: Draws) -> str:
    """Put the share `amount` of the words, each drawn alone, in capitals, or out of them."""

    def change(word: re.Match[str]) -> str:
        found = word[0]
        if draws.uniform() >= amount:
            return found
        return found.lower() if found.isupper() else found.upper()

    return re.sub(r"\S+", change, text)


def _mistype(letters: list[str], place: int, draws: Draws) -> None:
    letter = letters[place]
    following = letters[place + 1] if place + 1 < len(letters) else ""
    before = letters[place - 1] if place > 0 else ""
    mistake = draws.integer(4)
    if mistake == 0 and following.isalpha():
        letters[place : place + 2] = [following, letter]
    elif mistake == 1 and (following.isalpha() or before.isalpha()):
        del letters[place]
    elif mistake == 2 and (beside := _beside(letter)):
        letters[place] = beside[draws.integer(len(beside))]
    else:
        letters[place] = letter * 2


def _beside(letter: str) -> str:
    """Return the keys to the left and right of a letter, in its case."""
    for row in _ROWS:
        if (key := row.find(letter.lower())) >= 0:
            found = row[max(0, key - 1) : key] + row[key + 1 : key + 2]
            return found.upper() if letter.isupper() else found
    return ""
