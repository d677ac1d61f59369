"""What is wrong with samples: each member by itself, or a sample as an experiment reads it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmlight.class_names import NoClassError, class_number, names_beside, read_names
from mmlight.data.decode.audio import check_audio
from mmlight.data.decode.image import check_image
from mmlight.data.decode.probe import kind
from mmlight.data.members import Contents, extensions_of, label_value
from mmlight.data.sample import (
    BadMemberError,
    Decoding,
    MissingInputError,
    SampleSet,
    decode_sample,
)
from mmlight.data.scan import scan
from mmlight.data.shards.remote import Remote
from mmlight.data.shards.storage import Shard
from mmlight.errors import UserError


def fault(extension: str, data: bytes, *, class_names: Sequence[str] = ()) -> str | None:
    """Decode a member completely and say in one line what is wrong with it, None if nothing is.

    With the code and the default settings of training, so that nothing is good here that training
    counts as bad. Without class names a label may be any number.
    """
    try:
        match kind(extension):
            case "image":
                check_image(data)
            case "audio":
                check_audio(data)
            case "text" | "json":
                contents = Contents({extension: data})
                contents.value(extension)
                if extension.rpartition(".")[2] == "cls":
                    class_number(label_value(contents, extension), class_names)
    # Decoders raise what they like about broken bytes.
    except Exception as error:
        return BadMemberError(extension, error).reason
    return None


def is_name(problem: str, data: bytes) -> bool:
    """Tell whether a label that `fault` was told no names for may be the name of a class."""
    return problem.startswith(NoClassError.__name__) and bool(data.strip())


@dataclass
class NamedLabels:
    """What is known of ``cls`` members, whose names may be known or not.

    Where they are not known, texts are good if every label is one; beside numbers they are bad.

    Attributes:
        given: the names, where the user gives them; else those beside the shards.
    """

    given: Sequence[str] = ()
    _beside: dict[Path, list[str]] = field(default_factory=dict)
    _texts: list[tuple[str, str]] = field(default_factory=list)
    _numbers: int = 0

    def of(self, shard: Shard) -> Sequence[str]:
        """Return the names of the classes of a shard; none where they are not known."""
        if self.given or isinstance(shard, Remote):
            return self.given
        folder = shard.parent
        if folder not in self._beside:
            path = names_beside(folder)
            self._beside[folder] = [] if path is None else read_names(str(path), what="")
        return self._beside[folder]

    def add(self, texts: Iterable[tuple[str, str]], *, numbers: int) -> None:
        """Remember what labels of unknown names are.

        Args:
            texts: place and description of those that `is_name` tells.
            numbers: how many are numbers.
        """
        self._texts.extend(texts)
        self._numbers += numbers

    def left(self) -> Iterator[tuple[str, str]]:
        """Yield place and description of texts among numbers, when all members were seen."""
        if self._numbers:
            yield from sorted(self._texts)

    def note(self) -> str | None:
        """Return what to tell of labels that are all names."""
        if not self._texts or self._numbers:
            return None
        place, problem = min(self._texts)
        return f"labels are names ({place}: {problem.partition(': ')[2]})"


def faults_of(samples: SampleSet, decoding: Decoding) -> Iterator[tuple[str, str]]:
    """Yield where each sample lies that training would leave out or stop at, and why."""

    def fault(number: int) -> str | None:
        try:
            decode_sample(samples, number, decoding, draws=None)
            _check_whole_sounds(samples, number)
        except MissingInputError as error:
            return error.reason
        except BadMemberError as error:
            return f".{error}" if error.member else error.reason
        except UserError as error:
            return str(error)
        return None

    for number, said in scan(range(len(samples)), fault, what="Checking", total=len(samples)):
        if said is not None:
            path, key = samples.corpus.origin(number)
            yield f"{path}: {key}", said


def _check_whole_sounds(samples: SampleSet, number: int) -> None:
    """Decode what an evaluation leaves out of long sounds: training may draw any part."""
    sources = samples.members(number).groups().get("audio", [])
    extensions = extensions_of(sources)
    for extension, data in samples.corpus.read(number, extensions).items():
        try:
            check_audio(data)
        # Decoders raise what they like about broken bytes.
        except Exception as error:
            raise BadMemberError(extension, error) from error
