import pytest

from mmlight.errors import UserError
from mmlight.text.words import WordRule, learn_rule, read_rule

NEWS = [
    "The U.S. said on Friday that Smith & Co. , of Fla. , won 2/3 of AT&T 's shares .".split(),
    'Yahoo! rose 3.5% , " he said . " It \'s over ...'.split(),
    "Mr. Lee ( Rome ) did n't comment .".split(),
]
TWEETS = [["Going", "to", "Rome,", "then", "Oslo!"], ["Ann", "is", "in", "Bonn."]]


def cut(rule, text):
    return [text[start:end] for start, end in rule.cut(text)]


@pytest.mark.parametrize("words", NEWS + TWEETS)
def test_words_of_training_joined_by_spaces_are_cut_as_they_were(words):
    rule = learn_rule(NEWS if words in NEWS else TWEETS)
    assert cut(rule, " ".join(words)) == words
    assert cut(read_rule(rule.as_plain()), " ".join(words)) == words


def test_unseen_abbreviations_of_a_text_that_is_cut_stay_whole():
    words = "Ga. and the U.K. , said Gov. Poe of B&Q .".split()
    assert cut(learn_rule(NEWS), " ".join(words)) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("In the U.S., Yahoo! won.", ["In", "the", "U.S.", ",", "Yahoo!", "won", "."]),
        ("He saw Rome.", ["He", "saw", "Rome", "."]),
        ('(Rome), "Oslo"!', ["(", "Rome", ")", ",", '"', "Oslo", '"', "!"]),
        ("Mr. Lee of B&Q, 1/3", ["Mr.", "Lee", "of", "B&Q", ",", "1/3"]),
        ("It's Ann's...", ["It", "'s", "Ann", "'s", "..."]),
        ("U.S. wins", ["U.S.", "wins"]),
        ("", []),
        (" . ", ["."]),
    ],
)
def test_prose_is_cut_at_punctuation_but_not_within_known_words(text, words):
    assert cut(learn_rule(NEWS), text) == words


def test_words_with_their_punctuation_end_at_white_space():
    assert cut(learn_rule(TWEETS), "Off to Lima, (Peru).") == ["Off", "to", "Lima,", "(Peru)."]


def test_one_slip_in_the_training_set_makes_no_word():
    slip = [["Rome", "won", "."]] * 3 + [["to", "Rome.", "x", "."]]
    assert cut(learn_rule(slip), "We love Rome.") == ["We", "love", "Rome", "."]


def test_without_words_of_training_text_is_cut_at_punctuation():
    assert learn_rule(["not a list", None, [1]]) == WordRule() == read_rule(None)
    assert cut(WordRule(), "Hi,Ann!") == ["Hi", ",", "Ann", "!"]


@pytest.mark.parametrize("kept", [[], {"whole": "ab", "shapes": []}, {"whole": [1], "shapes": []}])
def test_a_rule_of_another_form_is_refused(kept):
    with pytest.raises(UserError, match="cut into words"):
        read_rule(kept)
