import io
import json

import numpy as np
import pytest
import torch
import transformers
from encoder_inputs import SIZES, assert_blocks_partition, assert_checkpointing_keeps_gradients
from PIL import Image

from mmlight.batch import Images
from mmlight.data.decode.image import ImageSettings, load_image
from mmlight.data.following import follow_image
from mmlight.encoders.hf_image import HfImage
from mmlight.errors import UserError

VIT = dict(**SIZES, image_size=32, patch_size=8)
CONFIGS = {
    "vit": dict(model_type="vit", **VIT),
    "deit": dict(model_type="deit", **VIT),
    "dinov2": dict(
        model_type="dinov2",
        **{k: v for k, v in VIT.items() if k != "intermediate_size"},
        mlp_ratio=2,
    ),
    "clip": dict(model_type="clip_vision_model", **VIT),
    "siglip": dict(model_type="siglip_vision_model", **VIT),
    "siglip2": dict(model_type="siglip2_vision_model", **SIZES, num_patches=16, patch_size=8),
    "swin": dict(
        model_type="swin",
        **dict(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2]),
        window_size=4,
    ),
}
PROCESSORS = {
    "vit": transformers.ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ),
    "deit": transformers.DeiTImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}, resample=3
    ),
    "dinov2": transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, do_normalize=False
    ),
    "clip": transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "siglip": transformers.SiglipImageProcessor(
        size={"height": 32, "width": 32}, do_rescale=False, image_mean=[100, 120, 90]
    ),
    "swin": transformers.ViTImageProcessor(size={"height": 32, "width": 32}, resample=0),
}


def make(kind, **more):
    torch.manual_seed(0)
    return HfImage(config=CONFIGS[kind], **more)


def images(count=2):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return Images(pixels, torch.ones(count, dtype=torch.bool))


def picture(width=96, height=72):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 2.5, y * 3.4, 128 + 100 * np.sin((x + y) / 9)], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def read(encoder):
    data = io.BytesIO()
    picture().save(data, "PNG")
    settings = follow_image(ImageSettings(), encoder.preparation())
    return encoder._normalise(load_image(data.getvalue(), settings, draws=None)[None])[0]


@pytest.mark.parametrize("pool", ["model", "mean"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_shapes_blocks_and_gradients(kind, pool):
    encoder = make(kind, pool=pool)
    encoded = encoder(images(), tokens=True)
    assert encoded.pooled_BD.shape == (2, encoder.out_dim) == (2, 16)
    assert encoded.tokens_BLD.shape == (2, 16, 16) and encoded.mask_BL.all()
    assert_blocks_partition(encoder)
    assert_checkpointing_keeps_gradients(encoder, images())


@pytest.mark.parametrize("size", [32, 24])
def test_naflex_patches_are_those_of_its_image_processor(tmp_path, size):
    first = make("siglip2").eval()
    first.model.save_pretrained(tmp_path)
    count = (size // 8) ** 2
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=count)
    processor.save_pretrained(tmp_path)
    encoder = HfImage(pretrained=str(tmp_path)).eval()
    assert encoder.preparation()["size"] == size
    square = Image.fromarray(np.asarray(picture().resize((size, size))))
    inputs = processor(square, return_tensors="pt")
    expected = first.model(**inputs)
    pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None]
    found = encoder(Images(pixels, torch.ones(1, dtype=torch.bool)), tokens=True)
    torch.testing.assert_close(found.pooled_BD, expected.pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.tokens_BLD, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="takes multiples of 8 pixels, but the images are 33 x 33"):
        encoder(Images(torch.zeros(1, 3, 33, 33, dtype=torch.uint8), torch.ones(1).bool()))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_equal_those_of_the_image_processor(tmp_path, kind, whole):
    first = make(kind).eval()
    first.model.save_pretrained(tmp_path)
    processor = PROCESSORS[kind]
    if whole:  # as transformers 5 saves a processor
        said = json.dumps({"image_processor": json.loads(processor.to_json_string())})
        (tmp_path / "processor_config.json").write_text(said)
    else:
        processor.save_pretrained(tmp_path)
    encoder = HfImage(pretrained=str(tmp_path)).eval()
    expected = processor(picture(), return_tensors="pt").pixel_values[0]
    step = float((1 / (255 * torch.tensor(encoder._std))).max())
    torch.testing.assert_close(read(encoder), expected, atol=2 * step + 1e-5, rtol=0)
    again = HfImage(**encoder.rebuild_args()).eval()
    again.load_state_dict(encoder.state_dict())
    for one in (first, again):  # first has other means, so it reads what the second made
        values = encoder._normalise(images().pixels_BCHW * 0 + 90)
        torch.testing.assert_close(
            one.model(pixel_values=values).last_hidden_state,
            encoder.model(pixel_values=values).last_hidden_state,
        )
    torch.testing.assert_close(again._shift, encoder._shift)


def test_a_folder_without_a_processor_gets_that_of_its_model(tmp_path):
    make("vit").model.save_pretrained(tmp_path)
    encoder = HfImage(pretrained=str(tmp_path))
    assert encoder.rebuild_args()["mean"] == pytest.approx([0.5] * 3)
    assert encoder.preparation() == {
        "size": 32,
        "channels": 3,
        "eval_crop": "squash",
        "crop_pct": 1.0,
        "crop_offset": "down",
        "interpolation": "bilinear",
    }


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_whole_model_gives_its_vision_tower(tmp_path, kind):
    vision = {k: v for k, v in CONFIGS[kind].items() if k != "model_type"}
    text = dict(**SIZES, vocab_size=20, max_position_embeddings=8)
    config_class, model_class = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[kind]
    whole = model_class(config_class(text_config=text, vision_config=vision)).eval()
    whole.save_pretrained(tmp_path)
    encoder = HfImage(pretrained=str(tmp_path)).eval()
    batch = images()
    values = encoder._normalise(batch.pixels_BCHW)
    expected = whole.vision_model(pixel_values=values).pooler_output
    torch.testing.assert_close(encoder(batch).pooled_BD, expected)
    assert encoder.preparation()["size"] == 32


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="'bert' is no image encoder"):
        HfImage(config={"model_type": "bert"})
    with pytest.raises(UserError, match="exactly one of config and pretrained"):
        HfImage()
    with pytest.raises(UserError, match="takes 32 x 32 pixels, but the images are 16 x 16"):
        make("vit")(Images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.ones(1).bool()))
    with pytest.raises(UserError, match="mean: 1 values for 3 channels"):
        make("vit", mean=[0.5])
