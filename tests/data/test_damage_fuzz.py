"""Shards and indexes with random damage: what is read is right or reported, never wrong in silence.

Reported is a UserError of one line, a member that fails its checksum, or a warning. Another
exception, a hang or memory by the gigabyte fails the test.

What can be known: a shard that was indexed before the damage, or that `mmlight` packed, has a
checksum of every member. In one that others wrote and nobody indexed, headers have theirs, and of
members PNG, FLAC and Ogg; JPEG, WebP, WAV, MP3 and text have none, and may have other bytes.
"""

import contextlib
import io
import logging
import os
import resource
import wave
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_files import png, sound, write_tar

from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.image import decode
from mmlight.data.packing.write import pack
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.errors import UserError

KEEPS_SIZE = ("flip", "zero", "copy", "swap")
ALL = (*KEEPS_SIZE, "cut", "insert", "delete", "double")
# Half of the lengths are whole blocks, as disks and downloads lose them.
LENGTHS = st.integers(1, 3000) | st.integers(1, 8).map(lambda blocks: blocks * 512)
PLACES = st.floats(0, 1, exclude_max=True)


def damages(kinds):
    aligned = st.booleans()
    return st.tuples(st.sampled_from(kinds), PLACES, PLACES, LENGTHS, aligned, st.integers(0, 7))


def damaged(data, damage):
    kind, first, second, length, is_aligned, bit = damage
    a, b = int(first * len(data)), int(second * len(data))
    if is_aligned:
        a, b = a // 512 * 512, b // 512 * 512
    if kind == "flip":
        return data[:a] + bytes([data[a] ^ (1 << bit)]) + data[a + 1 :]
    if kind == "zero":
        length = min(length * 8, len(data) - a)
        return data[:a] + bytes(length) + data[a + length :]
    if kind == "cut":
        return data[:a]
    if kind == "insert":
        return data[:a] + np.random.default_rng(b).bytes(length) + data[a:]
    if kind == "delete":
        return data[:a] + data[a + length :]
    if kind == "double":
        return data[: a + length] + data[a:]
    length = min(length, len(data) - a, len(data) - b)
    if kind == "copy":
        return data[:b] + data[a : a + length] + data[b + length :]
    a, b = min(a, b), max(a, b)
    length = min(length, b - a)
    one, two = data[a : a + length], data[b : b + length]
    return data[:a] + two + data[a + length : b] + one + data[b + length :]


def wav():
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(np.random.default_rng(1).bytes(4000))
    return file.getvalue()


def samples():
    for n in range(6):
        yield {
            "__key__": f"part/{n:04d}-{'long-' * 22 if n == 3 else ''}é",
            "png": png(30, 20, seed=n) if n % 2 else None,
            "flac": sound(0.1 + n / 50),
            "wav": wav() if n == 2 else None,
            "txt": f"caption {n} " * (n * 60),
            "cls": n,
            "json": {"n": n},
            "bin": bytes(700) + bytes([n]),
        }


@contextlib.contextmanager
def limited_memory(num_bytes=4 << 30):
    """Let an allocation fail that asks for far more than a small shard needs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


class Shard:
    """One shard with its index, as it is, and what it holds."""

    def __init__(self, folder):
        self.path = folder / "00000.tar"
        self.index = folder / "00000.tar.index"
        self.data = self.path.read_bytes()
        self.time_ns = self.path.stat().st_mtime_ns
        (index,) = load_or_build([self.path], progress=False)
        self.index_data = self.index.read_bytes()
        corpus = Corpus([index])
        self.right = {
            corpus.key(n): corpus.read(n, list(corpus.members(n))) for n in range(len(corpus))
        }
        assert len(self.right) == 6

    def put(self, data=None, index_data=None):
        self.path.write_bytes(self.data if data is None else data)
        os.utime(self.path, ns=(self.time_ns, self.time_ns))
        if index_data is None:
            self.index.unlink(missing_ok=True)
        else:
            self.index.write_bytes(index_data)

    def read(self):
        """Return what is read, by key, and what was reported."""
        heard = Heard()
        logging.getLogger("mmlight.data").addHandler(heard)
        found = {}
        try:
            with limited_memory():
                corpus = Corpus(load_or_build([self.path], progress=False))
                corpus.image_sizes, corpus.durations  # noqa: B018
                for n in range(len(corpus)):
                    try:
                        found[corpus.key(n)] = corpus.read(n, list(corpus.members(n)))
                    except OSError as error:
                        heard.texts.append(str(error))
        except UserError as error:
            heard.texts.append(str(error))
        finally:
            logging.getLogger("mmlight.data").removeHandler(heard)
        assert all(len(text.splitlines()) == 1 for text in heard.texts)
        return found, heard.texts


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MMLIGHT_INDEX_DIR", raising=False)
        folder = tmp_path_factory.mktemp("packed")
        pack(samples(), folder)
        yield Shard(folder)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """As others write shards: without a checksum of the whole, nor of long names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MMLIGHT_INDEX_DIR", raising=False)
        folder = tmp_path_factory.mktemp("foreign")
        (index,) = pack(samples(), folder / "packed")
        corpus = Corpus([index])
        members = [
            (f"{n:04d}.{name}", data)
            for n in range(len(corpus))
            for name, data in corpus.read(n, list(corpus.members(n))).items()
        ]
        write_tar(folder / "00000.tar", members)
        yield Shard(folder)


def examples(count, *, fixed):
    return settings(
        max_examples=count,
        derandomize=fixed,
        database=None,
        deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck),
    )


# How many, and whether they are the same ones each time.
FAST = pytest.param(120, True, id="fast")
THOUSANDS = pytest.param(
    4000, False, id="thousands", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
)
amounts = pytest.mark.parametrize(("count", "fixed"), [FAST, THOUSANDS])


@amounts
@pytest.mark.parametrize("kind", ["packed", "foreign"])
def test_damage_to_a_shard_under_a_valid_index_is_never_silent(request, kind, count, fixed):
    shard = request.getfixturevalue(kind)

    @examples(count // 2, fixed=fixed)
    @given(damages(ALL))
    def check(damage):
        shard.put(damaged(shard.data, damage), shard.index_data)
        found, reported = shard.read()
        assert found == shard.right or reported
        # What is read is right all the same, unless it was said that the content is another.
        if not any("another content" in text for text in reported):
            assert found.items() <= shard.right.items()

    check()


@amounts
def test_damage_to_an_index_does_no_harm(foreign, count, fixed):
    @examples(count, fixed=fixed)
    @given(damages(ALL))
    def check(damage):
        foreign.put(index_data=damaged(foreign.index_data, damage))
        found, _ = foreign.read()
        assert found == foreign.right

    check()


@amounts
def test_damage_to_a_packed_shard_is_noticed_before_there_is_an_index(packed, count, fixed):
    @examples(count, fixed=fixed)
    @given(damages(ALL))
    def check(damage):
        packed.put(damaged(packed.data, damage))
        found, reported = packed.read()
        assert found == packed.right or reported
        assert not found or found == packed.right

    check()


@amounts
def test_without_any_checksum_only_bytes_of_members_can_be_wrong(foreign, count, fixed):
    sizes = {
        key: {name: len(data) for name, data in members.items()}
        for key, members in foreign.right.items()
    }

    # Whole members that vanish between others, or in the last record's padding, leave a good tar.
    kinds, padding = ("flip", "zero", "cut", "insert"), 10240 + 512

    @examples(count, fixed=fixed)
    @given(damages(kinds))
    def check(damage):
        whole = foreign.data
        foreign.put(damaged(whole[:-padding], damage) + whole[-padding:] * (damage[0] != "cut"))
        found, reported = foreign.read()
        there = {key: {n: len(data) for n, data in found[key].items()} for key in found}
        assert there == sizes or reported

    check()


@amounts
@pytest.mark.parametrize("format", ["png", "flac", "ogg"])
def test_formats_with_checksums_notice_damage_without_any_index(format, count, fixed):
    if format == "png":
        whole = png(12, 9)
    else:
        whole = sound(0.05, format=format.upper())

    def decoded(data):
        if format == "png":
            return decode(data, channels=3, max_pixels=1000).tolist()
        return load_audio(data, AudioSettings(sample_rate_hz=8000), draws=None).tolist()

    right = decoded(whole)

    @examples(count // 2, fixed=fixed)
    @given(damages(("flip", "cut", "insert", "delete")))
    def check(damage):
        try:
            found = decoded(damaged(whole, damage))
        # Decoders raise what they like about broken bytes; whoever calls them counts the sample.
        except Exception:
            return
        assert found == right

    check()
