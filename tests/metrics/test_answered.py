"""Scores of answers, VQA's measure among them."""

from itertools import combinations

import pytest

from mmlight.metrics.answered import answer_key, answer_scores, human_accuracy


@pytest.mark.parametrize("same", range(11))
def test_the_measure_is_the_mean_over_all_choices_of_nine_of_ten(same):
    answers = ["red"] * same + ["blue"] * (10 - same)
    wanted = [min(chosen.count("red") / 3, 1) for chosen in combinations(answers, 9)]
    assert human_accuracy("red", answers) == pytest.approx(sum(wanted) / len(wanted))


def test_few_answers_are_right_or_wrong():
    assert human_accuracy("Red.", ["red"]) == 1 and human_accuracy("blue", ["red", "green"]) == 0


def test_articles_case_and_punctuation_do_not_count():
    assert answer_key("The red circle!") == answer_key("a Red  circle") == "red circle"
    assert answer_key("A") == "a"


def test_scores_are_also_of_each_type():
    said = ["red", "two", "no", "yes", "anything"]
    answers = [["red"], ["one"], ["no"], ["no"], []]
    scores = answer_scores(said, answers, ["colour", "count", "exists", "exists", "count"])
    assert scores == {
        "accuracy": 0.5,
        "colour/accuracy": 1.0,
        "count/accuracy": 0.0,
        "exists/accuracy": 0.5,
    }
    assert answer_scores(said, [[]] * 5) == {}


def test_several_answers_give_partial_scores():
    answers = [["red"] * 2 + ["pink"] * 8, ["two"]]
    scores = answer_scores(["red", "two"], answers, ["how many?", "how many?"])
    assert scores["accuracy"] == 0.5
    assert scores["vqa_accuracy"] == pytest.approx((0.6 + 1) / 2)
    assert scores["how_many?/accuracy"] == scores["vqa_accuracy"]
