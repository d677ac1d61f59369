"""Corruptions of images, sounds and captions at five severities, to see what a model bears.

They are part of the data: what happens to a sample depends on the data's seed and the sample's
number alone, so a corrupted sample is the same in each epoch and in each evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from mmlight.data.decode.audio import Waveform
from mmlight.data.decode.corruption_kinds import (
    audio_noise,
    blur,
    case,
    image_noise,
    jpeg,
    occlusion,
    tempo,
    typos,
)
from mmlight.data.decode.draw import Draws, Purpose
from mmlight.errors import UserError, nearest
from mmlight.modality import Modality

SplitName = Literal["train", "val", "test", "predict"]
CorruptionKind = Literal["noise", "blur", "jpeg", "occlusion", "tempo", "typos", "case"]

_EVALUATED: tuple[SplitName, ...] = ("val", "test", "predict")
_PURPOSES: dict[Modality, Purpose] = {
    "image": "image_corruption",
    "audio": "audio_corruption",
    "text": "text_corruption",
}


@dataclass(frozen=True)
class Kind:
    """One way to spoil a sample.

    Attributes:
        amounts: how much, for severities 1 to 5.
        meaning: what the amount is.
        low: smallest amount there is.
        high: largest amount there is.
        apply: the function; takes what it spoils, and `amount` and `draws` by name.
    """

    amounts: tuple[float, float, float, float, float]
    meaning: str
    low: float
    high: float
    apply: Callable[..., Any]


KINDS: dict[Modality, dict[str, Kind]] = {
    "image": {
        # Noise and JPEG as in ImageNet-C (arXiv 1903.12261); blurs about those of CIFAR-10-C.
        "noise": Kind(
            (0.08, 0.12, 0.18, 0.26, 0.38),
            "standard deviation of Gaussian noise, where 1 is the range of pixels",
            0.0,
            10.0,
            image_noise,
        ),
        "blur": Kind(
            (0.0125, 0.0175, 0.0225, 0.0275, 0.035),
            "standard deviation of a Gaussian blur, where 1 is the shorter side",
            0.0,
            0.3,
            blur,
        ),
        "jpeg": Kind((25, 18, 15, 10, 7), "quality of a JPEG file, 1 to 100", 1, 100, jpeg),
        "occlusion": Kind(
            (0.05, 0.1, 0.2, 0.3, 0.4),
            "share of the image that a grey rectangle covers",
            0.0,
            1.0,
            occlusion,
        ),
    },
    "audio": {
        "noise": Kind(
            (20, 15, 10, 5, 0), "signal-to-noise ratio in dB of pink noise", -60, 100, audio_noise
        ),
        "tempo": Kind(
            (1.1, 1.2, 1.3, 1.4, 1.5),
            "factor by which a clip is faster or slower (as drawn) at the same pitch",
            1.0,
            4.0,
            tempo,
        ),
    },
    "text": {
        "typos": Kind(
            (0.02, 0.05, 0.1, 0.15, 0.25),
            "share of letters that are mistyped, at least one",
            0.0,
            1.0,
            typos,
        ),
        "case": Kind(
            (0.2, 0.4, 0.6, 0.8, 1.0),
            "share of words that are put into the other case",
            0.0,
            1.0,
            case,
        ),
    },
}


@dataclass
class Corruption:
    """How samples are spoiled on purpose, after decoding, cropping and augmentation.

    Attributes:
        modality: what is spoiled.
        kind: for images noise, blur, jpeg or occlusion; for audio noise (in the background) or
            tempo; for text typos or case.
        severity: 1 to 5; `mmlight.data.decode.corruptions.KINDS` holds their amounts.
        amount: instead of a severity, the amount itself, such as a signal-to-noise ratio in dB.
        splits: the splits that are spoiled; None takes val, test and predict.
    """

    modality: Modality
    kind: CorruptionKind
    severity: int | None = None
    amount: float | None = None
    splits: list[SplitName] | None = None

    def __post_init__(self) -> None:
        """Refuse what does not exist."""
        kinds = KINDS.get(self.modality)
        if kinds is None:
            raise _refused(f"modality '{self.modality}' is none of {', '.join(KINDS)}")
        if self.kind not in kinds:
            hint = f"{nearest(self.kind, kinds)}; there is {', '.join(kinds)}"
            raise _refused(f"{self.modality} has no kind '{self.kind}'{hint}")
        if (self.severity is None) == (self.amount is None):
            raise _refused(f"{self.name} needs either a severity or an amount")
        if self.severity is not None and self.severity not in range(1, 6):
            raise _refused(f"severity {self.severity} of {self.name}; use 1 to 5")
        known = kinds[self.kind]
        if self.amount is not None and not known.low <= self.amount <= known.high:
            between = f"{known.low:g} to {known.high:g} ({known.meaning})"
            raise _refused(f"amount {self.amount} of {self.name} must be {between}")
        for split in self.splits or ():
            if split not in (names := get_args(SplitName)):
                raise _refused(f"split '{split}' of {self.name} is none of {', '.join(names)}")
        if self.splits is not None and not self.splits:
            raise _refused(f"splits of {self.name} is empty; name one")

    @property
    def name(self) -> str:
        """The modality and the kind, such as ``image noise``."""
        return f"{self.modality} {self.kind}"

    @property
    def strength(self) -> float:
        """The amount, also where a severity stands for it."""
        if self.amount is not None:
            return self.amount
        assert self.severity is not None
        return KINDS[self.modality][self.kind].amounts[self.severity - 1]

    def holds_for(self, split: str) -> bool:
        """Return whether the samples of a split are spoiled."""
        return split in (_EVALUATED if self.splits is None else self.splits)


def _refused(what: str) -> UserError:
    return UserError(f"data.corruptions: {what}")


@dataclass(frozen=True)
class Corruptor:
    """Spoils the samples of one split by corruptions in their order, drawn by the data's seed."""

    corruptions: tuple[Corruption, ...]
    seed: int

    def image(self, pixels_CHW: Tensor, *, sample: int) -> Tensor:
        """Return spoiled pixels, uint8 of the same size."""
        spoiled: Tensor = self._apply("image", pixels_CHW, self._draws("image", sample))
        return spoiled

    def audio(
        self, waveform: Waveform, *, sample: int, sample_rate_hz: int, max_samples: int
    ) -> Waveform:
        """Return a spoiled waveform, of which the middle is kept where it is now too long."""
        draws = self._draws("audio", sample)
        spoiled: Waveform = self._apply("audio", waveform, draws, sample_rate_hz=sample_rate_hz)
        spare = max(0, len(spoiled) - max_samples)
        return spoiled[spare // 2 : spare // 2 + max_samples]

    def captions(self, captions: Sequence[str], *, sample: int) -> list[str]:
        """Return spoiled captions."""
        draws = self._draws("text", sample)
        return [self._apply("text", text, draws) for text in captions]

    def _draws(self, modality: Modality, sample: int) -> Draws:
        return Draws(_PURPOSES[modality], seed=self.seed, epoch=0, sample=sample)

    def _apply(self, modality: Modality, value: Any, draws: Draws, **options: Any) -> Any:
        for corruption in self.corruptions:
            if corruption.modality == modality:
                apply = KINDS[modality][corruption.kind].apply
                value = apply(value, amount=corruption.strength, draws=draws, **options)
        return value


def corruptor(corruptions: Sequence[Corruption], *, split: str, seed: int) -> Corruptor | None:
    """Return what spoils the samples of a split, None where nothing does."""
    given = tuple(corruption for corruption in corruptions if corruption.holds_for(split))
    return Corruptor(given, seed) if given else None
