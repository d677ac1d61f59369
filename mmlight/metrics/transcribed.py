"""Word and character error rates of a set of transcripts.

Shapes: S samples of the whole set.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

SCORES = (
    *("wer", "wer_substitutions", "wer_deletions", "wer_insertions"),
    *("cer", "sentence_error", "loss", "num_impossible"),
)


class Edits(NamedTuple):
    """The fewest edits that turn what was heard into what was said.

    Attributes:
        substitutions: items that were heard as others.
        deletions: items that were said and not heard.
        insertions: items that were heard and not said.
        length: items that were said.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.substitutions + self.deletions + self.insertions


def count_edits(said: Sequence[Any], heard: Sequence[Any]) -> Edits:
    """Return the edits of Levenshtein's distance; of equal ways, one with most substitutions."""
    numbers: dict[Any, int] = {}
    said_N, heard_M = (
        np.array([numbers.setdefault(item, len(numbers)) for item in items], dtype=np.int64)
        for items in (said, heard)
    )
    num_said, num_heard = len(said_N), len(heard_M)
    # distance[i, j]: from the first i said to the first j heard.
    distance = np.zeros((num_said + 1, num_heard + 1), dtype=np.int64)
    place = np.arange(num_heard + 1)
    distance[0] = place
    for row in range(1, num_said + 1):
        above = distance[row - 1]
        best = above + 1
        best[1:] = np.minimum(best[1:], above[:-1] + (heard_M != said_N[row - 1]))
        # Insertions run along the row: d[j] = min over k <= j of best[k] + (j - k).
        distance[row] = np.minimum.accumulate(best - place) + place
    row, column = num_said, num_heard
    substitutions = deletions = insertions = 0
    while row or column:
        here = distance[row, column]
        if row and column:
            differ = int(said_N[row - 1] != heard_M[column - 1])
            if distance[row - 1, column - 1] + differ == here:
                substitutions += differ
                row, column = row - 1, column - 1
                continue
        if row and distance[row - 1, column] + 1 == here:
            deletions += 1
            row -= 1
        else:
            insertions += 1
            column -= 1
    return Edits(substitutions, deletions, insertions, num_said)


@dataclass(frozen=True)
class TranscribedEvaluation:
    """What was said and what was heard in every sample of a set, gathered from all ranks.

    Texts are normalised as the tokenizer does it (case), with single spaces between words. Samples
    without a transcript are left out.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        said: the transcripts.
        heard: what the model heard.
        score_S: float64, the decoder's log-probability of what it heard.
        loss_S: float64, -log p(transcript) per symbol, nats; nan where the clip has too few frames.
        fields: further values of the samples, by name, such as their speakers.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    said: list[str]
    heard: list[str]
    score_S: np.ndarray
    loss_S: np.ndarray
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        sizes = {len(getattr(self, n)) for n in ("keys", "said", "heard", "score_S", "loss_S")}
        assert sizes == {len(self.samples_S)}
        assert all(len(values) == len(self.keys) for values in self.fields.values())


def transcript_scores(evaluation: TranscribedEvaluation) -> dict[str, float]:
    """Return the scores of a set; no rate where it has no word.

    - ``wer``: edits between words over words said, of the whole set (not the mean of the samples'
      rates, in which short samples weigh more); may exceed 1;
    - ``wer_substitutions``, ``wer_deletions``, ``wer_insertions``: its three parts;
    - ``cer``: the same as ``wer``, for characters;
    - ``sentence_error``: share of samples with any error;
    - ``loss``: mean per symbol, of clips that have frames enough;
    - ``num_impossible``: clips with too few frames for their transcript, which have no loss.
    """
    scores: dict[str, float] = {}
    pairs = list(zip(evaluation.said, evaluation.heard, strict=True))
    words = _total(count_edits(said.split(), heard.split()) for said, heard in pairs)
    if words.length:
        characters = _total(count_edits(said, heard) for said, heard in pairs)
        scores = {
            "wer": words.total / words.length,
            "wer_substitutions": words.substitutions / words.length,
            "wer_deletions": words.deletions / words.length,
            "wer_insertions": words.insertions / words.length,
            "cer": characters.total / characters.length,
            "sentence_error": sum(said != heard for said, heard in pairs) / len(pairs),
        }
    possible_S = np.isfinite(evaluation.loss_S)
    if possible_S.any():
        scores["loss"] = float(evaluation.loss_S[possible_S].mean())
    if evaluation.keys:
        scores["num_impossible"] = float((~possible_S).sum())
    return scores


def _total(edits: Iterable[Edits]) -> Edits:
    return Edits(*map(sum, zip(*edits, strict=True)))
