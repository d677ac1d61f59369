"""Which members of a sample are its image, text, audio, label and further fields."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from mmlight.class_names import plain_number
from mmlight.data.decode import probe
from mmlight.data.shards.paths import natural_key
from mmlight.errors import UserError
from mmlight.modality import MODALITIES, BoxFormat, Modality
from mmlight.text_file import MARK, MIB, decode_text, parse_json, split_lines


@dataclass
class Members:
    """Maps the members of a sample (files of one key in a shard) to what a batch holds.

    A member is named by its extension, the part of the file name after the first dot: ``jpg``,
    ``txt``. A value inside a JSON member is named ``json:caption`` (dots go deeper:
    ``json:meta.caption``). A list means: the first of these that the sample has.

    Samples with several images (`data.image.frames`), such as a video ``clip7`` with the files
    ``clip7.000.jpg``, ``clip7.001.jpg`` and ``clip7.txt``, name them by a pattern, ``*.jpg``, or as
    a list, whose order they have; those of one pattern come in natural order.

    Args:
        image: members that hold the image, such as ``[jpg, jpeg, png, webp]``; or, of a video, its
            frames.
        text: members that hold captions: ``txt``, ``json:caption`` or a list of such names; or a
            mapping of names to sampling weights for samples with several captions, such as
            ``{txt: 0.7, json:alt: 0.3}`` (renormalised over those that a sample has). A JSON value
            may be a list of captions; training draws one, evaluation takes all of them.
        text_lines: every line of a text member is a caption of its own (CLIP_benchmark's layout).
        text_words: a JSON list in a text member holds the words of one text, which are joined by
            spaces, instead of several captions.
        answer: members that hold what is to be said to the rest of the sample, such as
            ``json:answer``, where `text` is a question or a prompt. Training draws one of several,
            evaluation takes all.
        paired_answers: the texts of a sample are questions, and its answers a list of as many:
            whichever question is drawn, its own answer comes with it (one of them, where it is a
            list again). Evaluation takes all questions, each with one answer; for several, write
            a sample for each question.
        rejected: members that hold an answer that a person liked less, for preference tuning.
        class_captions: captions made of the sample's class name, such as ``["a photo of a {}"]``,
            for data without any; needs `label` and the data's `class_names`, excludes `text`.
        audio: members that hold the sound, such as ``[flac, wav, ogg, mp3]``.
        label: member that holds the class, its number or its name out of the data's `class_names`,
            such as ``cls`` or ``json:label``.
        boxes: member that holds the objects in the image, ``json:boxes``: a list of four numbers
            each, in pixels of the image as stored (before a camera's orientation tag turns it, as
            pycocotools and torchvision read it); needs `image` and `box_labels`.
        box_labels: member that holds their classes, ``json:labels``: a list of class numbers or
            of names out of the data's `class_names`.
        box_format: the four numbers: corners (xyxy), left, top, width and height (xywh, as COCO)
            or centre, width and height (cxcywh).
        fields: further values to carry along, by name: ``{speaker: json:speaker}``. JSON members
            are parsed, text members (txt, text, cls, ...) are strings, all others bytes.
    """

    image: list[str] | str | None = None
    text: dict[str, float] | list[str] | str | None = None
    text_lines: bool = False
    text_words: bool = False
    answer: list[str] | str | None = None
    paired_answers: bool = False
    rejected: list[str] | str | None = None
    class_captions: list[str] | None = None
    audio: list[str] | str | None = None
    label: str | None = None
    boxes: str | None = None
    box_labels: str | None = None
    box_format: BoxFormat = "xyxy"
    fields: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or have no effect."""
        for name in ("image", "audio"):
            for source in listed(getattr(self, name)):
                if ":" in source or ("*" in source and name != "image"):
                    raise UserError(f"members.{name}: '{source}' must be a plain extension")
        for name in (*MODALITIES, "answer", "rejected"):
            value = getattr(self, name)
            if value is not None and not value:
                raise UserError(f"members.{name} is empty; name a member or leave it out")
        if isinstance(self.text, dict) and min(self.text.values()) <= 0:
            raise UserError(f"members.text: weights must be above 0, not {self.text}")
        for name in ("text_lines", "text_words"):
            if getattr(self, name) and self.text is None:
                raise UserError(f"members.{name} has no effect without members.text")
        if self.text_lines and self.text_words:
            raise UserError("members.text_lines and text_words exclude each other; set one of them")
        if self.paired_answers and (self.answer is None or self.text is None):
            raise UserError("members.paired_answers needs members.text and members.answer")
        if self.rejected is not None and self.answer is None:
            raise UserError("members.rejected needs members.answer, which was preferred to it")
        if self.class_captions is not None:
            if self.text is not None or self.label is None:
                raise UserError("members.class_captions needs members.label and excludes text")
            if not self.class_captions or not all("{}" in text for text in self.class_captions):
                raise UserError("members.class_captions must be sentences with {} for the class")
        if (self.boxes is None) != (self.box_labels is None):
            raise UserError("members.boxes and members.box_labels need each other; name both")
        if self.boxes is not None and self.image is None:
            raise UserError("members.boxes needs members.image: boxes move with the image's pixels")
        if self.box_format not in ("xyxy", "xywh", "cxcywh"):
            raise UserError(
                f"members.box_format must be xyxy, xywh or cxcywh, not '{self.box_format}'"
            )
        for entry, sources in self.groups().items():
            for source in sources:
                if "*" in parse_source(source)[0] and entry != "image":
                    raise UserError(
                        f"members.{entry}: '{source}' is a pattern, which only images have; name "
                        "the member, such as caption.txt"
                    )

    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities that are mapped, in the order image, text, audio."""
        return tuple(
            name
            for name in MODALITIES
            if getattr(self, name) is not None or (name == "text" and self.class_captions)
        )

    def groups(self) -> dict[str, list[str]]:
        """Return for every mapped entry the sources of which a sample needs one."""
        found = {"image": listed(self.image), "audio": listed(self.audio)}
        if isinstance(self.text, dict):  # each has a weight of its own, so each must exist
            found |= {f"text.{source}": [source] for source in self.text}
        else:
            found["text"] = listed(self.text)
        found |= {name: listed(getattr(self, name)) for name in ("answer", "rejected")}
        found["label"] = listed(self.label)
        found["boxes"] = listed(self.boxes)
        found["box_labels"] = listed(self.box_labels)
        found |= {f"fields.{name}": [source] for name, source in self.fields.items()}
        return {name: sources for name, sources in found.items() if sources}

    def frames(self, there: Iterable[str]) -> list[str]:
        """Return the extensions of all images that a sample has, in their order.

        Args:
            there: the extensions that it has.
        """
        names = sorted(there, key=natural_key)
        found = [n for s in listed(self.image) for n in names if fnmatchcase(n, parse_source(s)[0])]
        return list(dict.fromkeys(found))

    @property
    def has_frames(self) -> bool:
        """Whether a sample may have several images."""
        names = listed(self.image)
        return len(names) > 1 or any("*" in name for name in names)

    def sources(self) -> list[str]:
        """Return every source that is named anywhere, each once."""
        return list(dict.fromkeys(s for sources in self.groups().values() for s in sources))

    def extensions(self) -> list[str]:
        """Return the extensions to read from a shard."""
        return extensions_of(self.sources())


def listed(value: dict[str, float] | list[str] | str | None) -> list[str]:
    """Return the names that an entry has."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


@lru_cache(maxsize=1024)
def parse_source(source: str) -> tuple[str, str | None]:
    """Split ``json:meta.caption`` into its extension and key (None for a whole member)."""
    extension, colon, key = source.partition(":")
    extension = extension.lower().removeprefix(".")
    if not extension or (colon and not key):
        raise UserError(f"members: '{source}' is not a member; write 'txt' or 'json:caption'")
    if colon and extension.rpartition(".")[2] != "json":
        raise UserError(f"members: '{source}' asks for a key of a member that is not JSON")
    return extension, key or None


def extensions_of(sources: Iterable[str], present: Iterable[str] | None = None) -> list[str]:
    """Return which extensions sources name, each once.

    Args:
        sources: names of members.
        present: the extensions that there are; patterns stand for those of them that they fit.
    """
    found: list[str] = []
    for source in sources:
        name = parse_source(source)[0]
        is_pattern = "*" in name and present is not None
        found += [n for n in present or () if fnmatchcase(n, name)] if is_pattern else [name]
    return list(dict.fromkeys(found))


def look_up(value: Any, key: str) -> Any:
    """Return ``value[key]``, where dots in `key` go deeper; None where it is missing."""
    if isinstance(value, Mapping) and key in value:
        return value[key]
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


class Contents:
    """The raw members of one sample; text and JSON are parsed once, when asked for."""

    def __init__(self, raw: Mapping[str, bytes]) -> None:
        self.raw = raw
        self._parsed: dict[str, Any] = {}

    def value(self, source: str) -> Any:
        """Return what `source` names, or None where the sample does not have it.

        Raises:
            ValueError: the member is not valid JSON or UTF-8.
        """
        extension, key = parse_source(source)
        if extension not in self.raw:
            return None
        if extension not in self._parsed:
            self._parsed[extension] = _parse(extension, self.raw[extension])
        value = self._parsed[extension]
        return value if key is None else look_up(value, key)

    def first(self, names: list[str] | str | None) -> str | None:
        """Return the first of these extensions that the sample has."""
        return next((name for name in listed(names) if parse_source(name)[0] in self.raw), None)

    def texts(self, names: list[str] | str | None) -> list[str]:
        """Return the texts of the first of these sources that the sample has; no blank ones."""
        for source in listed(names):
            if texts := _captions(self.value(source), lines=False, source=source):
                return texts
        return []

    def answers_by_text(self, names: list[str] | str | None) -> list[list[str]]:
        """Return the answers to each of a sample's texts; no blank ones.

        Raises:
            ValueError: there are answers, and no list of them.
        """
        for source in listed(names):
            value = self.value(source)
            if value is None:
                continue
            if not isinstance(value, list):
                raise ValueError(f"{source} holds a {type(value).__name__}, not a list of answers")
            return [_captions(of_text, lines=False, source=source) for of_text in value]
        return []

    def captions(self, members: Members) -> list[tuple[str, float]]:
        """Return the sample's captions with their sampling weights; empty where it has none.

        The weight of a source is shared equally by its captions. Blank captions do not count.
        """
        if members.text is None:
            return []
        weighted = isinstance(members.text, dict)
        found: list[tuple[str, float]] = []
        for source in listed(members.text):
            value = self.value(source)
            if members.text_words and isinstance(value, list):
                # As they are: a word may be a newline, and tags count the characters.
                joined = _join_words(value, source=source)
                texts = [joined] if joined.strip() else []
            else:
                texts = _captions(value, lines=members.text_lines, source=source)
            weight = members.text[source] if isinstance(members.text, dict) else 1.0
            found += [(text, weight / len(texts)) for text in texts]
            if found and not weighted:
                break
        return found


# Extensions whose members are text rather than bytes.
TEXT_EXTENSIONS = frozenset(probe.ENDINGS["text"])


# Evaluation takes all captions of a sample at once.
_MAX_CAPTIONS = 1_000
# A caption of 100 MB would be copied by whatever cleans and cuts it; JSON grows tenfold in memory.
_LARGEST_TEXT, _LARGEST_JSON = 64 * MIB, 16 * MIB


def _parse(extension: str, data: bytes) -> Any:
    kind = extension.rpartition(".")[2]
    largest = _LARGEST_JSON if kind == "json" else _LARGEST_TEXT
    if len(data) > largest and (kind == "json" or kind in TEXT_EXTENSIONS):
        raise ValueError(f"holds {len(data) / MIB:,.0f} MiB, more than {largest // MIB}")
    if kind == "json":
        return parse_json(data)
    return decode_text(data) if kind in TEXT_EXTENSIONS else data


def _captions(value: Any, *, lines: bool, source: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bytes):
        value = decode_text(value)
    values = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for text in values:
        if text is None or text != text:  # NaN, as pandas writes what is missing
            continue
        if not isinstance(text, str):
            raise ValueError(f"{source} holds a {type(text).__name__}, not a caption")
        whole = _mended(text).removeprefix(MARK)
        texts += split_lines(whole) if lines else [whole]
    found = [text.strip("\r\n") for text in texts if text.strip()]
    if len(found) > _MAX_CAPTIONS:
        raise ValueError(f"{source} holds {len(found)} captions, more than {_MAX_CAPTIONS}")
    return found


def _join_words(words: list[Any], *, source: str) -> str:
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"{source} holds a {type(word).__name__}, not a word")
    return _mended(" ".join(words))


def _mended(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON may hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def label_value(contents: Contents, source: str) -> Any:
    """Return what a sample's label is: its number, a name, or None where there is none.

    JSON tells 7 from "7", which is a name where a class has it; in a text, digits are a number.

    Raises:
        ValueError: see `Contents.value`.
    """
    value = contents.value(source)
    if isinstance(value, bytes):
        value = decode_text(value)
    if isinstance(value, str):
        value = value.removeprefix(MARK)
    extension, _ = parse_source(source)
    if isinstance(value, str) and extension.rpartition(".")[2] != "json":
        number = plain_number(value)
        return value if number is None else number
    return value
