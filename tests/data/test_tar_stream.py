"""Tar files read in order hold what indexed ones hold, and their damage is never silent."""

import bz2
import gzip
import io
import itertools
import os
import tarfile
import threading
from datetime import timedelta

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_server import serving, wait_little
from shard_files import png, text_shard, write_tar

from mmlight.data.packing.write import pack
from mmlight.data.shards import tar_stream
from mmlight.data.shards.byte_stream import chunks_of
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.tar_stream import KEY, contents, group, read_members
from mmlight.errors import UserError


def read(source, *, wanted=("txt", "cls"), patience_s=1.0):
    """Return what is read, by key, up to the end or an error, and that error."""
    members = read_members(source, wanted=wanted, patience_s=patience_s)
    found = {}
    try:
        for sample in group(members, wanted=wanted):
            found[sample[KEY]] = contents(sample)
    except UserError as error:
        assert "\n" not in str(error)
        return found, str(error)
    return found, ""


def indexed(path):
    corpus = Corpus(load_or_build([path], progress=False))
    return {
        corpus.origin(n)[1]: corpus.read(n, list(corpus.members(n))) for n in range(len(corpus))
    }


def compressed(kind, data):
    match kind:
        case "gz":
            return gzip.compress(data)
        case "bz2":
            return bz2.compress(data)
        case "zst":
            return pyarrow.compress(data, codec="zstd", asbytes=True)
    return data


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "zst"])
def test_a_stream_holds_what_the_index_holds(tmp_path, kind):
    path = text_shard(tmp_path / "0.tar", 30, size=90_000)
    packed = tmp_path / "there"
    packed.write_bytes(compressed(kind, path.read_bytes()))
    assert read(packed) == (indexed(path), "")


def test_several_tars_behind_one_another_are_one_stream(tmp_path):
    paths = [text_shard(tmp_path / f"{n}.tar", 5, first=5 * n) for n in range(3)]
    whole = tmp_path / "whole.tar.gz"
    whole.write_bytes(b"".join(gzip.compress(path.read_bytes()) for path in paths))
    found, said = read(whole)
    assert not said and found == indexed(paths[0]) | indexed(paths[1]) | indexed(paths[2])


def test_what_is_not_wanted_is_passed_over(tmp_path):
    path = write_tar(
        tmp_path / "0.tar",
        [
            ("a.txt", b"1"),
            ("a.pkl", b"\x80\x04."),
            ("a.__key__", b"x"),
            ("__x__/b.txt", b""),
            ("b.jpg", b"2"),
            ("c", b""),
        ],
    )
    assert read(path, wanted=["txt"]) == ({"a": {"txt": b"1"}, "b": {}}, "")


def test_a_pipe_gives_what_is_written_into_it(tmp_path):
    paths = [text_shard(tmp_path / f"{n}.tar", 9, first=9 * n) for n in range(2)]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        with open(pipe, "wb") as file:
            for path in paths:
                file.write(path.read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    assert read(pipe, patience_s=20.0) == (indexed(paths[0]) | indexed(paths[1]), "")
    writer.join()


def test_a_pipe_that_nobody_writes_into_is_given_up(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found, said = read(tmp_path / "pipe", patience_s=0.1)
    assert not found and "nothing comes out of it for 0.1 s (data.cache.patience_s)" in said


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_fails_loses_nothing(tmp_path, monkeypatch, ranges, sized):
    wait_little(monkeypatch)
    path = text_shard(tmp_path / "0.tar", 40, size=20_000)
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(path.read_bytes(), 0))
    with serving(tmp_path) as server:
        server.ranges, server.sized = ranges, sized
        server.busy, server.cut = 0.15, 0.5
        for name in ("0.tar", "0.tar.gz"):
            for _ in range(3):
                assert read(f"{server.url}/{name}", patience_s=20) == (indexed(path), "")


def test_a_shard_that_is_replaced_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    wait_little(monkeypatch)
    path = text_shard(tmp_path / "0.tar", 80, size=50_000)
    with serving(tmp_path) as server:
        server.cut = 1.0
        chunks = chunks_of(f"{server.url}/0.tar", patience_s=5)
        next(chunks)
        text_shard(path, 80, size=50_000, first=7)
        with pytest.raises(UserError, match=r"0\.tar was replaced while it was read"):
            list(chunks)


def test_a_server_without_the_shard_is_named_and_its_secrets_are_not(tmp_path, monkeypatch):
    wait_little(monkeypatch)
    with serving(tmp_path) as server:
        _, said = read(f"{server.url}/none.tar?X-Amz-Signature=secret")
    assert "none.tar: there is no such object" in said and "secret" not in said


def test_a_sample_of_endless_frames_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_stream, "_MAX_SAMPLE_BYTES", 3 << 20)
    frames = [(f"clip.{n}.jpg", bytes(1 << 20)) for n in range(4)]
    path = write_tar(tmp_path / "0.tar", frames)
    wanted = [f"{n}.jpg" for n in range(4)]
    assert "the members of sample 'clip' have more than 3 MiB" in read(path, wanted=wanted)[1]


def link(name):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


def zeros_without_end(path):
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(3_000_000)))


def large(path):
    write_tar(path, [("0.txt", b"0")])
    info = tarfile.TarInfo("1.txt")
    info.size = 1 << 40
    path.write_bytes(path.read_bytes()[:1024] + info.tobuf() + bytes(20_000))


def linked(path):
    with tarfile.open(path, "a") as file:
        file.addfile(link("9.txt"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:2048]), "cut short inside member"),
        (lambda p: p.write_bytes(p.read_bytes()[:2560]), "no end-of-archive marker"),
        (lambda p: p.write_bytes(gzip.compress(p.read_bytes())[:-9]), "gzip data are damaged or"),
        (lambda p: p.write_bytes(b""), "it is empty"),
        (lambda p: p.write_bytes(b"\xfd7zXZ\0..."), "compressed with xz, of which only gzip"),
        (lambda p: p.write_bytes(b"<html>" * 100), "not a tar file, it begins with"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x" * 512), "corrupt header"),
        (zeros_without_end, "zeros without an end"),
        (large, "has 1099511627776 bytes, the limit is"),
        (linked, "is a link without data"),
        (lambda p: write_tar(p, [("0.txt", b""), ("0.TXT", b"")]), "two members '.txt'"),
        (lambda p: p.unlink(), "can't be read: No such file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, spoil, said):
    path = text_shard(tmp_path / "0.tar", 3)
    spoil(path)
    assert said in read(path)[1]


def test_a_bomb_costs_time_but_no_memory(tmp_path, monkeypatch):
    """What nobody wants of a compressed shard is inflated piece by piece, and let go."""
    path = write_tar(tmp_path / "0.tar", [("0.bin", bytes(60_000_000)), ("0.txt", b"x")])
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    largest = 0
    original = tar_stream._InOrder._take

    def noted(self, size):
        nonlocal largest
        part = original(self, size)
        largest = max(largest, len(part), len(self._left))
        return part

    monkeypatch.setattr(tar_stream._InOrder, "_take", noted)
    assert read(path) == ({"0": {"txt": b"x"}}, "")
    assert largest <= 2 << 20


def samples():
    for n in range(6):
        yield {"__key__": f"k{n}", "txt": f"text {n} " * 90, "cls": n, "png": png(20, 20, seed=n)}


DAMAGE = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "double", "delete", "zero"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 2000) | st.integers(1, 4).map(lambda blocks: 512 * blocks),
    st.integers(0, 7),
)


def damaged(data, damage):
    kind, where, length, bit = damage
    a = int(where * len(data))
    match kind:
        case "flip":
            return data[:a] + bytes([data[a] ^ (1 << bit)]) + data[a + 1 :]
        case "cut":
            return data[:a]
        case "insert":
            return data[:a] + os.urandom(length) + data[a:]
        case "double":
            return data[: a + length] + data[a:]
        case "delete":
            return data[:a] + data[a + length :]
    length = min(length, len(data) - a)
    return data[:a] + bytes(length) + data[a + length :]


@pytest.mark.parametrize(
    ("count", "fixed"),
    [
        pytest.param(100, True, id="fast"),
        pytest.param(
            2000, False, id="thousands", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]
        ),
    ],
)
@pytest.mark.parametrize("kind", ["packed", "gzip"])
def test_damage_to_what_bears_a_checksum_is_never_silent(tmp_path, kind, count, fixed):
    """Shards that are packed by us, and compressed ones; of others see the test of indexes."""
    pack(samples(), tmp_path / "packed")
    path = tmp_path / "packed/00000.tar"
    right = indexed(path)
    data = path.read_bytes()
    if kind == "gzip":
        members = itertools.chain.from_iterable(
            ((f"{key}.{name}", value) for name, value in sample.items())
            for key, sample in right.items()
        )
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as file:
            for name, value in members:
                info = tarfile.TarInfo(name)
                info.size = len(value)
                file.addfile(info, io.BytesIO(value))
        data = gzip.compress(plain.getvalue(), mtime=0)
    spoiled = tmp_path / "spoiled.tar"
    wanted = ("txt", "cls", "png")

    @settings(
        max_examples=count,
        derandomize=fixed,
        database=None,
        deadline=timedelta(seconds=20),
        suppress_health_check=list(HealthCheck),
    )
    @given(DAMAGE)
    def check(damage):
        spoiled.write_bytes(damaged(data, damage))
        found, said = read(spoiled, wanted=wanted)
        assert said or found == right

    check()
