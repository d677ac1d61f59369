import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from encoders.encoder_inputs import AUDIO_CONFIGS, TEXT_CONFIGS, captions, clips, images

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.insight.units import Tokens, lay_over, units_of

VIT = dict(patch_size=8, embed_dim=16, depth=1, num_heads=2)
MEL = LogMelSettings(sample_rate_hz=8000, n_mels=32)
VIT_IMAGE = partial(TimmImage, "vit_tiny_patch16_224", img_size=32, kwargs=VIT)


def units(encoder, inputs, tokens=None):
    canvas = encoder.read_canvas(inputs)
    return canvas, units_of(encoder, canvas, tokens=tokens)


def test_units_of_a_vit_are_its_patches():
    _, found = units(VIT_IMAGE(), images(count=1))
    assert found.count == 16
    assert (found.number_RK[8:16, 24:32] == 7).all() and (found.number_RK[:8, :8] == 0).all()


def test_units_of_a_cnn_are_cells_of_equal_size():
    _, found = units(TimmImage("resnet10t"), images(size=64, count=1))
    assert found.count == 14 * 14
    sizes = torch.bincount(found.number_RK.flatten())
    assert sizes.min() >= 16 and sizes.max() <= 25
    flat = found.means(torch.ones(64, 64))
    assert torch.equal(flat, torch.ones(196))


@pytest.mark.parametrize(("frames", "columns"), [(80, 7), (40, 5)])
def test_padding_and_what_is_not_read_are_in_no_unit(frames, columns):
    """51 real frames of a clip; the ViT reads 80 (the rest padding) or only 40."""
    vit = MelTimm("vit_tiny_patch16_224", mel=MEL, frames=frames, kwargs=VIT)
    canvas, found = units(vit, clips((4000,), padded_to=6400))
    assert canvas.columns == 81 and found.count == 4 * columns
    assert (found.number_RK[:, min(51, frames) :] == -1).all()
    assert (found.number_RK[:, : min(51, frames)] >= 0).all()


def test_a_wave_is_cut_in_time():
    canvas, found = units(HfAudio(config=AUDIO_CONFIGS["wav2vec2"]), clips((6400,)))
    assert (canvas.rows, canvas.columns) == (1, 318) and found.count == 32
    assert found.number_RK[0, 9] == 0 and found.number_RK[0, 10] == 1


def test_start_and_end_are_in_no_unit():
    text = HfText(config=TEXT_CONFIGS["bert"])
    _, found = units(text, captions((5,)), Tokens(["", "a", " b", "c", ""], 0))
    assert found.number_RK.tolist() == [[-1, 0, 1, 2, -1]] and found.count == 3
    assert found.sums(torch.tensor([[9.0, 1, 2, 3, 9]])).tolist() == [1, 2, 3]
    assert found.means(torch.tensor([[9.0, 1, 2, 3, 9]])).tolist() == [1, 2, 3]
    painted = found.paint(np.array([1.0, 2, 3]))
    np.testing.assert_array_equal(painted, [[np.nan, 1, 2, 3, np.nan]])
    places = found.places(torch.tensor([[True, False, True]]))
    assert places.tolist() == [[[False, True, False, True, False]]]


def test_a_coarse_map_is_laid_over_its_part_of_the_canvas():
    canvas = VIT_IMAGE().read_canvas(images(count=1))
    map_RK = torch.arange(16.0).view(4, 4)
    found = lay_over(map_RK, canvas, smooth=False)
    assert found.shape == (32, 32) and found[9, 31] == 7 and found[31, 0] == 12
    shorter = lay_over(map_RK, replace(canvas, covered_columns=16), smooth=False)
    assert shorter[0, 15] == 3 and (shorter[:, 16:] == 0).all()
    longer = lay_over(map_RK, replace(canvas, covered_columns=64), smooth=False)
    assert longer[0, 31] == 1
