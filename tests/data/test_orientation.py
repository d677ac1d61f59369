import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from shard_files import write_tar

from mmlight.data.decode.image import ImageSettings, decode, load_image
from mmlight.data.decode.image_header import as_stored, read_orientation, upright
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.interop.inputs import image_bytes

FORMATS = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {}}
WIDTH, HEIGHT = 48, 32
BOX = (6, 4, 20, 12)  # in pixels as stored


def picture(mode="RGB"):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels).convert(mode)


def encoded(format, orientation, mode="RGB"):
    exif = Image.Exif()
    exif[0x010F] = "a camera with a name"  # another tag, whose text lies elsewhere
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else FORMATS[format]
    file = io.BytesIO()
    picture(mode).save(file, format, exif=exif.tobytes(), **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_turned_upright(format, orientation):
    for mode, channels in (("RGB", 3), ("L", 1)):
        data = encoded(format, orientation, mode)
        assert read_orientation(data) == orientation
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        expected = np.asarray(expected.convert(mode)).reshape(*expected.size[::-1], channels)
        pixels = decode(data, channels=channels).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_back_gives_what_is_stored(orientation):
    pixels = torch.arange(3 * 4 * 5).view(3, 4, 5)
    assert torch.equal(as_stored(upright(pixels, orientation), orientation), pixels)


def test_what_imagemagick_wrote_into_png_is_read():
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    text = f"\nexif\n{len(block):8d}\n{block.hex()}\n"
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("Raw profile type exif", text, zip=True)
    file = io.BytesIO()
    picture().save(file, "PNG", pnginfo=said)
    assert read_orientation(file.getvalue()) == 6
    assert decode(file.getvalue()).shape == (3, WIDTH, HEIGHT)


def test_damaged_or_senseless_tags_leave_the_image_as_it_is():
    data = bytearray(encoded("JPEG", 6))
    place = data.index(b"Exif\0\0") + 6
    assert read_orientation(encoded("JPEG", 9)) == 1
    for start in range(place, place + 40):
        for value in (0, 0xFF):
            changed = bytes(data[:start]) + bytes([value]) + bytes(data[start + 1 :])
            assert read_orientation(changed) in range(1, 9)
    for end in range(len(data)):
        assert read_orientation(bytes(data[:end])) in (1, 6)
    assert read_orientation(b"") == read_orientation(b"\x89PNG") == read_orientation(b"II*\0") == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_boxes_turn_with_their_image_and_back(tmp_path, format, orientation):
    said = json.dumps({"boxes": [BOX], "labels": [0]}).encode()
    path = write_tar(
        tmp_path / "s.tar", [("0.img", encoded(format, orientation)), ("0.json", said)]
    )
    data = ShardDataModule(
        members=Members(image="img", boxes="json:boxes", box_labels="json:labels"),
        val=Split(str(path)),
        image=ImageSettings(size=96, train_crop="fit"),
        num_workers=0,
    )
    data.setup("validate")
    (batch,) = data.val_dataloader()
    left, top, right, bottom = batch.boxes.xyxy_BG4[0, 0].round().int().tolist()
    pixels = batch.image.pixels_BCHW[0].float()
    inside = pixels[:, top + 3 : bottom - 3, left + 3 : right - 3]
    assert inside.mean() > 250  # the box lies on the white patch, and holds nearly all of it
    assert pixels.sum() - pixels[:, top:bottom, left:right].sum() < 0.2 * pixels.sum()
    view = batch.image.view
    assert view.original_B2.tolist() == [[HEIGHT, WIDTH]]
    back = view.restore(batch.boxes.xyxy_BG4)[0, 0]
    torch.testing.assert_close(back, torch.tensor(BOX).float(), atol=1e-3, rtol=0)
    np.testing.assert_array_equal(batch.boxes.annotated[0], [BOX])


def test_an_opened_picture_is_embedded_like_its_file():
    data = encoded("JPEG", 6)
    settings = ImageSettings(size=16)
    opened = image_bytes(Image.open(io.BytesIO(data)), name="a")
    ours = load_image(opened, settings, draws=None).int()
    assert (ours - load_image(data, settings, draws=None).int()).abs().max() <= 2
