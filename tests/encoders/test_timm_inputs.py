import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.data.following import follow_image, image_differs
from mmlight.encoders.timm_image import CLIP_MEAN, TimmImage
from mmlight.errors import UserError

CONFIGS = {
    "center": {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bilinear"},
    "squash": {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bicubic"},
    "nearest": {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "nearest"},
}


def picture(folder):
    """A smooth picture with an edge, larger than the model's and not square."""
    y, x = np.mgrid[:90, :130]
    pixels = np.stack([x * 1.9, y * 2.8, 128 + 100 * np.sin((x + y) / 9)], axis=-1)
    pixels[20:60, 30:80] = (250, 10, 90)
    path = folder / "a.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def saved(folder, *, wrapped=True, **config):
    """Weights of a small model with the file beside them that timm writes."""
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    if config:
        config = {"pretrained_cfg": config} if wrapped else config
        (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet"} | config))
    return str(folder / "model.safetensors")


def normalised(encoder, path):
    """The model's input as the data and the encoder make it."""
    settings = follow_image(ImageSettings(), encoder.preparation())
    pixels = load_image(path.read_bytes(), settings, draws=None)
    return encoder._normalise(pixels[None])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("wrapped", [True, False])
def test_weights_from_disk_get_the_pixels_that_timm_gives_them(tmp_path, name, wrapped):
    config = CONFIGS[name] | {
        "input_size": [3, 48, 48],
        "mean": [0.2, 0.5, 0.6],
        "std": [0.3, 0.4, 0.2],
    }
    weights = saved(tmp_path, wrapped=wrapped, **config)
    encoder = TimmImage("test_resnet", weights=weights)
    expected = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    path = picture(tmp_path)
    ours = normalised(encoder, path)[0]
    theirs = expected(Image.open(path))
    assert ours.shape == theirs.shape == (3, 48, 48)
    # two of 255, of a deviation of 0.2
    torch.testing.assert_close(ours.contiguous(), theirs, atol=2 / 255 / 0.2 + 1e-5, rtol=0)


def test_weights_alone_get_the_pixels_of_their_architecture(tmp_path):
    encoder = TimmImage("test_resnet", weights=saved(tmp_path))
    config = resolve_data_config({}, model=encoder.model)
    path = picture(tmp_path)
    theirs = create_transform(**config)(Image.open(path))
    torch.testing.assert_close(normalised(encoder, path)[0].contiguous(), theirs, atol=0.04, rtol=0)
    assert config["mean"] != CLIP_MEAN


def test_random_weights_keep_the_defaults():
    encoder = TimmImage("test_resnet")
    assert encoder.rebuild_args()["mean"] == list(CLIP_MEAN)
    assert follow_image(ImageSettings(), encoder.preparation()) == ImageSettings().complete()


def test_a_model_of_one_size_says_it():
    small = {"depth": 1, "embed_dim": 16, "num_heads": 1}
    encoder = TimmImage("vit_tiny_patch16_224", kwargs=small)
    assert encoder.preparation() == {"size": 224, "channels": 3}
    encoder = TimmImage("vit_tiny_patch16_224", img_size=48, kwargs=small)
    assert follow_image(ImageSettings(), encoder.preparation()).size == 48


def test_normalisation_outlives_the_weights_file(tmp_path):
    weights = saved(tmp_path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    encoder = TimmImage("test_resnet", weights=weights)
    again = TimmImage(**encoder.rebuild_args())
    assert torch.equal(again._scale, encoder._scale) and torch.equal(again._shift, encoder._shift)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_mixed_as_timm_mixes_the_weights(tmp_path, channels):
    weights = saved(tmp_path, mean=[0.1, 0.2, 0.6], std=[0.2, 0.2, 0.2])
    encoder = TimmImage("test_resnet", weights=weights, in_chans=channels)
    expected = {1: [0.3], 4: [0.1, 0.2, 0.6, 0.1]}[channels]
    assert encoder.rebuild_args()["mean"] == pytest.approx(expected)


def test_what_the_user_sets_counts_and_is_said(tmp_path):
    weights = saved(tmp_path, input_size=[3, 48, 48], mean=[0.1, 0.2, 0.3], **CONFIGS["center"])
    encoder = TimmImage("test_resnet", weights=weights, mean=[0.5, 0.5, 0.5])
    assert encoder.rebuild_args()["mean"] == [0.5, 0.5, 0.5]
    assert "mean is set, the weights' own is [0.1, 0.2, 0.3]" in encoder.origin
    own = ImageSettings(size=32, interpolation="bicubic")
    settings = follow_image(own, encoder.preparation())
    assert (settings.size, settings.interpolation, settings.crop_pct) == (32, "bicubic", 0.9)
    assert image_differs(own, encoder.preparation()) == (
        "data.image is set to size: 32, interpolation: bicubic; the image tower was made for "
        "size: 48, interpolation: bilinear"
    )
    assert image_differs(ImageSettings(size=48), encoder.preparation()) is None


@pytest.mark.parametrize(
    "own",
    [{"train_crop": "fit"}, {"eval_crop": "squash"}, {"train_crop": "fit", "eval_crop": "fit"}],
)
def test_another_crop_of_the_users_takes_no_part_of_the_towers(own):
    wanted = {"size": 48, "eval_crop": "center", "crop_pct": 0.9, "interpolation": "bilinear"}
    settings = follow_image(ImageSettings(**own), wanted)
    assert settings.crop == own.get("eval_crop", "fit")
    assert (settings.size, settings.crop_pct, settings.interpolation) == (48, 1.0, "bilinear")


@pytest.mark.parametrize("bad", ["[", "[" * 100_000, '{"mean": [0, "x", 1]}', '{"std": [0, 1, 1]}'])
def test_a_config_that_timm_did_not_write_is_one_line(tmp_path, bad):
    weights = saved(tmp_path)
    (tmp_path / "config.json").write_text(bad)
    with pytest.raises(UserError, match=r"weights: .*config\.json"):
        TimmImage("test_resnet", weights=weights)
