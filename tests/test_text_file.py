import os

import pytest

from mmlight.errors import UserError
from mmlight.text_file import read_text_file, split_lines


def test_regular_files_and_links_to_them_are_read(tmp_path):
    (tmp_path / "a").write_text("ä\n")
    (tmp_path / "b").symlink_to("a")
    assert [read_text_file(tmp_path / n, what=n, largest=3) for n in "ab"] == ["ä\n"] * 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large", "names: holds more than"),
        ("pipe", "names: is a device or a pipe"),
        ("folder", "names: is a folder"),
        ("none", "names: No such file"),
        ("bytes", "names: not UTF-8"),
        ("a\0b", "names: "),
        ("/dev/zero", "names: is a device or a pipe"),
        ("/proc/cpuinfo", "names: holds more than"),
    ],
)
def test_anything_else_is_refused(tmp_path, name, said):
    (tmp_path / "large").write_bytes(b"x" * 65)
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=said):
        read_text_file(tmp_path / name, what="names", largest=64)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding_and_is_no_text(tmp_path, encoding):
    (tmp_path / "a").write_bytes("röt\r\nblau\n".encode(encoding))
    text = read_text_file(tmp_path / "a", what="names", largest=64)
    assert split_lines(text) == ["röt", "blau"]


def test_lines_end_where_editors_end_them():
    assert split_lines("a\u2028b\x0bc\x85\n\ufeffd\re\r\n\n") == ["a\u2028b\x0bc\x85", "d", "e", ""]
    assert split_lines("") == []
