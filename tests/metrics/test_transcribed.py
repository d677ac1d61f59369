from dataclasses import replace

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate, word_error_rate

from mmlight.metrics.transcribed import (
    SCORES,
    Edits,
    TranscribedEvaluation,
    count_edits,
    transcript_scores,
)


def levenshtein(said, heard):
    """The recursion as it stands in textbooks."""
    if not said or not heard:
        return len(said) + len(heard)
    return min(
        levenshtein(said[1:], heard) + 1,
        levenshtein(said, heard[1:]) + 1,
        levenshtein(said[1:], heard[1:]) + (said[0] != heard[0]),
    )


def evaluation(said, heard):
    zeros = np.zeros(len(said))
    return TranscribedEvaluation(
        stage="test",
        samples_S=np.arange(len(said)),
        keys=[str(n) for n in range(len(said))],
        said=said,
        heard=heard,
        score_S=zeros,
        loss_S=zeros,
    )


def test_fewest_edits_equal_the_textbook():
    draws = np.random.default_rng(0)
    for _ in range(60):
        said = "".join(draws.choice(list("abc"), draws.integers(0, 6)))
        heard = "".join(draws.choice(list("abc"), draws.integers(0, 6)))
        edits = count_edits(said, heard)
        assert edits.total == levenshtein(said, heard), (said, heard)
        assert edits.length == len(said)
        assert len(said) - edits.deletions + edits.insertions == len(heard)


@pytest.mark.parametrize(
    ("said", "heard", "expected"),
    [
        ("a b c", "a x c", Edits(1, 0, 0, 3)),
        ("a b c", "a c", Edits(0, 1, 0, 3)),
        ("a c", "a b c", Edits(0, 0, 1, 2)),
        ("a b", "", Edits(0, 2, 0, 2)),
        ("", "a b", Edits(0, 0, 2, 0)),
        ("", "", Edits()),
    ],
)
def test_each_kind_of_edit_is_counted(said, heard, expected):
    assert count_edits(said.split(), heard.split()) == expected


def test_rates_are_those_of_torchmetrics_over_the_whole_set():
    said = ["one two three", "four", "f i v e", "six seven"]
    heard = ["one too three", "four for", "five", ""]
    scores = transcript_scores(evaluation(said, heard))
    assert set(scores) == set(SCORES)
    assert scores["wer"] == pytest.approx(float(word_error_rate(heard, said)))
    assert scores["cer"] == pytest.approx(float(char_error_rate(heard, said)))
    parts = [scores[f"wer_{kind}"] for kind in ("substitutions", "deletions", "insertions")]
    assert sum(parts) == pytest.approx(scores["wer"])
    assert scores["sentence_error"] == 1.0


def test_a_set_without_words_has_no_scores():
    assert transcript_scores(evaluation([], [])) == {}


def test_clips_with_too_few_frames_are_counted_and_have_no_loss():
    given = replace(evaluation(["a", "b", "c"], ["a", "b", ""]), loss_S=np.array([1, 3, np.nan]))
    scores = transcript_scores(given)
    assert scores["loss"] == 2.0 and scores["num_impossible"] == 1
