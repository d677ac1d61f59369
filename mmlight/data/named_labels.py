"""Labels that are names, as `mmlight shards check` meets them: without settings of a training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmlight.class_names import NoClassError, read_names
from mmlight.data.decode import probe

CLASS_NAMES = "classnames.txt"


@dataclass
class NamedLabels:
    """Checks ``cls`` members, whose names may be known or not.

    Where they are not known, texts are good if every label is one; beside numbers they are bad.

    Attributes:
        given: the names, where the user gives them; else those beside the shards.
    """

    given: Sequence[str] = ()
    _beside: dict[Path, list[str]] = field(default_factory=dict)
    _texts: list[tuple[str, str]] = field(default_factory=list)
    _numbers: int = 0

    def of(self, shard: Path) -> Sequence[str]:
        """Return the names of the classes of a shard; none where they are not known."""
        if self.given:
            return self.given
        folder = shard.parent
        if folder not in self._beside:
            path = folder / CLASS_NAMES
            self._beside[folder] = read_names(str(path), what="") if path.is_file() else []
        return self._beside[folder]

    def fault(self, extension: str, data: bytes, *, names: Sequence[str], place: str) -> str | None:
        """Say what is wrong with a member, None if nothing is or if only others will tell.

        Args:
            extension: of the member.
            data: its bytes.
            names: as `of` returns them.
            place: where it is, for what `left` tells.
        """
        problem = probe.fault(extension, data, class_names=names)
        if extension.rpartition(".")[2] == "cls" and not names:
            if problem and problem.startswith(NoClassError.__name__) and data.strip():
                self._texts.append((place, problem))
                return None
            self._numbers += problem is None
        return problem

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
