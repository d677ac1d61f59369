from functools import partial

import pytest
import torch
from encoder_inputs import AUDIO_CONFIGS, SIZES, TEXT_CONFIGS, captions, clips, images

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_image import HfImage
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.insight.gradients import as_map

CNN = dict(channels=(8, 8, 8, 8), stem_width=8)
CASES = {
    "cnn": (partial(TimmImage, "resnet10t", kwargs=CNN), images, (32, 32)),
    "vit": (
        partial(HfImage, config=dict(model_type="vit", image_size=32, patch_size=8, **SIZES)),
        images,
        (32, 32),
    ),
    "mel-cnn": (
        partial(
            MelTimm,
            "resnet10t",
            mel=LogMelSettings(sample_rate_hz=8000, n_mels=24),
            kwargs=CNN,
        ),
        clips,
        (24, 81),
    ),
    **{k: (partial(HfText, config=c), captions, (1, 5)) for k, c in TEXT_CONFIGS.items()},
    "wav2vec2": (partial(HfAudio, config=AUDIO_CONFIGS["wav2vec2"]), clips, (1, 318)),
    "whisper": (partial(HfAudio, config=AUDIO_CONFIGS["whisper"]), clips, (80, 100)),
    "ast": (partial(HfAudio, config=AUDIO_CONFIGS["ast"]), clips, (32, 64)),
    "clap": (partial(HfAudio, config=AUDIO_CONFIGS["clap"]), clips, (64, 1001)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_can_be_put_back_and_changed(name):
    torch.manual_seed(0)
    make, make_inputs, size = CASES[name]
    encoder, inputs = make().eval(), make_inputs()
    canvas = encoder.read_canvas(inputs)
    assert (canvas.rows, canvas.columns) == size
    plain = encoder(inputs).pooled_BD
    values = canvas.values.clone().requires_grad_()
    with encoder.reading(values):
        same = encoder(inputs).pooled_BD
    assert torch.equal(same, plain)
    assert encoder(inputs).pooled_BD.equal(plain) and "forward_features" not in vars(encoder.model)
    (gradient,) = torch.autograd.grad(same.square().sum(), values)
    assert gradient.abs().sum() > 0
    with encoder.reading(canvas.values * 0.5):
        assert not torch.allclose(encoder(inputs).pooled_BD, plain)


@pytest.mark.parametrize("name", CASES)
def test_a_map_spread_and_summed_is_the_map(name):
    make, make_inputs, (rows, columns) = CASES[name]
    canvas = make().read_canvas(make_inputs())
    map_BRK = torch.rand(2, rows, columns)
    depth = canvas.values[0].numel() // (rows * columns)
    spread = canvas.spread(map_BRK).expand_as(canvas.values)
    torch.testing.assert_close(canvas.to_map(spread), map_BRK * depth)


def test_tokens_lie_where_their_patches_are():
    vit = TimmImage(
        "vit_tiny_patch16_224",
        img_size=32,
        kwargs=dict(patch_size=8, embed_dim=16, depth=1, num_heads=2),
    ).eval()
    inputs = images()
    canvas = vit.read_canvas(inputs)
    grid = vit.token_grid(canvas)
    assert (grid.prefix, grid.rows, grid.columns, canvas.covered) == (1, 4, 4, (32, 32))
    # The patch whose embedding a pixel changes is the place that `as_map` says.
    values = canvas.values.clone()
    values[:, :, 17, 30] += 1
    changed = (vit.model.patch_embed(values) - vit.model.patch_embed(canvas.values)).abs().sum(2)
    tokens = torch.cat([torch.zeros(2, 1), changed], 1).unsqueeze(2)
    place = as_map(vit, tokens, grid)[0, 0].nonzero().tolist()
    assert place == [[2, 3]]


def test_ast_patches_lie_where_the_spectrogram_is():
    ast = HfAudio(config=AUDIO_CONFIGS["ast"]).eval()
    canvas = ast.read_canvas(clips())
    grid = ast.token_grid(canvas)
    values = canvas.values.clone()
    values[:, 63, 0] += 1  # the last frame, the lowest band
    embed = ast.model.embeddings.patch_embeddings
    changed = (embed(values) - embed(canvas.values)).abs().sum(2, keepdim=True)
    tokens = torch.cat([torch.zeros(2, 2, 1), changed], 1)
    place = as_map(ast, tokens, grid)[0, 0].nonzero().tolist()
    assert place == [[0, grid.columns - 1]]


def test_padding_is_told_from_input():
    mel = MelTimm(
        "resnet10t",
        mel=LogMelSettings(sample_rate_hz=8000, n_mels=24),
        kwargs=CNN,
    )
    assert mel.read_canvas(clips()).real_B.tolist() == [81, 51]
    text = HfText(config=TEXT_CONFIGS["bert"])
    assert text.read_canvas(captions()).real_B.tolist() == [5, 3]
