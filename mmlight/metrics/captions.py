"""Scores of captions against what people said: CIDEr, BLEU, ROUGE-L, chrF, and exactness.

Words are what is left of a text in lower case without punctuation, as in evaluations of COCO, whose
tokenizer (the Penn Treebank's, in Java) also cuts ``don't`` in two. Shapes: S samples of the set.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torchmetrics.functional.text import bleu_score, rouge_score

from mmlight.metrics.chrf import chrf
from mmlight.metrics.cider import cider_d

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_BLEU = tuple(f"bleu_{n}" for n in range(1, 5))
SCORES = ("loss", "exact_match", "cider", *_BLEU, "rouge_l", "chrf")


@dataclass(frozen=True)
class CaptionEvaluation:
    """What was generated and what people said of every sample of a set, gathered from all ranks.

    Attributes:
        stage: `val` or `test`.
        samples_S: int64, ascending, the number of each sample in its data set.
        keys: ``shard-name/sample-key`` of each sample.
        found: the generated captions.
        references: captions that people wrote, one or more of each sample.
        is_exact_S: bool, whether a caption is one of its references, as the tokenizer sees them.
        loss_S: float64, the sum of -log p(token) of a sample's references, nats.
        tokens_S: int64, how many tokens these have.
        looks: samples with what each word of their caption looked at; a few of the set.
        fields: further values of the samples, by name.
    """

    stage: str
    samples_S: np.ndarray
    keys: list[str]
    found: list[str]
    references: list[list[str]]
    is_exact_S: np.ndarray
    loss_S: np.ndarray
    tokens_S: np.ndarray
    looks: Sequence[Any] = ()
    fields: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that rows line up; a mismatch is a bug of the caller."""
        sizes = {len(getattr(self, n)) for n in ("keys", "found", "references", "loss_S")}
        assert sizes == {len(self.samples_S)}


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def caption_scores(evaluation: CaptionEvaluation) -> dict[str, float]:
    """Return the scores of a set; none where it is empty.

    - ``loss``: mean of -log p(token) of the references, nats;
    - ``exact_match``: share of captions that are one of their references, as the tokenizer sees
      these (case, unknown words);
    - ``cider``: CIDEr-D, 0 to 10 (`mmlight.metrics.cider`; papers give a hundred times as much);
    - ``bleu_1`` to ``bleu_4``: of the set, by torchmetrics, unsmoothed, 0 to 1;
    - ``rouge_l``: the best F1 over a sample's references, by torchmetrics (the COCO evaluation
      weighs recall more);
    - ``chrf``: of the set, character sequences up to 6, beta 2 (`mmlight.metrics.chrf`), 0 to 1.
    """
    found, references = evaluation.found, evaluation.references
    if not found:
        return {}
    return {
        "loss": float(evaluation.loss_S.sum() / max(1, evaluation.tokens_S.sum())),
        "exact_match": float(evaluation.is_exact_S.mean()),
        **text_scores(found, references),
    }


def text_scores(found: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return those of `caption_scores` that compare texts, but exactness.

    Args:
        found: generated captions, one or more.
        references: of each.
    """
    words = [words_of(text) for text in found]
    right = [[words_of(text) for text in own] for own in references]
    plain = [" ".join(of_text) for of_text in words]
    # Of references that are equally far from a caption's length, torchmetrics takes the first for
    # BLEU; the shorter one counts (mteval, COCO).
    plain_right = [[" ".join(of_text) for of_text in sorted(own, key=len)] for own in right]
    rouge = rouge_score(
        plain,
        plain_right,
        accumulate="best",
        normalizer=str,
        tokenizer=str.split,
        rouge_keys="rougeL",
    )
    return {
        "cider": float(cider_d(words, right).mean()),
        **{
            name: float(bleu_score(plain, plain_right, n_gram=n))
            for n, name in enumerate(_BLEU, start=1)
        },
        "rouge_l": float(rouge["rougeL_fmeasure"]),
        "chrf": chrf(found, references),
    }
