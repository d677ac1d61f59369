"""Scores of captions are those of the programs that papers use.

The figures are of pycocoevalcap's `CiderScorer` and `BleuScorer` (closest length) on these words,
and of sacrebleu's `corpus_chrf` on these texts, as they came out beside this test.
"""

import numpy as np
import pytest

from mmlight.metrics.captions import CaptionEvaluation, caption_scores, text_scores, words_of
from mmlight.metrics.cider import cider_d

SAID = {
    "A man rides a wave on a surfboard.": [
        "A man riding a wave on top of a surfboard.",
        "A surfer rides a large wave in the ocean.",
        "Man surfing on a big wave.",
    ],
    "Two dogs play with a red ball in the park": [
        "Two dogs playing with a ball.",
        "A pair of dogs chase a red ball across the grass in a park.",
        "dogs in a park",
    ],
    "a plate of food": [
        "A plate with rice, beans and meat on a wooden table.",
        "A white plate topped with food.",
        "a plate of food and a fork",
    ],
    "A train is on the tracks near a station": [
        "A train pulling into a train station.",
        "The train is on the tracks.",
        "A passenger train near a station platform",
    ],
    "the the the the": ["A cat sits on the window sill.", "The cat is on the mat.", "the cat"],
}
FOUND, REFERENCES = list(SAID), list(SAID.values())
CIDER = [
    *(1.9715211888214679, 1.488202740013935, 2.589515704320207),
    *(3.1942719099426204, 0.11000359353835061),
]
CHRF = 0.5943887469783337
BLEU = [0.9142857142595919, 0.7807200583346614, 0.5799361989151764, 0.41357852315003035]


def test_cider_is_that_of_the_reference_implementation():
    words = [words_of(text) for text in FOUND]
    scores = cider_d(words, [[words_of(text) for text in own] for own in REFERENCES])
    np.testing.assert_allclose(scores, CIDER, rtol=1e-12)


def test_cider_rewards_rare_words_and_ignores_a_set_of_one():
    right = [["a", "cat"], ["a", "dog"], ["a", "red", "owl"]]
    assert cider_d(right, [[own] for own in right]).min() > cider_d(
        [["a"], ["a"], ["a"]], [[own] for own in right]
    ).max()  # fmt: skip
    assert cider_d([["a", "cat"]], [[["a", "cat"]]]).tolist() == [0.0]
    assert cider_d([[]], [[["a", "cat"]]]).tolist() == [0.0]


def test_scores_of_texts_are_those_that_papers_give():
    scores = text_scores(FOUND, REFERENCES)
    assert scores["cider"] == pytest.approx(np.mean(CIDER), rel=1e-12)
    for n, wanted in enumerate(BLEU, start=1):
        assert scores[f"bleu_{n}"] == pytest.approx(wanted, abs=1e-6)
    assert scores["chrf"] == pytest.approx(CHRF, rel=1e-9)
    # By hand: longest common subsequences of 7, 5, 4, 5 and 2 words with the best references.
    best = [2 * 7 / 18, 2 * 5 / 16, 2 * 4 / 11, 2 * 5 / 15, 2 * 2 / 10]
    assert scores["rouge_l"] == pytest.approx(np.mean(best), abs=1e-6)


def test_the_shorter_of_two_references_equally_far_counts_for_brevity():
    scores = text_scores(["a b c d e"], [["a b c d e f", "a b c d"]])
    assert scores["bleu_1"] == pytest.approx(1.0)


def test_an_exact_set_has_full_scores_and_an_empty_one_none():
    texts = [own[0] for own in REFERENCES]
    evaluation = CaptionEvaluation(
        stage="val",
        samples_S=np.arange(5),
        keys=list("abcde"),
        found=texts,
        references=[[text] for text in texts],
        is_exact_S=np.ones(5, dtype=bool),
        loss_S=np.full(5, 3.0),
        tokens_S=np.full(5, 6),
    )
    scores = caption_scores(evaluation)
    assert scores.pop("loss") == 0.5
    assert scores.pop("cider") == pytest.approx(10.0)
    assert all(value == pytest.approx(1.0) for value in scores.values())
    nothing = CaptionEvaluation(
        "val", np.arange(0), [], [], [], np.zeros(0, bool), np.zeros(0), np.zeros(0, int)
    )
    assert caption_scores(nothing) == {}
