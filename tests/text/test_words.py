import pytest
import torch

from mmlight.text.words import first_tokens, joined_spans, split_words


def cut(text):
    return [text[start:end] for start, end in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n", []),
        ("Ann's in New-York.", ["Ann", "'s", "in", "New-York", "."]),
        ("@ann see http://a.b/c?d=1 #now!", ["@ann", "see", "http://a.b/c?d=1", "#now", "!"]),
        ("naïve 東京 😀", ["naïve", "東京", "😀"]),
        ("U.S.A. 3.5%", ["U.S.A.", "3.5", "%"]),
    ],
)
def test_raw_text_is_cut_at_space_and_punctuation(text, words):
    assert cut(text) == words


def test_joined_words_are_found_again_even_empty_ones():
    words = ["a", "", "b c", "\u200b", "d"]
    text = " ".join(words)
    assert [text[start:end] for start, end in joined_spans(words)] == words


def test_a_word_has_the_first_token_that_starts_in_it():
    spans = joined_spans(["ab", "c", "\u200b", "def"])  # 0-2, 3-4, 5-6, 7-10
    tokens = [(0, 0), (0, 1), (1, 2), (3, 4), (7, 9), (9, 10), (0, 0), (0, 0)]
    assert first_tokens(spans, torch.tensor(tokens)) == [1, 3, -1, 4]


def test_a_token_over_two_words_belongs_to_the_one_it_starts_in():
    spans = joined_spans(["New", "York"])
    assert first_tokens(spans, torch.tensor([(0, 8)])) == [0, -1]


def test_words_after_a_cut_have_none():
    spans = joined_spans(["a", "b", "c"])
    assert first_tokens(spans, torch.tensor([(0, 0), (0, 1), (0, 0)])) == [1, -1, -1]
    assert first_tokens([], torch.tensor([(0, 0)])) == []
