"""Decodes every sample of a split as training would, and names each that it could not use."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice

from mmlight.data.decode.audio import check_audio
from mmlight.data.members import Members, parse_source
from mmlight.data.sample import (
    BadMemberError,
    Decoding,
    MissingInputError,
    SampleSet,
    decode_sample,
)
from mmlight.errors import UserError

# Samples in flight: their pixels wait in memory.
_CHUNK = 64


def faults_of(
    samples: SampleSet, decoding: Decoding, threads: Executor
) -> Iterator[tuple[str, str]]:
    """Yield where each sample lies that training would leave out or stop at, and why.

    Args:
        samples: the split's.
        decoding: how the experiment decodes them.
        threads: what decodes several at once.
    """

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

    numbers = iter(range(len(samples)))
    while chunk := list(islice(numbers, _CHUNK)):
        for number, said in zip(chunk, threads.map(fault, chunk), strict=True):
            if said is not None:
                path, key = samples.corpus.origin(number)
                yield f"{path}: {key}", said


def _check_whole_sounds(samples: SampleSet, number: int) -> None:
    """Decode what an evaluation leaves out of long sounds: training may draw any part."""
    for extension, data in samples.corpus.read(
        number, _sound_extensions(samples.members(number))
    ).items():
        try:
            check_audio(data)
        # Decoders raise what they like about broken bytes.
        except Exception as error:
            raise BadMemberError(extension, error) from error


def _sound_extensions(members: Members) -> Sequence[str]:
    return [parse_source(source)[0] for source in members.groups().get("audio", [])]
