"""Which pairs settings mean, and what is said about settings that mean none."""

import pytest

from mmlight.errors import UserError
from mmlight.objectives.clip import Clip
from mmlight.objectives.pairs import parse_pairs

THREE = ("image", "text", "audio")


def test_none_means_every_pair_of_the_towers():
    names = [p.name for p in parse_pairs(None, available=("audio", "image", "text"))]
    assert names == ["image-text", "image-audio", "text-audio"]
    assert [p.name for p in parse_pairs(None, available=("audio", "text"))] == ["text-audio"]


def test_order_in_the_settings_does_not_matter():
    one = parse_pairs({"audio-image": 0.5, "text-image": 1}, available=THREE)
    other = parse_pairs({"image-text": 1.0, "image-audio": 0.5}, available=THREE)
    assert one == other
    assert [(p.name, p.weight) for p in one] == [("image-text", 1.0), ("image-audio", 0.5)]


def test_only_the_modalities_of_the_pairs_are_needed():
    assert Clip(pairs={"text-audio": 1}).modalities(THREE) == ("text", "audio")
    assert Clip().modalities(THREE) == THREE


@pytest.mark.parametrize(
    ("pairs", "available", "said"),
    [
        ({"image-txet": 1}, THREE, r"unknown modality 'txet'.*did you mean 'text'"),
        ({"image": 1}, THREE, "'image' is not a pair"),
        ({"image-text-audio": 1}, THREE, "is not a pair"),
        ({"image-image": 1}, THREE, "with itself"),
        ({"image-text": 1, "text-image": 1}, THREE, "image-text twice"),
        ({"image-audio": 1}, ("image", "text"), "needs audio, which has no tower"),
        ({"image-text": 0}, THREE, "positive"),
        ({"image-text": -1}, THREE, "positive"),
        ({"image-text": float("nan")}, THREE, "positive"),
        ({"image-text": True}, THREE, "must be a number"),
        ({}, THREE, "no pair of modalities"),
        (None, ("image",), r"no pair of modalities.*available: image"),
    ],
)
def test_mistakes_are_named(pairs, available, said):
    with pytest.raises(UserError, match=said):
        parse_pairs(pairs, available=available)
