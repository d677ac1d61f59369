"""Which tokens are hidden: shares, fates, whole words, spans; always the same ones."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from mmlight.data.collate import Layout, collate
from mmlight.data.decode.draw import Draws
from mmlight.data.masking import Masking, mask_tokens, special_ids
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.data.tokenizer_command import train
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

BYTES = ByteTokenizer()
WORDS = ("unbelievably", "the", "small", "owl's", "eye", "opened", "!")


def draws(sample=0, epoch=0):
    return Draws("masking", seed=0, epoch=epoch, sample=sample)


def text_of(number, words=40):
    generator = np.random.default_rng(number)
    return " ".join(WORDS[i] for i in generator.integers(len(WORDS), size=words))


@pytest.fixture(scope="module")
def pieces():
    return train(iter([text_of(n) for n in range(20)]), vocab_size=60, kind="wordpiece")


def masked(tokenizer, text, masking, sample=0):
    ((ids, places),) = tokenizer.encode_with_offsets([text], max_tokens=10_000)
    ids_T = np.array(ids)
    found = mask_tokens(
        ids_T, masking, tokenizer=tokenizer, draws=draws(sample), text=text, places=places
    )
    return ids_T, found, places


@pytest.mark.parametrize("kind", ["token", "whole_word", "span"])
def test_the_share_is_chosen_and_eight_tenths_of_it_hidden(kind, pieces):
    chosen = total = hidden = other = 0
    for sample in range(60):
        ids_T, found, _ = masked(pieces, text_of(sample), Masking(kind=kind), sample)
        is_free = ~np.isin(ids_T, sorted(special_ids(pieces)))
        assert not found.counted_T[~is_free].any()
        assert (found.ids_T == ids_T)[~found.counted_T].all()
        budget = round(0.15 * is_free.sum())
        assert found.counted_T.sum() == budget if kind == "token" else True
        assert budget - 8 <= found.counted_T.sum() <= budget + 8
        assert not np.isin(found.ids_T[found.counted_T], [0, 1, 2, 3]).any()
        chosen, total = chosen + found.counted_T.sum(), total + is_free.sum()
        hidden += (found.ids_T == pieces.mask_id).sum()
        other += ((found.ids_T != ids_T) & (found.ids_T != pieces.mask_id)).sum()
    assert 0.12 < chosen / total <= 0.151
    assert 0.7 < hidden / chosen < 0.9 and 0.04 < other / chosen < 0.16


@pytest.mark.parametrize("kind", ["whole_word", "span"])
@pytest.mark.parametrize("tokenizer", [BYTES, "pieces"])
def test_all_tokens_of_a_word_are_chosen_or_none(kind, tokenizer, pieces):
    tokenizer = pieces if tokenizer == "pieces" else tokenizer
    text = text_of(1)
    for sample in range(20):
        _, found, places = masked(tokenizer, text, Masking(kind=kind), sample)
        begin = 0
        for word in text.replace("owl's", "owl ' s").split():
            begin = text.index(word, begin)
            end = begin + len(word)
            mine = [n for n, (a, b) in enumerate(places) if begin <= a < b <= end]
            assert len(mine) >= 1 and len({bool(found.counted_T[n]) for n in mine}) == 1
            begin = end


def test_spans_are_as_long_as_a_geometric_distribution_says():
    """Of words of one token, with room for all of them: 1 + failures, cut at the longest."""
    text = " ".join("a" for _ in range(2000))
    tokenizer = CharTokenizer("ab")  # white space is unknown, so special: every word one token
    lengths = []
    for sample in range(60):
        both = CharTokenizer.encode_with_offsets(tokenizer, [text], max_tokens=9999)
        ((ids, places),) = both
        words = [n for n, i in enumerate(ids) if i != tokenizer.unk_id]
        tokenizer.mask_id = 3
        found = mask_tokens(
            np.array(ids),
            Masking(kind="span", share=0.02, span_p=0.5, longest_span=4),
            tokenizer=tokenizer,
            draws=draws(sample),
            text=text,
            places=places,
        )
        flags = "".join("x" if found.counted_T[n] else " " for n in words)
        lengths += [len(run) for run in flags.split()]
    share = np.bincount(lengths, minlength=5)[1:5] / len(lengths)
    expected = np.array([8, 4, 2, 1]) / 15
    # Spans that meet make longer ones, and the last is cut at the budget.
    assert np.abs(share - expected).max() < 0.06


def test_tokens_of_a_span_have_one_fate():
    masking = Masking(kind="span", masked=1.0, random=0.0, share=0.4)
    ids_T, found, _ = masked(BYTES, text_of(3), masking)
    assert (found.ids_T[found.counted_T] == BYTES.mask_id).all()
    kept = Masking(kind="span", masked=0.0, random=0.0, share=0.4)
    ids_T, found, _ = masked(BYTES, text_of(3), kept)
    assert (found.ids_T == ids_T).all() and found.counted_T.sum() > 10


def test_a_text_of_special_tokens_alone_hides_nothing():
    ids_T = np.array([1, 2, 0])
    found = mask_tokens(ids_T, Masking(), tokenizer=BYTES, draws=draws())
    assert not found.counted_T.any() and (found.ids_T == ids_T).all()


LAYOUT = Layout(
    modalities=("text",),
    labels=False,
    fields=(),
    image=None,
    text=TextSettings(BYTES, max_tokens=64, masking=Masking()),
)


def batch(layout, *, epoch=None, first=0, count=4):
    samples = [Sample(first + n, "", captions=[text_of(first + n, 12)]) for n in range(count)]
    how = None if epoch is None else partial(Draws, seed=5, epoch=epoch)
    return collate(samples, layout, draws=how).text


def test_training_hides_other_tokens_in_each_epoch_by_sample_alone():
    one, other = batch(LAYOUT, epoch=0), batch(LAYOUT, epoch=1)
    assert one.target_NL.equal(other.target_NL)
    assert not one.token_ids_NL.equal(other.token_ids_NL)
    later = batch(LAYOUT, epoch=0, first=2, count=2)
    for name in ("token_ids_NL", "target_NL", "counted_NL"):
        assert getattr(later, name).equal(getattr(one, name)[2:, : later.mask_NL.shape[1]])


def test_evaluation_hides_the_same_tokens_every_time():
    assert batch(LAYOUT).token_ids_NL.equal(batch(LAYOUT).token_ids_NL)
    first, again = batch(LAYOUT), batch(LAYOUT, first=1, count=1)
    width = again.mask_NL.shape[1]
    assert again.token_ids_NL[0].equal(first.token_ids_NL[1, :width])


@pytest.mark.parametrize("documents", ["cut", "packed", "windows"])
@pytest.mark.parametrize("epoch", [None, 2])
def test_what_stood_there_is_the_text_however_it_is_laid_out(documents, epoch):
    layout = replace(LAYOUT, text=replace(LAYOUT.text, documents=documents, max_tokens=24))
    text = batch(layout, epoch=epoch)
    differs = text.token_ids_NL != text.target_NL
    if epoch is not None or documents == "cut":
        assert (differs & ~text.counted_NL).sum() == 0
    assert (text.counted_NL & ~text.mask_NL).sum() == 0
    everything = [
        BYTES.encode([text_of(n, 12)], max_tokens=24 if documents == "cut" else 999)[0]
        for n in range(4)
    ]
    if documents == "packed" and epoch is not None:
        assert text.target_NL[text.mask_NL].tolist() == [i for ids in everything for i in ids]
    if documents == "cut":
        for row, ids in enumerate(everything):
            assert text.target_NL[row][text.mask_NL[row]].tolist() == ids
    if documents != "cut" and epoch is None:
        # Each hidden token counts in one window of its text.
        whole = batch(replace(layout, text=replace(layout.text, max_tokens=999)))
        assert text.counted_NL.sum() == whole.counted_NL.sum()


def test_a_tokenizer_without_a_mask_token_is_named():
    layout = replace(LAYOUT, text=TextSettings(CharTokenizer(), masking=Masking()))
    with pytest.raises(UserError, match="needs a tokenizer with a mask token; this CharTokenizer"):
        batch(layout, epoch=0)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(kind="words"), "text.masking.kind: 'words'; use one of token, whole_word, span"),
        (dict(share=0.0), "text.masking.share: 0.0 must be above 0"),
        (dict(masked=0.8, random=0.3), "together at most 1"),
        (dict(span_p=0.5), "have an effect only on kind: span"),
        (dict(kind="span", span_p=0.0), "must be above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        Masking(**wrong)


def test_offsets_and_masking_exclude_each_other():
    with pytest.raises(UserError, match="masking excludes text"):
        TextSettings(BYTES, masking=Masking(), offsets=True)
