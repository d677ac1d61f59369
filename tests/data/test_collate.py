from dataclasses import replace

import numpy as np
import torch

from mmlight.data.collate import Layout, collate
from mmlight.data.decode.image import ImageSettings
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings, caption_id
from mmlight.text.tokenizer import ByteTokenizer

LAYOUT = Layout(
    modalities=("image", "text", "audio"),
    labels=True,
    fields=("url",),
    image=ImageSettings(size=4),
    text=TextSettings(ByteTokenizer(), max_tokens=8),
)


def samples() -> list[Sample]:
    pixels = torch.full((3, 4, 4), 7, dtype=torch.uint8)
    return [
        Sample(
            5,
            "s/5",
            pixels=[pixels],
            waveforms=[np.ones(6, np.float32)],
            captions=["ab"],
            label=2,
            fields={"url": "u"},
        ),
        Sample(9, "s/9"),
        Sample(3, "s/3", waveforms=[np.ones(9, np.float32)], captions=["abcdefghij"]),
    ]


def test_missing_modalities_are_zeros_and_not_present():
    batch = collate(samples(), LAYOUT, epoch=2, step=4)
    assert (batch.epoch, batch.step, batch.size) == (2, 4, 3)
    assert batch.index_B.tolist() == [5, 9, 3] and batch.index_B.dtype == torch.int64
    assert batch.keys == ["s/5", "s/9", "s/3"]
    assert batch.image is not None and batch.audio is not None and batch.label_B is not None
    assert batch.image.pixels_BCHW.dtype == torch.uint8
    assert batch.image.pixels_BCHW.shape == (3, 3, 4, 4)
    assert batch.image.present_B.tolist() == [True, False, False]
    assert batch.image.pixels_BCHW[0].unique().tolist() == [7]
    assert not batch.image.pixels_BCHW[1:].any()
    assert batch.audio.waveform_BT.dtype == torch.float32
    assert batch.audio.waveform_BT.sum(1).tolist() == [6, 0, 9]
    assert batch.audio.waveform_BT.shape == (3, 9)
    assert batch.audio.length_B.tolist() == [6, 0, 9]
    assert batch.audio.present_B.tolist() == [True, False, True]
    assert batch.label_B.tolist() == [2, -1, -1]
    assert batch.fields == {"url": ["u", None, None]}
    assert batch.valid_B.all()


def test_captions_are_padded_to_the_longest_and_cut_to_max_tokens():
    text = collate(samples(), LAYOUT).text
    assert text is not None
    assert text.token_ids_NL.shape == (3, 8) and text.token_ids_NL.dtype == torch.int64
    assert text.token_ids_NL[:, -1].tolist() == [0, 0, 2]
    assert text.mask_NL.sum(1).tolist() == [4, 1, 8]
    assert text.present_N.tolist() == [True, False, True]
    # a row without text holds one masked-in padding token
    assert text.token_ids_NL[1].tolist() == [0] * 8 and text.mask_NL[1, 0]
    assert collate(samples()[:1], LAYOUT).text.token_ids_NL.shape == (1, 4)


def test_all_captions_of_a_sample_point_to_its_row():
    rows = samples()
    rows[0].captions = ["one", "two", "one"]
    batch = collate(rows, LAYOUT)
    assert batch.text is not None
    assert batch.text.item_N.tolist() == [0, 0, 0, 1, 2]
    assert batch.captions == ["one", "two", "one", "", "abcdefghij"]
    ids = batch.text.caption_id_N
    assert ids[0] == ids[2] == caption_id("one") and ids[0] != ids[1]


def test_a_batch_without_any_of_a_modality_keeps_its_shape():
    batch = collate([Sample(1, "s/1"), Sample(2, "s/2")], LAYOUT)
    assert batch.audio is not None and batch.text is not None
    assert batch.audio.waveform_BT.shape == (2, 1)
    assert batch.text.mask_NL.tolist() == [[True, False]] * 2
    assert not batch.text.present_N.any()


def test_what_is_not_mapped_is_none():
    layout = Layout(modalities=(), labels=False, fields=(), image=None, text=None)
    batch = collate(samples(), layout)
    assert batch.image is batch.text is batch.audio is batch.label_B is None
    assert list(batch.modalities()) == [] and batch.captions == []


def test_offsets_come_with_the_tokens_if_asked_for():
    assert collate(samples(), LAYOUT).text.offset_NL2 is None
    settings = TextSettings(ByteTokenizer(), max_tokens=8, offsets=True)
    text = collate(samples(), replace(LAYOUT, text=settings)).text
    assert text.offset_NL2.shape == (3, 8, 2) and text.offset_NL2.dtype == torch.int64
    assert text.offset_NL2[0, :5].tolist() == [[0, 0], [0, 1], [1, 2], [0, 0], [0, 0]]
    assert not text.offset_NL2[1].any(), "a row without text"
    assert text.to("cpu").offset_NL2 is not None


def test_every_sample_of_training_has_as_many_rows_of_text():
    rows = samples()
    for sample in rows:
        sample.blank_captions = 2
    rows[0].captions, rows[2].captions = ["one", "two"], ["three", "four"]
    text = collate(rows, LAYOUT, epoch=0, step=0).text
    assert text is not None
    assert text.item_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert text.present_N.tolist() == [True, True, False, False, True, True]
