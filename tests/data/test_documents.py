"""Long texts, packed in training and window by window in evaluation."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from mmlight.data.collate import Layout, collate
from mmlight.data.decode.draw import Draws
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.decoders.sequence import next_tokens
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

SETTINGS = TextSettings(ByteTokenizer(), max_tokens=8, documents="packed")
TEXTS = ["abc", "defghijklmnopq", "r", "stuvwxyz"]
TRAINING = partial(Draws, seed=3, epoch=1)


def batch(settings, texts=TEXTS, draws=None, first=0):
    samples = [
        Sample(first + n, str(n), captions=[text] if text else []) for n, text in enumerate(texts)
    ]
    layout = Layout(modalities=("text",), labels=False, fields=(), image=None, text=settings)
    return collate(samples, layout, draws=draws)


def tokens(text):
    return ByteTokenizer().encode([text], max_tokens=1000)[0]


def test_packed_rows_hold_every_token_once_with_padding_in_the_last_row_only():
    text = batch(SETTINGS, draws=TRAINING).text
    everything = [i for one in TEXTS for i in tokens(one)]
    assert text.token_ids_NL[text.mask_NL].tolist() == everything
    assert text.token_ids_NL.shape[1] == 8
    assert text.mask_NL[:-1].all() and text.present_N.all()
    whose = [n for n, one in enumerate(TEXTS) for _ in tokens(one)]
    assert text.sample_NL[text.mask_NL].tolist() == whose
    assert (text.sample_NL[~text.mask_NL] == -1).all()
    assert text.item_N.tolist() == text.sample_NL[:, 0].tolist()


def test_each_row_of_a_packed_batch_has_the_caption_of_its_first_token():
    found = batch(SETTINGS, draws=TRAINING)
    assert found.captions == [TEXTS[item] for item in found.text.item_N.tolist()]


def test_samples_without_a_text_take_no_place_in_packed_rows():
    text = batch(SETTINGS, texts=["", "abc", ""], draws=TRAINING).text
    assert text.token_ids_NL[text.mask_NL].tolist() == tokens("abc")
    assert text.sample_NL[0, 0] == 1
    nothing = batch(SETTINGS, texts=["", ""], draws=TRAINING).text
    assert nothing.present_N.tolist() == [False] and nothing.mask_NL.sum() == 1
    assert not nothing.counted_NL.any()


@pytest.mark.parametrize("documents", ["packed", "windows"])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_evaluation_predicts_every_token_but_the_first_once(documents, stride):
    found = batch(replace(SETTINGS, documents=documents, stride=stride))
    text = found.text
    assert text.sample_NL is None
    following = next_tokens(text)
    for number, one in enumerate(TEXTS):
        mine_N = text.item_N == number
        said = following.token_NL[mine_N][following.counted_NL[mine_N]]
        assert said.tolist() == tokens(one)[1:]
        assert text.token_ids_NL[mine_N][text.counted_NL[mine_N]].tolist() == tokens(one)
    assert found.captions == [TEXTS[item] for item in text.item_N.tolist()]


def test_windows_of_an_evaluation_are_those_of_each_text_alone():
    together = batch(SETTINGS).text
    for number, one in enumerate(TEXTS):
        alone, mine_N = batch(SETTINGS, texts=[one]).text, together.item_N == number
        width = alone.token_ids_NL.shape[1]
        assert together.token_ids_NL[mine_N][:, :width].equal(alone.token_ids_NL)
        assert together.counted_NL[mine_N][:, :width].equal(alone.counted_NL)


def test_training_windows_are_drawn_by_seed_epoch_and_sample_alone():
    settings = replace(SETTINGS, documents="windows")
    texts = ["".join(f"{n:03d}" for n in range(150))] * 6
    first = batch(settings, texts, TRAINING).text
    assert first.token_ids_NL.shape == (6, 8) and first.mask_NL.all()
    assert len({tuple(row) for row in first.token_ids_NL.tolist()}) == 6
    again = batch(settings, texts[:3], TRAINING, first=2).text
    assert again.token_ids_NL.equal(first.token_ids_NL[2:5])
    other = batch(settings, texts, partial(Draws, seed=3, epoch=2)).text
    assert not other.token_ids_NL.equal(first.token_ids_NL)


def test_windows_begin_at_every_token_of_a_text_and_nowhere_else():
    settings = replace(SETTINGS, documents="windows", max_tokens=3)
    whole = tokens("abcde")
    starts = {tuple(whole[n : n + 3]) for n in range(len(whole) - 2)}
    found = {
        tuple(batch(settings, ["abcde"], TRAINING, first=n).text.token_ids_NL[0].tolist())
        for n in range(200)
    }
    assert found == starts


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(stride=8), "text.stride: 8 must be 1 or more and less than text.max_tokens"),
        (dict(stride=2, documents="cut"), "text.stride has no effect"),
        (dict(offsets=True), "text.documents: packed excludes text.offsets"),
        (dict(captions_per_sample=2), "text.documents: packed excludes text.captions_per_sample"),
    ],
)
def test_settings_that_contradict_documents_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        replace(SETTINGS, **wrong)


def test_characters_are_encoded_at_once_as_with_their_places():
    texts = ["To be, or NOT to be", "İx ΟΔΟΣ ß", "a" * 30, ""]
    for tokenizer in (CharTokenizer(), CharTokenizer("aboOT\u03a3\u03c2 ", lowercase=False)):
        for most in (3, 10, 1000):
            both = tokenizer.encode_with_offsets(texts, max_tokens=most)
            assert tokenizer.encode(texts, max_tokens=most) == [ids for ids, _ in both]


def test_packed_batches_move_between_devices_whole():
    moved = batch(SETTINGS, draws=TRAINING).to(torch.device("meta"))
    assert moved.text.sample_NL.device.type == "meta"
