"""Random numbers that depend on (seed, epoch, sample) and nothing else."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Purpose = Literal[
    "image",
    "audio",
    "text",
    "replacement",
    "image_corruption",
    "audio_corruption",
    "text_corruption",
    "answer",
    "rejected",
    "masking",
    "window",
    "frames",
    "shuffle",
]

# Each purpose draws from a stream of its own, so that mapping one more modality leaves the crops
# and captions of the others as they were: a new one comes last.
_STREAMS = {purpose: stream for stream, purpose in enumerate(get_args(Purpose), start=1)}
_CHUNK = 16


class Draws:
    """A stream of random numbers for one purpose, one sample and one epoch.

    It reads raw Philox bits: NumPy keeps those stable between its versions, but not what its
    Generator makes of them.
    """

    def __init__(self, purpose: Purpose, *, seed: int, epoch: int, sample: int) -> None:
        key = np.array([seed % 2**64, _STREAMS[purpose]], dtype=np.uint64)
        counter = np.array([0, 0, epoch, sample], dtype=np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)
        self._waiting: list[int] = []

    def _raw(self) -> int:
        if not self._waiting:
            self._waiting = self._bits.random_raw(_CHUNK).tolist()[::-1]
        return self._waiting.pop()

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * ((self._raw() >> 11) * 2.0**-53)

    def integer(self, count: int) -> int:
        """Return a whole number in [0, count), every one equally likely to 1 in 2^64."""
        return (self._raw() * count) >> 64

    def choice(self, weights: Sequence[float]) -> int:
        """Return a place in `weights` with a probability proportional to its weight."""
        point = self.uniform(0.0, float(sum(weights)))
        last = 0
        for place, weight in enumerate(weights):
            if weight > 0:
                last = place
                if point < weight:
                    return place
            point -= weight
        return last  # rounding only

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Return so many numbers in [0, 1), at once."""
        uniform: npt.NDArray[np.float64]
        uniform = (self._bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return uniform

    def normals(self, count: int) -> npt.NDArray[np.float32]:
        """Return numbers of a standard normal distribution (Box and Muller, 1958)."""
        half = -(-count // 2)
        uniform = self.uniforms(2 * half)
        radius = np.sqrt(-2 * np.log1p(-uniform[:half]))  # 1 - u is above 0
        angle = 2 * np.pi * uniform[half:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:count].astype(np.float32)


def evenly_spaced(total: int, most: int, *, draws: Draws | None = None) -> list[int]:
    """Return up to `most` of `total` places: all, or one of each of so many equal parts.

    Args:
        total: places.
        most: wanted.
        draws: takes any of a part; without it, its middle.
    """
    if total <= most:
        return list(range(total))
    return [
        int((part + (0.5 if draws is None else draws.uniform())) * total / most)
        for part in range(most)
    ]
