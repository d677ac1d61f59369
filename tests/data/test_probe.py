import io
import math

import pytest
from PIL import Image
from shard_files import png, sound

from mmlight.data import probe


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
    assert "DecompressionBombError" in (probe.fault("png", bytes(header)) or "")


def test_whole_members_have_no_fault():
    for extension, data in (
        ("png", png(9, 9)),
        ("flac", sound(0.2)),
        ("txt", "é".encode()),
        ("json", b'{"a": 1}'),
        ("npy", b"\x00\xff"),
    ):
        assert probe.fault(extension, data) is None


def test_faults_are_found_behind_intact_headers():
    assert probe.fault("png", png(64, 64)[:2000])
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(png(64, 64))).save(jpeg, "JPEG")
    assert "truncated" in (probe.fault("jpg", jpeg.getvalue()[:1000]) or "")
    assert probe.fault("flac", sound(2)[:5000])
    assert probe.fault("flac", b"nonsense") == probe.fault("flac", b"nonsense")
    assert "0x" not in (probe.fault("jpg", b"nonsense") or "") + (probe.fault("wav", b"x") or "")
    assert "utf-8" in (probe.fault("txt", b"\xff\xfe") or "")
    assert "JSONDecodeError" in (probe.fault("json", b"{") or "")
