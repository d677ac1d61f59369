"""What is known of a sample when a condition is asked: its index, and members read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmlight.data.members import Contents, look_up, parse_source
from mmlight.data.shards.corpus import Corpus

# What is known of every sample without reading it.
FACTS = ("key", "shard", "width", "height", "duration", "bytes")


@dataclass(frozen=True)
class Known:
    """What an expression may ask of a sample; members are read before.

    Attributes:
        corpus: where it is.
        number: of it.
        contents: the members that the expression reads.
    """

    corpus: Corpus
    number: int
    contents: Contents

    def fact(self, name: str) -> Any:
        """Return what the index says; None where it says nothing."""
        shard, key = self.corpus.origin(self.number)
        match name:
            case "key":
                return key
            case "shard":
                return shard.rpartition("/")[2]
            case "width" | "height":
                width, height = self.corpus.image_sizes[self.number].tolist()
                return (width if name == "width" else height) or None
            case "duration":
                seconds = float(self.corpus.durations[self.number])
                return seconds if seconds == seconds else None
        return sum(self.sizes().values())

    def named(self) -> str:
        """Return how messages name it."""
        return self.corpus.named(self.number)

    def has(self, source: str) -> bool:
        """Return whether it has a member, or a key in JSON, be it null."""
        extension, key = parse_source(source)
        if key is None or extension not in self.contents.raw:
            return extension in self.contents.raw
        try:
            value = self.contents.value(extension)
        except ValueError:
            return False
        above, _, last = key.rpartition(".")
        inner = look_up(value, above) if above else value
        return (isinstance(value, Mapping) and key in value) or (
            isinstance(inner, Mapping) and last in inner
        )

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of each member."""
        return self.corpus.members(self.number)
