"""Masks and LayerDrop of wav2vec2 and HuBERT: transformers' counts, torch's own draws."""

from functools import partial

import numpy as np
import pytest
import torch
from encoder_inputs import AUDIO_CONFIGS, clips
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from mmlight.encoders.encoder import Encoder
from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_waves import draw_spans
from mmlight.saved.description import describe
from mmlight.saved.rebuild import rebuild
from mmlight.trainer.internals import FakeTensorMode

MASKED = dict(mask_time_prob=0.5, mask_time_length=2, mask_feature_prob=0.2, mask_feature_length=2)


def make(kind="wav2vec2", **kwargs):
    torch.manual_seed(0)
    return HfAudio(config=AUDIO_CONFIGS[kind], kwargs=kwargs)


@pytest.mark.parametrize(("share", "length", "least"), [(0.5, 10, 2), (0.1, 8, 0), (0.05, 7, 2)])
def test_as_many_places_are_hidden_as_transformers_hides(share, length, least):
    rows, size = 4_000, 60
    real_B = torch.tensor([60, 41]).repeat(rows // 2)
    torch.manual_seed(0)
    ours = draw_spans(real_B, size, share=share, length=length, least=least)
    np.random.seed(0)
    mask = (torch.arange(size) < real_B[:, None]).long()
    theirs = np.concatenate(  # in small batches: one of theirs rounds alike for all its clips
        [
            _compute_mask_indices((10, size), share, length, part, min_masks=least)
            for part in mask.split(10)
        ]
    )
    for first in (0, 1):
        # Theirs hides the last place, real or not, of a clip that is to have no span.
        here = ours[first::2, :-1].double()
        there = torch.from_numpy(theirs[first::2, :-1]).double()
        spread = here.mean(1).std() / (rows / 2) ** 0.5 * 2**0.5
        # Theirs rounds once a batch, so that its clips are not independent draws.
        assert abs(here.mean() - there.mean()) < 5 * max(spread, 0.002)
        # and alike over the places of a clip
        torch.testing.assert_close(here.mean(0), there.mean(0), atol=0.07, rtol=0)
    assert not (ours & ~mask.bool()).any()


def test_spans_are_whole_and_a_clip_that_is_too_short_stays_whole():
    real_B = torch.tensor([40, 12, 5, 4, 1]).repeat(200)
    torch.manual_seed(0)
    hidden = draw_spans(real_B, 40, share=0.2, length=5, least=1)
    count = hidden.sum(1).view(200, 5)
    assert (count[:, :3] >= 5).all()
    assert (count[:, 3:] == 0).all()
    assert (count[:, 2] == 5).all()
    for row in hidden[::5]:
        edges = torch.nn.functional.pad(row.long(), (1, 1)).diff()
        begun, ended = (edges == 1).nonzero(), (edges == -1).nonzero()
        assert ((ended - begun) >= 5).all()


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_masks_are_drawn_by_torch_alone_and_need_no_value(kind):
    encoder, batch = make(kind, layerdrop=0.5, **MASKED).train(), clips()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed(len(found))
        found.append(encoder(batch).pooled_BD)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    with FakeTensorMode(allow_non_fake_inputs=True):
        encoder.to_empty(device="cpu")
        assert encoder(batch).pooled_BD.shape == found[0].shape


@pytest.mark.parametrize("kind", ["wav2vec2", "wav2vec2-stable", "hubert"])
def test_every_parameter_has_a_gradient_whatever_is_dropped(kind):
    encoder = make(kind, layerdrop=0.9, **MASKED).train()
    for seed in range(3):
        torch.manual_seed(seed)
        encoder(clips()).pooled_BD.sum().backward()
        assert all(p.grad is not None for p in encoder.parameters())
        encoder.zero_grad()


def test_a_layer_is_dropped_in_training_only_and_as_often_as_asked():
    plain, dropped = make(), make(layerdrop=1.0)
    for encoder in (plain, dropped):
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    assert torch.equal(plain.eval()(clips()).pooled_BD, dropped.eval()(clips()).pooled_BD)
    dropped.train()
    layers = dropped.model.encoder.layers
    inputs = torch.randn(2, 5, dropped.out_dim)
    assert all(torch.equal(layer(inputs), inputs) for layer in layers)
    half = make(layerdrop=0.3).train().model.encoder.layers[0]
    for module in half.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        share = sum(torch.equal(half(inputs), inputs) for _ in range(400)) / 400
    assert 0.21 < share < 0.39


def test_a_rebuilt_encoder_drops_layers_as_before():
    settings = describe(partial(HfAudio, **make(layerdrop=0.25).rebuild_args()))
    again = rebuild(settings, base=Encoder)
    assert again.layerdrop == 0.25
    assert again.rebuild_args()["config"]["layerdrop"] == 0.25
    assert make().rebuild_args()["config"]["layerdrop"] == 0.0
