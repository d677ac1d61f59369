"""Collects what is heard in an evaluation set and scores it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmlight import comm
from mmlight.metrics.transcribed import TranscribedEvaluation, transcript_scores


@dataclass(frozen=True)
class TranscriptRow:
    """One clip.

    Attributes:
        key: of the sample.
        said: the transcript, comparable.
        heard: what the model heard, comparable.
        score: the decoder's log-probability of it.
        loss: -log p(transcript) per symbol; nan where the clip has too few frames for it.
        fields: further values of the sample.
    """

    key: str
    said: str
    heard: str
    score: float
    loss: float
    fields: dict[str, Any]


@dataclass
class TranscriptStore:
    """One rank's evaluated clips, batch by batch."""

    _rows: dict[int, TranscriptRow] = field(default_factory=dict)

    def add(self, sample: int, row: TranscriptRow) -> None:
        """Keep a clip; `sample` is its number in the data set."""
        self._rows[sample] = row

    def gather(self, stage: str) -> TranscribedEvaluation:
        """Return all ranks' clips by sample number; every rank calls it, and gets the same."""
        rows = {n: row for part in comm.gather_objects(self._rows) for n, row in part.items()}
        numbers = sorted(rows)
        ordered = [rows[number] for number in numbers]
        return TranscribedEvaluation(
            stage=stage,
            samples_S=np.array(numbers, dtype=np.int64),
            keys=[row.key for row in ordered],
            said=[row.said for row in ordered],
            heard=[row.heard for row in ordered],
            score_S=np.array([row.score for row in ordered], dtype=np.float64),
            loss_S=np.array([row.loss for row in ordered], dtype=np.float64),
            fields={
                name: [row.fields[name] for row in ordered]
                for name in (ordered[0].fields if ordered else ())
            },
        )


def scores_of(evaluation: TranscribedEvaluation) -> dict[str, float]:
    """Return error rates, ``loss`` (mean per symbol) and ``num_impossible``.

    The last counts clips with too few frames for their transcript; they have no loss.
    """
    scores = transcript_scores(evaluation)
    possible_S = np.isfinite(evaluation.loss_S)
    if possible_S.any():
        scores["loss"] = float(evaluation.loss_S[possible_S].mean())
    if evaluation.keys:
        scores["num_impossible"] = float((~possible_S).sum())
    return scores
