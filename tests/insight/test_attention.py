import copy
from functools import partial

import pytest
import torch
from encoders.encoder_inputs import AUDIO_CONFIGS, TEXT_CONFIGS, captions, clips, images

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.insight.attention import attention_maps

VIT = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)
VIT_NAME = "vit_tiny_patch16_224"

CASES = {
    "vit": (partial(TimmImage, VIT_NAME, img_size=32, kwargs=VIT), images),
    "vit-avg": (
        partial(TimmImage, VIT_NAME, img_size=32, pool="avg", kwargs=VIT),
        images,
    ),
    "mel-vit": (
        partial(
            MelTimm,
            VIT_NAME,
            mel=LogMelSettings(sample_rate_hz=8000, n_mels=32),
            frames=80,
            kwargs=VIT,
        ),
        clips,
    ),
    **{k: (partial(HfText, config=c), captions) for k, c in TEXT_CONFIGS.items()},
    **{k: (partial(HfAudio, config=c), clips) for k, c in AUDIO_CONFIGS.items() if k != "clap"},
}


def build(name):
    torch.manual_seed(0)
    make, inputs = CASES[name]
    return make(), inputs()


def attributes(module):
    """Everything that decides what a module does: its plain attributes, hooks included."""
    return [
        {k: v for k, v in part.__dict__.items() if isinstance(v, bool | int | float | str)}
        | {k: len(v) for k, v in part.__dict__.items() if k.endswith("_hooks")}
        | {"names": sorted(part.__dict__)}
        for part in module.modules()
    ]


def training_step(encoder, inputs):
    encoder.zero_grad()
    torch.manual_seed(1)
    loss = encoder(inputs).pooled_BD.square().sum()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in encoder.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", CASES)
def test_maps_come_from_the_same_function(name):
    encoder, inputs = build(name)
    encoder.eval()
    with torch.no_grad():
        fused = encoder(inputs).pooled_BD
        with encoder.explicit_attention() as layers:
            stepwise = encoder(inputs).pooled_BD
    assert (fused - stepwise).abs().max() < 1e-5
    assert len(layers) == 2
    attention = attention_maps(encoder, inputs)
    for weights_BHLL, of_context in zip(attention.layers, layers, strict=True):
        assert weights_BHLL.shape[:2] == (2, 2)
        assert weights_BHLL.shape[2] == weights_BHLL.shape[3] == attention.grid.num_tokens
        torch.testing.assert_close(
            weights_BHLL.sum(-1), torch.ones_like(weights_BHLL[..., 0]), atol=1e-5, rtol=0
        )
        assert torch.equal(weights_BHLL, of_context)
    torch.testing.assert_close(attention.pooling_BL.sum(1), torch.ones(2))


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_as_if_nothing_had_been(name):
    encoder, inputs = build(name)
    if hasattr(encoder.model, "config"):
        assert encoder.model.config._attn_implementation == "sdpa"
    encoder.train()
    other = copy.deepcopy(encoder)
    before = attributes(encoder)
    attention_maps(encoder, inputs)
    with pytest.raises(ZeroDivisionError), encoder.explicit_attention():
        _ = 1 / 0
    assert attributes(encoder) == before
    if hasattr(encoder.model, "config"):
        assert encoder.model.config.to_dict() == other.model.config.to_dict()
        assert encoder.model.config._attn_implementation == "sdpa"
    for a, b in zip(training_step(encoder, inputs), training_step(other, inputs), strict=True):
        assert torch.equal(a, b)


def test_pooling_follows_the_encoder():
    for name, first in (("vit", 1.0), ("vit-avg", 0.0), ("ast", 0.5)):
        encoder, inputs = build(name)
        assert attention_maps(encoder, inputs).pooling_BL[0, 0] == first, name
    text = HfText(config=TEXT_CONFIGS["bert"], pool="last")
    assert attention_maps(text, captions()).pooling_BL[1].tolist() == [0, 0, 1, 0, 0]
    mean = attention_maps(HfText(config=TEXT_CONFIGS["bert"]), captions()).pooling_BL[1]
    torch.testing.assert_close(mean, torch.tensor([1 / 3] * 3 + [0.0] * 2))


def test_a_locked_part_stays_in_evaluation_mode():
    encoder, inputs = build("vit")
    encoder.train()
    encoder.model.blocks[0].eval()
    attention_maps(encoder, inputs)
    assert encoder.training and encoder.model.blocks[1].training
    assert not encoder.model.blocks[0].attn.training


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (partial(TimmImage, "resnet10t"), images),
        (partial(HfAudio, config=AUDIO_CONFIGS["clap"]), clips),
    ],
)
def test_a_network_without_such_attention_is_refused(make, inputs):
    with pytest.raises(UserError, match="grad_cam or integrated_gradients"):
        attention_maps(make(), inputs())
