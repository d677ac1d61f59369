import gzip
import io
import subprocess
import tarfile
import tracemalloc

import pytest
from shard_files import text_shard, write_tar

from mmlight.data.shards.storage import OpenShard
from mmlight.data.shards.tar import read_samples, split_name
from mmlight.errors import UserError

LIMIT = 1 << 20
LONG = "folder-with-a-long-name/" * 12


def read(path):
    with OpenShard(path) as file:
        return read_samples(file, max_member_bytes=LIMIT)


def as_webdataset_reads(path):
    from webdataset.tariterators import tarfile_to_samples

    samples = tarfile_to_samples()(iter([{"url": str(path)}]))
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in samples]


def as_we_read(path):
    data = path.read_bytes()
    samples, _ = read(path)
    return [
        (s.key, {e: data[m.offset : m.offset + m.size] for e, m in s.members.items()})
        for s in samples
    ]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_of_webdataset(tmp_path, format):
    names = [
        "0.jpg", "0.txt", "0.seg.PNG", "a/b/1.jpg", "a/b/1.json", "a.b/c.d/2.tar.gz", "./3.txt",
        "__meta__/x.json", "noextension", "4.", "ünï/5.txt", "p" * 80 + "/" + "q" * 60 + "/6.txt",
    ]  # fmt: skip
    if format != tarfile.USTAR_FORMAT:
        names += [LONG + "7.txt", LONG + "7.cls"]
    path = write_tar(
        tmp_path / "a.tar",
        [(name, name.encode() * (i * 100)) for i, name in enumerate(names)],
        format=format,
    )
    ours = as_we_read(path)
    assert ours == as_webdataset_reads(path)
    assert len(ours) == (8 if format != tarfile.USTAR_FORMAT else 7)


def test_pax_size_and_folders_and_global_headers_are_understood(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é"}) as file:
        folder = tarfile.TarInfo("sub")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        info = tarfile.TarInfo("sub/0.txt")
        info.size, info.mtime, info.pax_headers = 3, 1.5, {"size": "3"}
        file.addfile(info, io.BytesIO(b"abc"))
    assert as_we_read(path) == as_webdataset_reads(path) == [("sub/0", {"txt": b"abc"})]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/0.jpg", ("a/0", "jpg")),
        ("a.b/0.seg.PNG", ("a.b/0", "seg.png")),
        ("README", None),
        ("a/._0.jpg", None),
        (".hidden", None),
        ("__MACOSX/0.jpg", None),
    ],
)
def test_names_split_at_the_first_dot_of_the_base_name(name, parts):
    assert split_name(name) == parts


def test_members_of_no_sample_are_counted(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [("0.txt", b"x"), ("._0.txt", b"mac"), ("README", b"y"), ("1.txt", b"")]
    )
    samples, num_ignored = read(path)
    assert [sample.key for sample in samples] == ["0", "1"]
    assert num_ignored == 2


def test_corrupt_header_in_the_middle_is_refused_with_its_offset(tmp_path):
    path = text_shard(tmp_path / "a.tar", 10)
    at = next(m for m in tarfile.open(path).getmembers() if m.name == "000004.txt").offset
    data = bytearray(path.read_bytes())
    data[at + 20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.tar: corrupt header \(at byte {at}\); download"):
        read(path)


def test_zeroed_header_in_the_middle_is_refused(tmp_path):
    path = text_shard(tmp_path / "a.tar", 10)
    at = next(m for m in tarfile.open(path).getmembers() if m.name == "000004.txt").offset
    data = bytearray(path.read_bytes())
    data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"data behind zeros that begin at byte {at}"):
        read(path)


def test_file_cut_anywhere_is_refused(tmp_path):
    path = text_shard(tmp_path / "a.tar", 3)
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    for cut in range(0, end + 1, 256):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match="cut short"):
            read(path)
    path.write_bytes(data[: end + 1024])
    assert len(read(path)[0]) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "the file is empty"), (b"<html>no</html>", "no tar at all: .*<html>")],
)
def test_what_is_no_tar_is_told(tmp_path, content, said):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(tmp_path / "a.tar")


def test_cut_inside_a_member_names_it(tmp_path):
    path = text_shard(tmp_path / "a.tar", 3)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match=r"cut short inside member '000000\.txt' \(at byte 900\)"):
        read(path)


def test_two_archives_in_one_file_are_refused(tmp_path):
    a, b = text_shard(tmp_path / "a.tar", 2), text_shard(tmp_path / "b.tar", 2)
    a.write_bytes(a.read_bytes() + b.read_bytes())
    with pytest.raises(UserError, match="data behind zeros"):
        read(a)


def zeros_from(path, at):
    """Let a shard be zeros from a byte on, as an interrupted download into a whole file does."""
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes(len(data) - at))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.85])
def test_download_that_never_completed_is_refused(tmp_path, share):
    path = text_shard(tmp_path / "a.tar", 60)
    zeros_from(path, int(path.stat().st_size * share))
    with pytest.raises(UserError, match=r"where only a record's padding belongs.*incomplete downl"):
        read(path)


@pytest.mark.parametrize("extra", [512, 10240, 16 << 20])
def test_more_zeros_than_pad_a_record_are_refused(tmp_path, extra):
    path = text_shard(tmp_path / "a.tar", 8)
    with open(path, "ab") as file:
        file.truncate(path.stat().st_size + extra)
    with pytest.raises(UserError, match="only a record's padding"):
        read(path)


def test_zeros_right_behind_the_members_are_measured_by_the_writers_record(tmp_path):
    # Writers that don't pad (bsdtar, Go) end in two blocks: here the last sample is lost in zeros.
    path = text_shard(tmp_path / "a.tar", 7, size=1000)
    data = path.read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512 + 1024)
    path.write_bytes(data)
    assert len(read(path)[0]) == 7
    zeros_from(path, len(data) - 1024 - 2560)
    with pytest.raises(UserError, match="only a record's padding"):
        read(path)


def test_name_without_its_member_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x"), (LONG + "1.txt", b"y")])
    zeros_from(path, path.read_bytes().index(b"path=") // 512 * 512 + 512)
    with pytest.raises(UserError, match="zeros where a name or pax header has its member"):
        read(path)


@pytest.mark.parametrize("blocking", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 19, 20])
def test_padding_of_gnu_tar_is_accepted(tmp_path, count, blocking):
    names = [f"{n:03d}.txt" for n in range(count)]
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 600)
    command = ["tar", "-b", str(blocking), "-cf", "a.tar", *names]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert len(read(tmp_path / "a.tar")[0]) == count


@pytest.mark.parametrize("size", range(0, 10240, 512))
def test_padding_of_python_is_accepted(tmp_path, size):
    assert len(read(write_tar(tmp_path / "a.tar", [("0.txt", b"x" * size)]))[0]) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.txt", "1.txt", "0.cls"], "sample '0' comes twice, first at byte 512"),
        (["0.txt", "0.TXT"], r"sample '0' has two members '\.txt'"),
        (["README"], r"holds no sample \(1 other"),
        ([], "holds no sample"),
    ],
)
def test_rules_of_samples(tmp_path, names, message):
    path = write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    with pytest.raises(UserError, match=message):
        read(path)


def test_a_member_beyond_the_limit_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x" * 2000)])
    with pytest.raises(UserError, match=r"'0\.txt' has 2000 bytes, the limit is 1999"):
        read_samples(OpenShard(path), max_member_bytes=1999)
    assert read_samples(OpenShard(path), max_member_bytes=2000)[0]


def test_links_are_refused_because_they_hold_no_data(tmp_path):
    path = tmp_path / "a.tar"
    (tmp_path / "0.txt").write_text("x")
    (tmp_path / "1.txt").hardlink_to(tmp_path / "0.txt")
    with tarfile.open(path, "w") as file:
        file.add(tmp_path / "0.txt", "0.txt")
        file.add(tmp_path / "1.txt", "1.txt")
    with pytest.raises(UserError, match=r"'1\.txt' is a link without data.*hard-dereference"):
        read(path)


def test_files_that_are_no_tar_say_what_they_are(tmp_path):
    path = text_shard(tmp_path / "a.tar", 2)
    compressed = tmp_path / "b.tar"
    compressed.write_bytes(gzip.compress(path.read_bytes() * 40, 0))
    with pytest.raises(UserError, match="compressed with gzip"):
        read(compressed)
    pointer = tmp_path / "c.tar"
    pointer.write_bytes(b"version https://git-lfs\n" * 40)
    with pytest.raises(UserError, match="not a tar file, it begins with b'version"):
        read(pointer)


def test_random_damage_never_raises_anything_but_user_error(tmp_path):
    import random

    path = write_tar(
        tmp_path / "a.tar", [(f"{LONG}{n}.txt", b"y" * 300) for n in range(4)] + [("5.txt", b"")]
    )
    good = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        at = draw.randrange(len(good) // 512) * 512
        data[at : at + 512] = draw.choice([draw.randbytes(512), bytes(512), data[:512], b"9" * 512])
        path.write_bytes(data)
        # Data and long names have no checksum in a tar: damage there may pass.
        try:
            as_we_read(path)
        except UserError:
            refused += 1
    assert refused > 100


def block(name, size, typeflag=b"0"):
    """Return a header with a valid checksum and any bytes as its size."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    header[124:136], header[156:157], header[148:156] = size.ljust(12, b"\0"), typeflag, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(**records):
    """Return a pax header with any text as its values, with its data."""
    lines = b""
    for key, value in records.items():
        line = f" {key.replace('__', '.')}={value}\n".encode()
        length = next(n for n in range(len(line), len(line) + 9) if n == len(b"%d" % n + line))
        lines += b"%d" % length + line
    return lines


def with_pax(lines, typeflag=b"x"):
    return block("pax", b"%011o" % len(lines), typeflag) + lines + bytes(-len(lines) % 512)


def test_a_zero_in_a_pax_header_does_not_end_it(tmp_path):
    path = tmp_path / "a.tar"
    records, member = pax(mtime="1.5", path="long/1.txt"), block("0.txt", b"00000000001") + b"x"
    for lines in (b"\0" + records[1:], records.replace(b"\n", b"\n\0", 1)):
        path.write_bytes(with_pax(lines) + member + bytes(511 + 1024))
        with pytest.raises(UserError, match="corrupt pax header"):
            read(path)
    path.write_bytes(with_pax(records + bytes(5)) + member + bytes(511 + 1024))
    assert [sample.key for sample in read(path)[0]] == ["long/1"]


@pytest.mark.parametrize("typeflag", [b"0", b"x", b"g", b"L", b"K", b"V", b"5", b"2"])
@pytest.mark.parametrize(
    "size",
    [
        b"-0000001000", b"-1", b"-0000000001", b"+0000001000", b"0_1_0", b"0o17", b"1e3", b"0x10",
        "\u0663".encode(), b"9", b"\xff" * 12, b"\xff" * 11 + b"\x00", b"\x81" + bytes(11), b"\xc0",
        b"1 1", b"77777777777", b"\x80" + b"\xff" * 11, b"\x80\0\0\0\x7f" + b"\xff" * 7,
    ],
)  # fmt: skip
def test_a_size_that_is_no_number_or_beyond_the_file_is_refused(tmp_path, size, typeflag):
    path = tmp_path / "a.tar"
    good = block("0.txt", b"00000000001") + b"x" + bytes(511)
    path.write_bytes(good + block("1.txt", size, typeflag) + bytes(1024))
    is_number = (size.isdigit() and size != b"9") or size[:1] == b"\x80"
    if typeflag in (b"5", b"2") and is_number:  # of a folder or a link it says nothing
        try:
            assert len(read(path)[0]) == 1
        except UserError as error:
            assert "link without data" in str(error)
        return
    with pytest.raises(UserError, match=r"the size is no number|cut short inside"):
        read(path)


@pytest.mark.parametrize(
    "size", ["-5", "-0", "+5", "1_0", "\u0663", "", " 5", "5.0", "9" * 19, "9" * 20, "1" * 5000]
)
def test_a_size_in_a_pax_header_is_bounded_too(tmp_path, size):
    path = tmp_path / "a.tar"
    path.write_bytes(
        with_pax(pax(size=size)) + block("0.txt", b"00000000001") + b"x" + bytes(511 + 1024)
    )
    with pytest.raises(UserError, match=r"the size is no number|cut short inside"):
        read(path)


def test_a_size_for_all_members_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    member = block("0.txt", b"00000000001") + b"x" + bytes(511)
    path.write_bytes(with_pax(pax(size="9"), b"g") + member + bytes(1024))
    with pytest.raises(UserError, match="a pax header gives all members one size"):
        read(path)


@pytest.mark.parametrize("typeflag", [b"x", b"g"])
def test_a_sparse_member_is_refused_however_many_records_say_so(tmp_path, typeflag):
    path = tmp_path / "a.tar"
    member = block("0.txt", b"00000000001") + b"x" + bytes(511)
    path.write_bytes(with_pax(pax(GNU__sparse__major="1"), typeflag) + member + bytes(1024))
    with pytest.raises(UserError, match="sparse member"):
        read(path)


def test_a_file_of_headers_takes_little_memory(tmp_path):
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        for number in range(30):
            file.write(with_pax(pax(**{f"key{number}": "v" * 1_000_000})))
        file.write(block("0.txt", b"00000000001") + b"x" + bytes(511 + 1024))
    tracemalloc.start()
    try:
        assert len(read(path)[0]) == 1
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_names_and_pax_headers_of_absurd_length_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    for typeflag in (b"x", b"L", b"K", b"g"):
        with open(path, "wb") as file:
            file.write(block("long", b"%011o" % (3 << 30), typeflag))
            file.truncate(4 << 30)  # a hole: it takes no room on the disk
        with pytest.raises(UserError, match=r"a name or pax header of 3221225472 bytes"):
            read(path)
    for record in (b"9999999 path=x\n", b"99999999999 path=x\n", b"0 path=x\n", b"-3 path=x\n"):
        path.write_bytes(with_pax(record) + bytes(1024))
        with pytest.raises(UserError, match="corrupt pax header"):
            read(path)
