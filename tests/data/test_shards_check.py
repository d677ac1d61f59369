import io
import json
import resource
import tarfile
import zlib

import numpy as np
import pytest
from shard_files import png, sound, text_shard, write_tar

from mmlight.data.curation.check import code_in
from mmlight.data.packing.write import leads_out
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards_command import main


def array(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def check(*arguments, capsys):
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_faults_are_told_by_their_kind_and_reported_as_json(tmp_path, capsys):
    write_tar(
        tmp_path / "0.tar",
        [(f"{n}.png", png(9, 9)[:60]) for n in range(3)]
        + [("3.cls", b"1"), ("4.cls", b"two"), ("5.json", b"{")],
    )
    code, said = check(tmp_path / "0.tar", "--report", tmp_path / "bad.jsonl", capsys=capsys)
    assert code == 1
    assert "3 x image that can't be decoded" in said and "1 x JSON that can't be parsed" in said
    assert "1 x label that is none" in said and said.endswith("6 samples: 5 problems\n")
    rows = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and rows[0]["key"] == "0" and rows[0]["member"] == "png"


def test_processes_find_what_threads_find(tmp_path, capsys, monkeypatch):
    for shard in range(2):
        bad = [("a.png", png(9, 9)[:60]), ("a.cls", b"cat"), ("b.cls", b"2"), ("c.txt", b"\xff")]
        good = [(f"{n}.png", png(5, 6)) for n in range(5)]
        write_tar(tmp_path / f"{shard}.tar", [*bad, *good])
    threads = check(tmp_path, capsys=capsys)
    monkeypatch.setattr("mmlight.data.curation.check._MUCH", 0)
    assert check(tmp_path, "--workers", 2, capsys=capsys) == threads
    assert threads[0] == 1 and threads[1].endswith("2 shards, 16 samples: 6 problems\n")


def huge_png():
    header = bytearray(png(7, 5))
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


def mp3_of_ten_hours():
    """A VBR header that claims as many frames as ten hours have, before a second of sound."""
    data = bytearray(sound(1.0, format="MP3", rate_hz=16000))
    place = max(data.find(b"Xing"), data.find(b"Info"))
    if place < 0:
        pytest.skip("this encoder writes no count of frames")
    data[place + 8 : place + 12] = (36_000 * 28).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("../../x.txt", lambda: b"x", "key that leads out of a folder"),
        ("/etc/x.txt", lambda: b"x", "key that leads out of a folder"),
        ("x.pkl", lambda: b"\x80\x04.", "member that may run"),
        ("x.npy", lambda: array(np.array([{}], object)), "member that may run"),
        ("x.png", huge_png, "image of too many pixels"),
        ("x.txt", lambda: b"\xff\xfe\xff", "text that is not UTF-8"),
        ("x.txt", lambda: b"a" * 100_000_000, "text that is too long"),
        ("x.json", lambda: b'"' + b"a" * 20_000_000 + b'"', "text that is too long"),
    ],
)
def test_hostile_members_are_named(tmp_path, capsys, name, make, kind):
    write_tar(tmp_path / "0.tar", [("good.txt", b"good"), (name, make())])
    code, said = check(tmp_path / "0.tar", capsys=capsys)
    assert code == 1 and f"1 x {kind}\n" in said and "2 samples: 1 problem\n" in said


def test_what_nothing_reads_is_counted_and_not_opened(tmp_path, capsys):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as file:
        file.addfile(tarfile.TarInfo("evil.txt"))
    bomb = zlib.compress(bytes(50_000_000), 9, wbits=31)
    path = write_tar(
        tmp_path / "0.tar",
        [("0.tar", inner.getvalue()), ("0.json.gz", bomb), ("0.npy", array(np.zeros(3)))],
    )
    with tarfile.open(path, "a") as file:
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"device{number}.txt")
            info.type = kind
            file.addfile(info)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, said = check(path, capsys=capsys)
    assert code == 0 and said.endswith("1 samples: all good\n")
    for ending in ("tar", "gz", "npy"):
        assert f"not decoded: 1 members .{ending}" in said
    assert "not read: 3 entries" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_link_makes_a_shard_that_cannot_be_read(tmp_path, capsys):
    path = write_tar(tmp_path / "0.tar", [("0.txt", b"x")])
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo("1.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    text_shard(tmp_path / "1.tar", 3)
    code, said = check(tmp_path, capsys=capsys)
    assert code == 1 and "1 x shard that can't be read" in said and "is a link without data" in said
    assert said.endswith("2 shards, 3 samples: 1 problem\n")


def test_a_sound_that_claims_ten_hours_costs_what_it_holds(tmp_path, capsys):
    path = write_tar(tmp_path / "0.tar", [("0.mp3", mp3_of_ten_hours())])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, said = check(path, capsys=capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert code == 1 and "1 x sound that is cut short" in said
    # Neither does the claim get into the index, by whose durations batches are made.
    (shard,) = load_or_build([path])
    assert not shard.rows().duration_s[0] > 2


def test_nothing_is_unpickled(monkeypatch):
    import pickle

    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("unpickled"))
    assert code_in("npy", array(np.array([{}], object)))
    assert code_in("npy", array(np.zeros(3))) is None
    assert code_in("npy", b"\x93NUMPY\x01\x00") is None
    assert code_in("a.pth", b"") and code_in("bin", b"") is None


def test_keys_that_lead_out():
    assert all(map(leads_out, ("../x", "a/../../x", "/x", "a\\..\\x")))
    assert not any(map(leads_out, ("x", "a/b", "..x", "a..b/c")))
