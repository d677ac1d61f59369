import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from shard_files import png, sound, write_tar

from mmlight.data.decode import probe
from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.faults import fault
from mmlight.data.members import Members
from mmlight.data.sample import BadMemberError, Decoding, SampleSet, decode_sample
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build


@pytest.mark.parametrize(
    ("extension", "kind"),
    [("jpg", "image"), ("mask.png", "image"), ("wav", "audio"), ("json", "json"), ("npy", "other")],
)
def test_kind_is_that_of_the_last_part(extension, kind):
    assert probe.kind(extension) == kind


def test_size_and_duration_come_from_headers():
    assert probe.image_size(png(7, 5)[:100]) == (7, 5)
    assert probe.image_size(b"nonsense") == (0, 0)
    assert probe.duration_s(sound(0.25)) == 0.25
    assert math.isnan(probe.duration_s(b"nonsense"))


def test_an_image_of_absurd_size_is_a_bad_sample_not_a_crash():
    header = bytearray(png(7, 5))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    import struct
    import zlib

    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    assert probe.image_size(bytes(header)) == (0, 0)
    assert "more than image.max_pixels" in (fault("png", bytes(header)) or "")


def test_whole_members_have_no_fault():
    for extension, data in (
        ("png", png(9, 9)),
        ("flac", sound(0.2)),
        ("txt", "é".encode()),
        ("json", b'{"a": 1}'),
        ("npy", b"\x00\xff"),
    ):
        assert fault(extension, data) is None


def test_faults_are_found_behind_intact_headers():
    assert fault("png", png(64, 64)[:2000])
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png(64, 64))).save(jpeg, "JPEG")
    assert "truncated" in (fault("jpg", jpeg.getvalue()[:1000]) or "")
    assert fault("flac", sound(2)[:5000])
    assert fault("flac", b"nonsense") == fault("flac", b"nonsense")
    assert "0x" not in (fault("jpg", b"nonsense") or "") + (fault("wav", b"x") or "")
    assert "utf-8" in (fault("txt", b"\xff\x80") or "")
    assert "JSONDecodeError" in (fault("json", b"{") or "")


def image(format, mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **options)
    return file.getvalue()


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def deep(opening, depth):
    closing = {"[": "]", '{"a":': "}"}[opening]
    return (opening * depth + "1" + closing * depth).encode()


def members():
    """Yield name, content and whether it is good, of every kind that training reads."""
    images = {
        "jpg": image("JPEG"), "png": image("PNG"), "webp": image("WEBP"), "bmp": image("BMP"),
        "gif": image("GIF"), "tif": image("TIFF"), "ppm": image("PPM"), "pgm": image("PPM", "L"),
    }  # fmt: skip
    for ending, data in images.items():
        yield ending, data, True
        yield ending, data[: len(data) // 2], False
        yield ending, data[: len(data) * 9 // 10], False
        yield ending, b"nonsense", False
        yield ending, b"", False
    png_data = images["png"]
    for place in (20, png_data.index(b"IDAT") + 30, len(png_data) // 2):
        yield "png", flipped(png_data, place), False
    yield "tif", image("TIFF", "F"), False
    yield "png", png(1, 9_000), False  # scaled to 224 pixels' width
    yield "png", png(1, 1_000), True
    for ending, format in (("wav", "WAV"), ("aiff", "AIFF"), ("flac", "FLAC"), ("ogg", "OGG")):
        data = sound(1.0, format=format)
        yield ending, data, True
        yield ending, data[: len(data) // 2], False
        yield ending, b"nonsense", False
    for text, is_good in (
        ("7", True), (" 7\n", True), ("+7", True), ("007", True), (str(2**31 - 1), True),
        (str(2**31), False), ("1" + "0" * 30, False), ("1" * 5000, False), ("-1", False),
        ("3.0", True), ("1e3", False), ("1_0", False), ("\u0663", False), ("", False),
        ("cat", False), ("nan", False), ("0x1", False),
    ):  # fmt: skip
        yield "cls", text.encode(), is_good
    yield "cls", b"\xff", False
    yield "txt", b"\xff", False
    yield "txt", "\u00e9".encode(), True
    for data, is_good in (
        (b'{"a": NaN, "b": [Infinity]}', True), (b"{", False), (b"", False), (b"\xff\xfe", False),
        (b"1" * 5000, False), (json.dumps([[n] for n in range(500)]).encode(), True),
        (deep("[", 90), True), (deep("[", 110), False), (deep("[", 100_000), False),
        (deep('{"a":', 90), True), (deep('{"a":', 110), False), (deep('{"a":', 100_000), False),
        (b"[" * 100_000, False), (b'"' + b"[" * 100_000 + b'"', True),
    ):  # fmt: skip
        yield "json", data, is_good


def test_check_and_training_agree_on_every_member(tmp_path):
    known = list(members())
    path = write_tar(
        tmp_path / "0.tar", [(f"{n}.{ending}", data) for n, (ending, data, _) in enumerate(known)]
    )
    corpus = Corpus(load_or_build([path], progress=False))
    decoding = Decoding(
        image=ImageSettings(), audio=AudioSettings(), clean="none", class_names=None
    )
    of_kind = {
        "image": lambda ending: Members(image=ending),
        "audio": lambda ending: Members(audio=ending),
        "text": lambda ending: Members(label="cls") if ending == "cls" else Members(text="txt"),
        "json": lambda ending: Members(fields={"all": "json"}),
    }
    differ = []
    for number, (ending, data, is_good) in enumerate(known):
        samples = SampleSet([(corpus, of_kind[probe.kind(ending)](ending))])
        try:
            decode_sample(samples, number, decoding, draws=None)
            said = None
        except BadMemberError as error:
            said = error.reason
        found = fault(ending, data)
        if (said is None, found is None) != (is_good, is_good):
            differ.append((ending, data[:30], is_good, said, found))
        assert found is None or ("\n" not in found and len(found) < 400)
    assert not differ


def test_an_index_survives_headers_at_which_pillow_stumbles():
    draw = np.random.default_rng(0)
    for data in (image("TIFF"), image("GIF"), image("BMP"), image("PNG"), image("WEBP")):
        for _ in range(200):
            damaged = bytearray(data[:300])
            for place in draw.integers(0, 60, 3):
                damaged[place] = draw.integers(256)
            width, height = probe.image_size(bytes(damaged))
            assert 0 <= width < 2**31 and 0 <= height < 2**31
