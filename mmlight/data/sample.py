"""Decodes one sample: its image, sound, captions, label and further fields."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

from torch import Tensor

from mmlight.batch import TURNS
from mmlight.data.decode.audio import AudioSettings, Waveform, load_windows
from mmlight.data.decode.boxes import BoxSet, parse_boxes
from mmlight.data.decode.corruptions import Corruptor
from mmlight.data.decode.draw import Draws, evenly_spaced
from mmlight.data.decode.image import ImageSettings, decode, fit_image, load_image
from mmlight.data.decode.image_fit import Fitted
from mmlight.data.decode.image_header import read_orientation, turn_boxes
from mmlight.data.labels import Labels
from mmlight.data.members import Contents, Members, parse_source
from mmlight.data.shards.corpus import ChecksumError, Corpus
from mmlight.data.text import MAX_CHARACTERS
from mmlight.errors import UserError
from mmlight.files import warn_once
from mmlight.modality import Modality
from mmlight.text.clean import Cleaning, clean_caption

T = TypeVar("T")
# Pillow and libsndfile name the object in memory that they were given.
_ADDRESS = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")
# A decoder may quote all of what it was given.
_MAX_SAID = 300


@dataclass
class Sample:
    """A decoded sample; what it lacks is None or empty.

    Attributes:
        index: number of the sample in its data set.
        key: ``shard-name/sample-key``.
        pixels: uint8 (C, H, W) of its image, or of each of its frames.
        fitted: where they come from and the boxes in them, for images that keep their proportions.
        waveforms: float32 samples of its sound, or of each of its windows.
        captions: one in training, all of them in evaluation.
        blank_captions: rows that stand for them where there are none.
        uncorrupted: the captions before they were corrupted on purpose.
        answers: what is to be said to it: one in training, all in evaluation.
        rejected: what is not.
        label: class number, -1 where there is none.
        fields: further values by name.
        valid: False for a row that only fills up a batch.
    """

    index: int
    key: str
    pixels: list[Tensor] = field(default_factory=list)
    fitted: Fitted | None = None
    waveforms: list[Waveform] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    blank_captions: int = 1
    uncorrupted: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    label: int = -1
    fields: dict[str, Any] = field(default_factory=dict)
    valid: bool = True


class BadMemberError(Exception):
    """A member that cannot be read or decoded.

    Attributes:
        member: its extension; empty where the sample as a whole cannot be read.
        reason: what the decoder said, one line.
    """

    def __init__(self, member: str, error: Exception) -> None:
        self.member = member
        lines = str(error).strip().splitlines()
        said = _ADDRESS.sub("", lines[0][:_MAX_SAID]) if lines else "no message"
        self.reason = f"{type(error).__name__}: {said}"
        super().__init__(f"{member}: {self.reason}" if member else self.reason)


class MissingInputError(BadMemberError):
    """A sample that has nothing of what the model reads: an empty picture is no answer to that."""

    def __init__(self, needs: Sequence[Modality]) -> None:
        self.member = ""
        self.reason = f"no {' or '.join(needs)}"
        Exception.__init__(self, self.reason)


class SampleSet:
    """One or more corpora, each with the mapping of its members, numbered as one sequence.

    Args:
        parts: corpora and mappings.
        names: of the corpora, if they are to be told apart.
    """

    def __init__(
        self, parts: Sequence[tuple[Corpus, Members]], *, names: Sequence[str] = ()
    ) -> None:
        self.parts = list(parts)
        self.names = tuple(names)
        corpora = [corpus for corpus, _ in parts]
        # joined, so that keys tell apart shards of one name and refuse a shard that comes twice
        self.corpus = corpora[0] if len(corpora) == 1 else Corpus.joined(corpora)
        self._starts = [0]
        for corpus in corpora[:-1]:
            self._starts.append(self._starts[-1] + len(corpus))

    def __len__(self) -> int:
        return len(self.corpus)

    def members(self, number: int) -> Members:
        """Return the mapping that holds for a sample."""
        return self.parts[bisect_right(self._starts, number) - 1][1]

    def sources(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Return the name of the corpus that each sample is of; nothing where they have none."""
        if not self.names:
            return ()
        return tuple(self.names[bisect_right(self._starts, s.index) - 1] for s in samples)

    def neighbours(self, number: int) -> range:
        """Return the numbers of all samples of the same corpus."""
        part = bisect_right(self._starts, number) - 1
        start = self._starts[part]
        return range(start, start + len(self.parts[part][0]))


@dataclass(frozen=True)
class Decoding:
    """How samples are decoded.

    Attributes:
        image: image settings, or None to leave images alone.
        audio: audio settings, or None.
        clean: how captions are cleaned.
        class_names: of labels and boxes, which must be below their number; None to take any.
        labels: how labels are read; None takes the class names alone.
        corruptor: spoils what was decoded; None leaves it as it is.
        num_captions: captions of a sample in training.
        max_characters: longer captions are cut to so many.
        needs: a sample without any of these is left out; none where that is not known.
    """

    image: ImageSettings | None
    audio: AudioSettings | None
    clean: Cleaning
    class_names: tuple[str, ...] | None
    labels: Labels | None = None
    corruptor: Corruptor | None = None
    num_captions: int = 1
    max_characters: int = MAX_CHARACTERS
    needs: tuple[Modality, ...] = ()


def decode_sample(
    samples: SampleSet, number: int, decoding: Decoding, *, draws: Callable[[Any], Draws] | None
) -> Sample:
    """Read and decode one sample; in training `draws` gives the random numbers of a purpose.

    Raises:
        BadMemberError: a member cannot be read or decoded, or all that the model reads is missing.
        UserError: a label that has no class name.
    """
    members = samples.members(number)
    several = decoding.image.frames if decoding.image is not None else None
    frames: list[str] = []
    try:
        if several is not None and members.image is not None:
            there = members.frames(samples.corpus.members(number))
            places = evenly_spaced(len(there), several, draws=draws("frames") if draws else None)
            frames = [there[place] for place in places]
        contents = Contents(samples.corpus.read(number, [*members.extensions(), *frames]))
    except ChecksumError as error:
        raise BadMemberError(error.member, error) from error
    except OSError as error:
        raise BadMemberError("", error) from error
    sample = Sample(number, samples.corpus.key(number))

    if several is None and (first := contents.first(members.image)) is not None:
        frames = [parse_source(first)[0]]
    for name in frames if decoding.image is not None else ():
        assert decoding.image is not None
        data, image = contents.raw[name], decoding.image
        stream = draws("image") if draws else None  # the same for each frame
        if image.fits:
            boxes_of = partial(_boxes_of, samples, number, contents, decoding)
            sample.fitted = _load_fitted(name, data, image, boxes_of, draws=stream)
            sample.pixels.append(sample.fitted.pixels_CHW)
        else:
            load = partial(load_image, data, image, draws=stream)
            sample.pixels.append(_attempt(name, load))

    heard = contents.first(members.audio)
    if heard is not None and decoding.audio is not None:
        sound, audio = contents.raw[parse_source(heard)[0]], decoding.audio
        stream = draws("audio") if draws else None
        sample.waveforms = _attempt(heard, lambda: load_windows(sound, audio, draws=stream))

    if members.label is not None:
        labels = decoding.labels or Labels(decoding.class_names or ())
        read = partial(_label, samples, number, contents, members.label, labels)
        sample.label = _attempt(members.label, read)

    if members.class_captions:
        assert decoding.class_names is not None, "the data module checks this"
        names = decoding.class_names[sample.label : sample.label + 1] if sample.label >= 0 else ()
        captions = [(t.replace("{}", name), 1.0) for name in names for t in members.class_captions]
    else:
        limit = decoding.max_characters
        found = _attempt("text", lambda: contents.captions(members))
        if any(len(text) > limit for text, _ in found):
            warn_once(
                f"texts are cut to data.text.max_characters ({limit:,}); pack long documents in "
                "pieces, or raise it"
            )
        captions = [(text[:limit], weight) for text, weight in found if text[:limit].strip()]
    sample.blank_captions = decoding.num_captions if draws else 1
    places = list(range(len(captions)))
    if captions and draws:
        weights = [weight for _, weight in captions]
        places = _drawn(weights, decoding.num_captions, draws=draws("text"))
        captions = [captions[place] for place in places]
    sample.captions = [clean_caption(text, decoding.clean) for text, _ in captions]
    sample.uncorrupted = sample.captions
    if decoding.corruptor is not None:
        _corrupt(sample, [text for text, _ in captions], decoding, decoding.corruptor)

    if members.paired_answers:
        read_pairs = partial(_paired_answers, contents, members, decoding, places, draws=draws)
        sample.answers = _attempt("answer", read_pairs)
    else:
        sample.answers = _answers("answer", contents, members.answer, decoding, draws=draws)
    sample.rejected = _answers("rejected", contents, members.rejected, decoding, draws=draws)

    has = {"image": sample.pixels, "audio": sample.waveforms, "text": captions}
    if decoding.needs and not any(has[name] for name in decoding.needs):
        raise MissingInputError(decoding.needs)
    for name, source in members.fields.items():
        sample.fields[name] = _attempt(source, partial(contents.value, source))
    return sample


def _answers(
    purpose: Literal["answer", "rejected"],
    contents: Contents,
    names: list[str] | str | None,
    decoding: Decoding,
    *,
    draws: Callable[[Any], Draws] | None,
) -> list[str]:
    """Return a sample's answers, cut and cleaned; in training one of them."""
    texts = _attempt(purpose, lambda: contents.texts(names))
    kept = [text[: decoding.max_characters] for text in texts]
    kept = [text for text in kept if text.strip()]
    if draws and len(kept) > 1:
        kept = [kept[draws(purpose).integer(len(kept))]]
    return [clean_caption(text, decoding.clean) for text in kept]


def _paired_answers(
    contents: Contents,
    members: Members,
    decoding: Decoding,
    places: Sequence[int],
    *,
    draws: Callable[[Any], Draws] | None,
) -> list[str]:
    """Return one answer to each of the questions at these places of a sample's texts.

    Raises:
        ValueError: other than one list of answers to each text, or several in an evaluation.
    """
    by_text = contents.answers_by_text(members.answer)
    count = len(contents.captions(members))
    if not by_text or len(by_text) != count:
        raise ValueError(f"there are {count} texts, but answers to {len(by_text)}")
    chosen = []
    stream = draws("answer") if draws else None
    for place in places:
        texts = by_text[place]
        if not texts:
            raise ValueError(f"text {place + 1} has no answer")
        if stream is None and len(texts) > 1:
            raise ValueError(
                f"text {place + 1} has {len(texts)} answers; with paired answers an evaluation "
                "takes one each: write a sample for each question"
            )
        text = texts[stream.integer(len(texts)) if stream is not None and len(texts) > 1 else 0]
        chosen.append(clean_caption(text[: decoding.max_characters], decoding.clean))
    return chosen


def _drawn(weights: Sequence[float], count: int, *, draws: Draws) -> list[int]:
    """Draw places of captions by their weights, each once before any is drawn again."""
    drawn: list[int] = []
    left: list[int] = []
    while len(drawn) < count:
        left = left or [p for p, weight in enumerate(weights) if weight > 0]
        left = left or list(range(len(weights)))
        place = draws.choice([weights[p] for p in left]) if len(left) > 1 else 0
        drawn.append(left.pop(place))
    return drawn


def _load_fitted(
    name: str,
    data: bytes,
    settings: ImageSettings,
    boxes_of: Callable[..., BoxSet | None],
    *,
    draws: Draws | None,
) -> Fitted:
    channels, most = settings.num_channels, settings.max_pixels
    pixels_CHW = _attempt(name, lambda: decode(data, channels=channels, max_pixels=most))
    turn, (height, width) = read_orientation(data), pixels_CHW.shape[1:]
    stored = (width, height) if TURNS[turn][0] else (height, width)
    boxes = boxes_of(height=stored[0], width=stored[1])
    if boxes is not None and turn != 1:
        turned_N4 = turn_boxes(boxes.xyxy_N4, turn, height=height, width=width)
        boxes = replace(boxes, xyxy_N4=turned_N4)
    fitted = _attempt(name, lambda: fit_image(pixels_CHW, boxes, settings, draws=draws))
    return replace(fitted, original=stored, orientation=turn)


def _boxes_of(
    samples: SampleSet,
    number: int,
    contents: Contents,
    decoding: Decoding,
    *,
    height: int,
    width: int,
) -> BoxSet | None:
    """Return the boxes of a sample, in pixels of its image as stored."""
    members = samples.members(number)
    if members.boxes is None or members.box_labels is None:
        return None
    boxes_in, labels_in = members.boxes, members.box_labels

    def read() -> BoxSet | None:
        boxes, labels = contents.value(boxes_in), contents.value(labels_in)
        if boxes is None and labels is None:
            return None
        return parse_boxes(
            boxes,
            (decoding.labels or Labels()).of_boxes(samples.corpus, number, labels),
            box_format=members.box_format,
            class_names=decoding.class_names,
            width=width,
            height=height,
        )

    return _attempt(boxes_in, read)


def _corrupt(sample: Sample, captions: list[str], decoding: Decoding, corruptor: Corruptor) -> None:
    sample.pixels = [corruptor.image(one, sample=sample.index) for one in sample.pixels]
    if decoding.audio is not None:
        spoil = partial(
            corruptor.audio,
            sample=sample.index,
            sample_rate_hz=decoding.audio.rate_hz,
            max_samples=decoding.audio.max_samples,
        )
        sample.waveforms = [spoil(one) for one in sample.waveforms]
    spoiled = corruptor.captions(captions, sample=sample.index)
    sample.captions = [clean_caption(text, decoding.clean) for text in spoiled]


def _label(samples: SampleSet, number: int, contents: Contents, source: str, labels: Labels) -> int:
    try:
        return labels.of(samples.corpus, number, contents, source)
    except UserError as error:
        raise UserError(f"{samples.corpus.named(number)}: {error}") from error


def _attempt(member: str, decode: Callable[[], T]) -> T:
    try:
        return decode()
    except UserError:
        raise
    # Decoders raise what they like about broken bytes; all of it is recorded and counted.
    except Exception as error:
        raise BadMemberError(member, error) from error
