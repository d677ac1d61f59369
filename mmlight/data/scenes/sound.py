"""Says a scene's transcript: a small formant synthesiser with a random voice.

Voiced sounds are a train of pitch pulses, each of which rings at three formants (the formant wave
functions of Rodet's CHANT, 1984); hisses and bursts are random pulses that ring at one. Formants
glide from sound to sound, so neighbours colour each other as in speech.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmlight.data.scenes.scene import SceneRandom

SAMPLE_RATE_HZ = 8000
_LEXICON = {
    "red": "R EH D",
    "orange": "AO R IH N JH",
    "yellow": "Y EH L AO UW",
    "green": "G R IY N",
    "cyan": "S AA IY AH N",
    "blue": "B L UW",
    "purple": "P ER P AH L",
    "white": "W AA IY T",
    "circle": "S ER K AH L",
    "square": "S K W EH R",
    "triangle": "T R AA IY AE NG G AH L",
    "star": "S T AA R",
    "cross": "K R AO S",
    "heart": "HH AA R T",
    "ring": "R IH NG",
    "moon": "M UW N",
    "left": "L EH F T",
    "above": "AH B AH V",
}


@dataclass(frozen=True)
class Sound:
    """One speech sound of an average voice.

    Attributes:
        formants_hz: what the voice rings at.
        voice: loudness of the pitch pulses.
        hiss: loudness of the noise.
        hiss_hz: what the noise rings at.
        duration_s: how long it lasts.
        stop: silent for its first half, then the noise bursts out.
    """

    formants_hz: tuple[float, float, float]
    voice: float = 1.0
    hiss: float = 0.0
    hiss_hz: float = 0.0
    duration_s: float = 0.07
    stop: bool = False


def _stop(*formants_hz: float, voice: float, burst_hz: float) -> Sound:
    a, b, c = formants_hz
    return Sound((a, b, c), voice, hiss=0.9, hiss_hz=burst_hz, duration_s=0.06, stop=True)


_SOUNDS = {
    "AA": Sound((730, 1090, 2440)),
    "AE": Sound((660, 1720, 2410)),
    "AH": Sound((640, 1190, 2390), duration_s=0.06),
    "AO": Sound((570, 840, 2410)),
    "EH": Sound((530, 1840, 2480)),
    "ER": Sound((490, 1350, 1690), duration_s=0.09),
    "IH": Sound((390, 1990, 2550), duration_s=0.06),
    "IY": Sound((270, 2290, 3010)),
    "UW": Sound((300, 870, 2240)),
    "L": Sound((360, 1300, 2900), 0.6, duration_s=0.06),
    "R": Sound((310, 1060, 1380), 0.6, duration_s=0.06),
    "W": Sound((300, 610, 2200), 0.6, duration_s=0.06),
    "Y": Sound((260, 2200, 3000), 0.6, duration_s=0.05),
    "M": Sound((250, 900, 2200), 0.45, duration_s=0.06),
    "N": Sound((250, 1500, 2500), 0.45, duration_s=0.06),
    "NG": Sound((250, 2100, 2700), 0.45, duration_s=0.06),
    "S": Sound((320, 1700, 2600), 0.0, 0.55, 3600, duration_s=0.08),
    "F": Sound((300, 1200, 2200), 0.0, 0.3, 2700, duration_s=0.06),
    "HH": Sound((600, 1200, 2400), 0.0, 0.35, 1300, duration_s=0.05),
    "V": Sound((300, 1200, 2200), 0.4, 0.2, 2700, duration_s=0.05),
    "JH": Sound((300, 1900, 2600), 0.2, 0.5, 2500, duration_s=0.08),
    "B": _stop(250, 900, 2200, voice=0.25, burst_hz=700),
    "D": _stop(250, 1700, 2600, voice=0.25, burst_hz=3000),
    "G": _stop(250, 2000, 2400, voice=0.25, burst_hz=1900),
    "K": _stop(300, 1900, 2300, voice=0.0, burst_hz=1800),
    "P": _stop(300, 900, 2200, voice=0.0, burst_hz=800),
    "T": _stop(300, 1700, 2600, voice=0.0, burst_hz=3400),
}
_PAUSE = Sound((500, 1500, 2500), 0.0, duration_s=0.05)
_FORMANT_GAINS = np.array([1.0, 0.6, 0.3], dtype=np.float32)
_FORMANT_BANDWIDTHS_HZ = np.array([80.0, 110.0, 160.0], dtype=np.float32)
_HISS_BANDWIDTH_HZ = 500.0
_RING_S = 0.016
_HISS_RING_S = 0.004
# A hiss pulse every so many samples: close enough to sound like noise, at a third of the work.
_HISS_STEP = 3


def _sounds(transcript: str) -> list[Sound]:
    sounds = [_PAUSE]
    for word in transcript.split():
        sounds += [_SOUNDS[name] for name in _LEXICON[word].split()] + [_PAUSE]
    return sounds


def _ring(
    starts: NDArray[np.int64], rings: NDArray[np.float32], *, length: int
) -> NDArray[np.float32]:
    """Add each row of `rings` (pulses, samples) to a silence of `length`, from its start on."""
    places = starts[:, None] + np.arange(rings.shape[1])
    total = np.bincount(places.ravel(), weights=rings.ravel(), minlength=length)
    return total[:length].astype(np.float32)


def say(transcript: str, draws: SceneRandom) -> NDArray[np.int16]:
    """Say `transcript` in a random voice: pitch, pace, length of throat, noise and loudness.

    Returns:
        int16 samples at `SAMPLE_RATE_HZ`.
    """
    pitch_hz = draws.uniform(95, 220)
    pace = draws.uniform(0.7, 1.0)
    throat = draws.uniform(0.9, 1.13)
    sounds = _sounds(transcript)
    durations = (
        np.array([s.duration_s for s in sounds]) * pace * (1 + 0.15 * draws.noise(len(sounds)))
    )
    ends = np.cumsum(durations)
    middles = ends - durations / 2
    length = int(ends[-1] * SAMPLE_RATE_HZ)
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    which = np.minimum(np.searchsorted(ends, time_s), len(sounds) - 1)

    # Loudness per sample: a stop's first half is shut; edges are rounded by a 10 ms average.
    released = time_s > middles[which]
    stop = np.array([s.stop for s in sounds])[which]
    voice = np.array([s.voice for s in sounds])[which]
    hiss = np.array([s.hiss for s in sounds])[which] * np.where(stop, released, True)
    soften = np.ones(SAMPLE_RATE_HZ // 100) / (SAMPLE_RATE_HZ // 100)
    voice = np.convolve(voice, soften, mode="same")

    # Voiced part: one pulse per period, the pitch falls by a fifth and trembles.
    tremble = np.interp(time_s, np.linspace(0, ends[-1], 9), 0.06 * draws.noise(9))
    pitch_track = pitch_hz * (1.1 - 0.2 * time_s / ends[-1] + tremble)
    cycles = np.floor(np.cumsum(pitch_track / SAMPLE_RATE_HZ)).astype(np.int64)
    pulses = np.flatnonzero(np.diff(cycles)) + 1
    pulses = pulses[voice[pulses] > 0.02]
    formants = np.array([s.formants_hz for s in sounds], dtype=np.float32) * np.float32(throat)
    ring_s = np.arange(int(_RING_S * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    rings = np.zeros((len(pulses), len(ring_s)), dtype=np.float32)
    for k in range(3):
        track = np.interp(time_s[pulses], middles, formants[:, k]).astype(np.float32)
        decay = _FORMANT_GAINS[k] * np.exp(-np.pi * _FORMANT_BANDWIDTHS_HZ[k] * ring_s)
        rings += decay * np.sin(np.float32(2 * np.pi) * track[:, None] * ring_s)
    rings *= voice[pulses, None].astype(np.float32)
    wave = _ring(pulses, rings, length=length)

    # Unvoiced part.
    pulses = np.arange(0, length, _HISS_STEP)
    pulses = pulses[hiss[pulses] > 0]
    hiss_hz = np.array([s.hiss_hz for s in sounds])[which][pulses].astype(np.float32) * throat
    ring_s = ring_s[: int(_HISS_RING_S * SAMPLE_RATE_HZ)]
    rings = np.sin(2 * np.pi * np.minimum(hiss_hz, 3800)[:, None] * ring_s).astype(np.float32)
    rings *= np.exp(-np.pi * _HISS_BANDWIDTH_HZ * ring_s)
    rings *= (hiss[pulses] * draws.noise(len(pulses)))[:, None].astype(np.float32)
    wave += _ring(pulses, rings, length=length)

    room = 10 ** draws.uniform(-2.2, -1.4)
    wave = wave / np.abs(wave).max() + room * draws.noise(length)
    loudness = draws.uniform(0.25, 0.8)
    return np.rint(np.clip(loudness * wave, -1, 1) * 32767).astype(np.int16)
