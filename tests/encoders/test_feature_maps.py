import pytest
import torch

from mmlight.batch import Images
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError

VIT = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)
CNN = dict(channels=(8, 8, 16, 16), stem_width=8)


def images(height: int = 64, width: int = 96) -> Images:
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    return Images(pixels, torch.ones(2, dtype=torch.bool))


def test_a_cnn_gives_the_last_map_of_each_stride():
    encoder = TimmImage("resnet10t", kwargs=CNN).eval()
    specs = encoder.map_specs()
    assert [(s.channels, s.stride) for s in specs] == [(8, 4), (8, 8), (16, 16), (16, 32)]
    given = images()
    maps = encoder.feature_maps(given)
    assert [tuple(m.shape) for m in maps] == [
        (2, spec.channels, 64 // spec.stride, 96 // spec.stride) for spec in specs
    ]
    tokens_BLD = encoder(given, tokens=True).tokens_BLD
    assert torch.allclose(maps[-1].flatten(2).transpose(1, 2), tokens_BLD, atol=1e-5)


def test_a_vit_gives_its_tokens_as_one_map_at_any_size():
    kwargs = VIT | {"dynamic_img_size": True}
    encoder = TimmImage("vit_tiny_patch16_224", kwargs=kwargs).eval()
    assert [(s.channels, s.stride) for s in encoder.map_specs()] == [(16, 8)]
    given = images()
    (only,) = encoder.feature_maps(given)
    assert only.shape == (2, 16, 8, 12)
    tokens_BLD = encoder(given, tokens=True).tokens_BLD
    assert torch.allclose(only.flatten(2).transpose(1, 2), tokens_BLD, atol=1e-5)


def test_maps_leave_the_names_of_the_parameters():
    encoder = TimmImage("resnet10t", kwargs=CNN)
    before = list(encoder.state_dict())
    encoder.feature_maps(images())
    assert list(encoder.state_dict()) == before


def test_a_vit_of_one_size_says_what_would_take_others():
    encoder = TimmImage("vit_tiny_patch16_224", img_size=64, kwargs=VIT)
    with pytest.raises(UserError, match="dynamic_img_size: true"):
        encoder.feature_maps(images())


def test_patches_left_out_make_no_map():
    encoder = TimmImage("vit_tiny_patch16_224", patch_drop_rate=0.5, kwargs=VIT)
    with pytest.raises(UserError, match="patch_drop_rate"):
        encoder.map_specs()
