"""Which modality of a pair is sent."""

import pytest

from mmlight.objectives.exchange import column_modalities, sides
from mmlight.objectives.pairs import parse_pairs

THREE = ("image", "text", "audio")


@pytest.mark.parametrize(
    ("pairs", "sent"),
    [
        ({"image-text": 1}, ("text",)),
        ({"image-audio": 1}, ("audio",)),
        ({"image-text": 1, "text-audio": 1}, ("text",)),
        ({"image-text": 1, "image-audio": 1}, ("image",)),
        (None, ("text", "audio")),
    ],
)
def test_each_pair_has_one_of_the_fewest_modalities(pairs, sent):
    parsed = parse_pairs(pairs, available=THREE)
    assert column_modalities(parsed) == sent
    for pair in parsed:
        row, column = sides(pair, sent)
        assert {row, column} == {pair.first, pair.second}
        assert column in sent
