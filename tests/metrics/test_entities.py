import random

import pytest

from mmlight.metrics.entities import Span, as_bio, span_scores, spans_of

TYPES = ["person", "place", "work"]


def reference_spans(tags):
    """conlleval's rules of where a chunk begins and ends, word by word."""
    spans, begin = [], None
    for i, tag in enumerate(tags):
        before = tags[i - 1] if i else "O"
        ends = before != "O" and (tag == "O" or tag[0] == "B" or tag[2:] != before[2:])
        begins = tag != "O" and (tag[0] == "B" or before == "O" or tag[2:] != before[2:])
        if ends:
            spans.append(Span(before[2:], begin, i))
        if begins:
            begin = i
    if tags and tags[-1] != "O":
        spans.append(Span(tags[-1][2:], begin, len(tags)))
    return spans


def reference_scores(sentences, *, surface, kind=None):
    """The scorer's own way: sets of (sentence, start, end, type, words), then of (words, type)."""
    gold, found = set(), set()
    for number, (words, true, guess) in enumerate(sentences):
        for into, tags in ((gold, true), (found, guess)):
            for s in reference_spans(tags):
                if kind in (None, s.type):
                    into.add((number, s.start, s.end, s.type, tuple(words[s.start : s.end])))
    right = gold & found
    if surface:
        gold, found, right = ({(e[4], e[3]) for e in part} for part in (gold, found, right))
    p = len(right) / len(found) if found else 0.0
    r = len(right) / len(gold) if gold else 0.0
    return p, r, 2 * p * r / (p + r) if p + r else 0.0


def count(sentences):
    words, gold, found = zip(*sentences, strict=True)
    gold, found = ([spans_of(tags) for tags in side] for side in (gold, found))
    return span_scores(words, gold=gold, found=found, types=TYPES)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-a", "I-a", "O", "B-a"], [("a", 0, 2), ("a", 3, 4)]),
        (["B-a", "B-a"], [("a", 0, 1), ("a", 1, 2)]),
        (["I-a", "I-a"], [("a", 0, 2)]),
        (["O", "I-a"], [("a", 1, 2)]),
        (["B-a", "I-b", "I-b"], [("a", 0, 1), ("b", 1, 3)]),
        (["B-a", "O", "I-a"], [("a", 0, 1), ("a", 2, 3)]),
        (["I-a", "B-a", "I-a"], [("a", 0, 1), ("a", 1, 3)]),
        (["B-creative-work", "I-creative-work"], [("creative-work", 0, 2)]),
    ],
)
def test_entities_follow_conllevals_conventions(tags, spans):
    assert spans_of(tags) == [Span(*span) for span in spans]


@pytest.mark.parametrize(
    ("tags", "bio"),
    [
        ("B-a I-a E-a S-a O", "B-a I-a I-a B-a O"),
        ("S-a I-a", "B-a B-a"),
        ("I-a E-a E-a E-b", "I-a I-a B-a I-b"),
        ("B-a M-a E-a W-b U-b L-b", "B-a I-a I-a B-b B-b B-b"),
        ("I-a I-a B-a", "I-a I-a B-a"),
        ("a a b O", "I-a I-a I-b O"),
        ("X-a c B-c o S-", "X-a c B-c o S-"),
    ],
)
def test_other_schemes_become_bio(tags, bio):
    assert as_bio(tags.split(), ["a", "b"]) == bio.split()


@pytest.mark.parametrize("tag", ["", "E-a", "B", "B-", "person", "o"])
def test_what_is_no_bio_tag_is_refused(tag):
    with pytest.raises(ValueError, match="not a BIO tag"):
        spans_of(["O", tag])


def test_an_entity_counts_only_with_both_ends_and_the_type_right():
    words = "Ann Lee met Bob in Rome".split()
    gold = ["B-person", "I-person", "O", "B-person", "O", "B-place"]
    found = ["B-person", "O", "O", "B-person", "O", "B-work"]
    result = count([(words, gold, found)])
    assert result["precision"] == result["recall"] == result["f1"] == pytest.approx(1 / 3)
    assert result["person/recall"] == 0.5
    of_place = {name: value for name, value in result.items() if name.startswith("place/")}
    assert of_place == {"place/precision": 0, "place/recall": 0, "place/f1": 0}
    assert result["work/precision"] == 0 and "work/recall" not in result


def test_a_wording_counts_once_and_only_if_found_where_it_stands():
    a, b = ["Rome"], ["Rome", "is"]
    found_twice = [(a, ["B-place"], ["B-place"]), (a, ["B-place"], ["B-place"])]
    assert count(found_twice)["f1"] == count(found_twice)["surface_f1"] == 1
    elsewhere = [(a, ["B-place"], ["O"]), (b, ["O", "O"], ["B-place", "O"])]
    assert count(elsewhere)["surface_recall"] == count(elsewhere)["surface_precision"] == 0


def test_no_entities_at_all_give_no_scores():
    assert count([(["a"], ["O"], ["O"]), ([], [], [])]) == {}


def test_scores_equal_a_slow_reference_on_random_tags():
    draws = random.Random(0)
    tags = ["O"] + [f"{p}-{t}" for p in "BI" for t in TYPES]
    sentences = []
    for _ in range(200):
        length = draws.randrange(12)
        words = [draws.choice("abcd") for _ in range(length)]
        gold = [draws.choice(tags) for _ in range(length)]
        found = [g if draws.random() < 0.7 else draws.choice(tags) for g in gold]
        assert spans_of(gold) == reference_spans(gold)
        sentences.append((words, gold, found))
    result = count(sentences)
    names = ("precision", "recall", "f1")
    for kind in (None, *TYPES):
        expected = reference_scores(sentences, surface=False, kind=kind)
        prefix = "" if kind is None else f"{kind}/"
        assert [result[f"{prefix}{name}"] for name in names] == pytest.approx(expected)
    expected = reference_scores(sentences, surface=True)
    assert [result[f"surface_{name}"] for name in names] == pytest.approx(expected)
    assert 0.2 < result["surface_f1"] != result["f1"]
