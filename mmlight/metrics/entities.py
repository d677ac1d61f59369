"""What an evaluation of named entities leaves behind for lists of mistakes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Entity:
    """A named entity in a text.

    Attributes:
        type: such as ``person``.
        start: place of its first character in the text.
        end: the place after its last character.
        text: its characters.
        score: probability of the least certain of its words' tags; 1 for a true entity.
    """

    type: str
    start: int
    end: int
    text: str
    score: float = 1.0

    def same(self, other: "Entity") -> bool:
        """Return whether both are at one place and of one type."""
        return (self.type, self.start, self.end) == (other.type, other.start, other.end)


@dataclass(frozen=True)
class EntityEvaluation:
    """True and found entities of every evaluated sample, gathered from all ranks.

    S is the number of samples.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each evaluated sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        texts: the text of each sample; its words, joined by spaces.
        gold: the true entities of each sample.
        found: the entities that the model found in each sample.
        loss_S: float32, the mean over a sample's words of -log p(its true tag); 0 where no word
            reached the model.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    texts: list[str]
    gold: list[list[Entity]]
    found: list[list[Entity]]
    loss_S: np.ndarray

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        lengths = {len(getattr(self, name)) for name in ("keys", "texts", "gold", "found")}
        assert lengths == {len(self.samples_S)} == {len(self.loss_S)}

    def missed(self, row: int) -> list[Entity]:
        """Return the true entities of a row that were not found."""
        return [e for e in self.gold[row] if not any(e.same(other) for other in self.found[row])]

    def wrong(self, row: int) -> list[Entity]:
        """Return the entities found in a row that are not true, the most certain first."""
        wrong = [e for e in self.found[row] if not any(e.same(other) for other in self.gold[row])]
        return sorted(wrong, key=lambda entity: -entity.score)
