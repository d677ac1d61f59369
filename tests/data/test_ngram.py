import io
import itertools
import math

import pytest
from shard_files import write_tar

from mmlight.data.ngram_command import END, START, UNKNOWN, NgramModel, main
from mmlight.errors import UserError

TEXTS = ["one two three", "one two", "two two one", "three", "one"]


def read_arpa(text):
    """Log10 probabilities and back-off weights, as the format's readers understand them."""
    p, backoff = {}, {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) >= 2:
            gram = tuple(fields[1].split())
            p[gram] = float(fields[0])
            backoff[gram] = float(fields[2]) if len(fields) == 3 else 0.0
    return p, backoff


def looked_up(p, backoff, gram):
    """The back-off rule of the ARPA format."""
    if gram in p:
        return p[gram]
    return backoff.get(gram[:-1], 0.0) + looked_up(p, backoff, gram[1:])


def arpa(order):
    file = io.StringIO()
    model = NgramModel(TEXTS, order=order)
    model.write(file)
    return model, file.getvalue()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_of_any_context_sum_to_one(order):
    model = NgramModel(TEXTS, order=order)
    vocabulary = [*model.words, END, UNKNOWN]
    for context in itertools.product([START, "one", "two", "never"], repeat=2):
        total = sum(model.probability(word, context) for word in vocabulary)
        assert total == pytest.approx(1)


def test_a_bigram_by_hand():
    model = NgramModel(TEXTS, order=2)
    # Four words, the end and the unknown word; 10 words and 5 ends were counted.
    words = {"one": 4, "two": 4, "three": 2, END: 5}
    unigram = {w: (c + 4 / 5) / (15 + 4) for w, c in words.items()}
    # After "two": "three" once, the end once, "two" once, "one" once.
    assert model.probability("three", ("two",)) == pytest.approx((1 + 4 * unigram["three"]) / 8)
    # After "three": the end twice, and nothing else.
    assert model.probability("one", ("three",)) == pytest.approx(unigram["one"] / 3)
    assert model.probability("never", ("three",)) == pytest.approx(4 / 5 / 19 / 3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_file_says_what_the_model_says(order):
    model, text = arpa(order)
    p, backoff = read_arpa(text)
    vocabulary = [*model.words, END, UNKNOWN]
    for context in itertools.product([START, "one", "two", "three"], repeat=order - 1):
        for word in vocabulary:
            expected = math.log10(model.probability(word, context))
            assert looked_up(p, backoff, (*context, word)) == pytest.approx(expected, abs=1e-6)


def test_the_file_has_the_header_that_readers_need():
    _, text = arpa(2)
    lines = text.splitlines()
    assert lines[:3] == ["\\data\\", "ngram 1=6", "ngram 2=10"]
    assert lines[-1] == "\\end\\"
    p, _ = read_arpa(text)
    assert len([gram for gram in p if len(gram) == 2]) == 10


def test_kenlm_scores_sentences_as_the_model_does(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    model, text = arpa(3)
    (tmp_path / "lm.arpa").write_text(text)
    dictionary = Dictionary([*model.words, UNKNOWN])
    dictionary.set_default_index(dictionary.get_index(UNKNOWN))
    lm = KenLM(str(tmp_path / "lm.arpa"), dictionary)
    for sentence in (["one", "two", "three"], ["three", "three"], ["two", "never", "one"]):
        state, score = lm.start(False), 0.0
        for word in sentence:
            state, part = lm.score(state, dictionary.get_index(word))
            score += part
        score += lm.finish(state)[1]
        words = [START, *sentence, END]
        expected = sum(
            math.log10(model.probability(words[place], tuple(words[:place])))
            for place in range(1, len(words))
        )
        assert score == pytest.approx(expected, abs=1e-4)


def test_the_command_reads_shards(tmp_path, capsys):
    members = [(f"{n}.txt", text.upper().encode()) for n, text in enumerate(TEXTS)]
    shards = str(write_tar(tmp_path / "0.tar", members))
    out = tmp_path / "made" / "lm.arpa"
    assert main(["--shards", shards, "--order", "2", "--lowercase", "--out", str(out)]) == 0
    assert out.read_text() == arpa(2)[1]
    assert "5 texts, 3 words, 6 1-grams, 10 2-grams" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["lm.arpa"]
    with pytest.raises(UserError, match="--order 1"):
        main(["--shards", shards, "--order", "1", "--out", str(out)])
