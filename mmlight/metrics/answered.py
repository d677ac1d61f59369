"""Scores of answers to questions: accuracy, of several people's answers too, and by type."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s'%&+-]")
# As many people must have said what is right (arXiv 1505.00468, section 3).
_ENOUGH = 3
_MAX_TYPES = 100


@lru_cache(maxsize=65_536)
def answer_key(text: str) -> str:
    """Return an answer as it is compared: lower case, without articles and punctuation.

    VQA's own script also writes number words as digits and mends contractions.
    """
    plain = _ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower()))
    return " ".join(plain.split()) or text.lower().strip()


def human_accuracy(said: str, answers: Sequence[str]) -> float:
    """Return how right an answer is by VQA's measure (arXiv 1505.00468, section 3).

    That is the mean of min(n / 3, 1) over all choices of all people but one, n of whom said it; of
    a lone answer whether it is the same.

    Args:
        said: what the model said.
        answers: what people said; one or more.
    """
    same = sum(answer_key(answer) == answer_key(said) for answer in answers)
    if len(answers) < _ENOUGH + 1:
        return float(same > 0)
    others = len(answers) - same
    # Leaving out one who said it, or one who did not.
    without = same * min((same - 1) / _ENOUGH, 1.0) + others * min(same / _ENOUGH, 1.0)
    return without / len(answers)


def usual_answer(answers: Sequence[str]) -> str:
    """Return what most people said, of equally many the first."""
    count = Counter(answer_key(answer) for answer in answers)
    return max(count, key=lambda key: count[key])


def answer_scores(
    said: Sequence[str], answers: Sequence[Sequence[str]], types: Sequence[Any] = ()
) -> dict[str, float]:
    """Return the scores of a set; nothing of one without answers.

    - ``accuracy``: share of questions whose answer is what most people said;
    - ``vqa_accuracy``: the mean of `human_accuracy`, where any question has several answers;
    - ``TYPE/accuracy``: of the questions of each type, the latter measure where there is one.

    Args:
        said: the model's answers.
        answers: those of people to each question; questions without any are left out.
        types: of the questions; None for one that has none, and empty where nobody says.
    """
    known = [i for i, of_one in enumerate(answers) if of_one]
    if not known:
        return {}
    exact = {i: float(answer_key(said[i]) == usual_answer(answers[i])) for i in known}
    scores = {"accuracy": _mean(exact.values())}
    by_question = exact
    if any(len(answers[i]) > 1 for i in known):
        by_question = {i: human_accuracy(said[i], answers[i]) for i in known}
        scores["vqa_accuracy"] = _mean(by_question.values())
    groups: dict[str, list[float]] = {}
    for i in known:
        if types and types[i] is not None:
            name = "_".join(str(types[i]).split()).replace("/", "_")
            groups.setdefault(name, []).append(by_question[i])
    if len(groups) <= _MAX_TYPES:
        scores |= {f"{name}/accuracy": _mean(groups[name]) for name in sorted(groups)}
    return scores


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
