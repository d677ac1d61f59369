import os

import pytest

from mmlight.data.shards.paths import expand, natural_key
from mmlight.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.tar", "a/2.tar", "a/10.tar", "b/000.tar", "b/001.tar", "a/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "a" / "1.tar.index").write_bytes(b"")
    return tmp_path


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


ALL_A = ["a/1.tar", "a/2.tar", "a/10.tar"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("a", ALL_A),
        ("a/*.tar", ALL_A),
        ("a/*", ALL_A),
        ("**/*.tar", [*ALL_A, "b/000.tar", "b/001.tar"]),
        ("b/{000..001}.tar", ["b/000.tar", "b/001.tar"]),
        ("{b,a}", ["b/000.tar", "b/001.tar", *ALL_A]),
        (["b/001.tar", "a/2.tar", "b/000.tar"], ["b/001.tar", "a/2.tar", "b/000.tar"]),
        ("a/notes.md", ["a/notes.md"]),
    ],
)
def test_patterns_name_shards_in_natural_order(folder, patterns, expected):
    assert names(expand(patterns, base=folder), folder) == expected


def test_absolute_paths_and_the_current_folder(folder, monkeypatch):
    assert names(expand(str(folder / "a")), folder) == ALL_A
    monkeypatch.chdir(folder / "a")
    paths = expand("*.tar")
    assert names(paths, folder) == ALL_A and all(path.is_absolute() for path in paths)


def test_list_file_is_read_from_its_own_folder(folder):
    (folder / "a" / "train.txt").write_text("# mine\n2.tar\n\n../b/{000..001}.tar\n")
    expected = ["a/2.tar", "b/000.tar", "b/001.tar"]
    assert names(expand("a/train.txt", base=folder), folder) == expected


def test_what_only_a_stream_reads_is_told(folder):
    (folder / "gz").mkdir()
    (folder / "gz" / "0.tar.gz").write_bytes(b"")
    os.mkfifo(folder / "a.pipe")
    for pattern in ("gz", "gz/*", "*.pipe"):
        with pytest.raises(UserError, match=r"; data\.mode: stream reads it"):
            expand(pattern, base=folder)


def test_names_of_classes_beside_folders_are_no_list_of_shards(folder):
    (folder / "classnames.txt").write_text("cat\ndog\n")
    found = expand(["a", "b", "classnames.txt"], base=folder)
    assert names(found, folder) == [*ALL_A, "b/000.tar", "b/001.tar"]
    with pytest.raises(UserError, match="no shards given"):
        expand("classnames.txt", base=folder)


def test_a_name_with_glob_characters_is_taken_as_it_is(folder):
    (folder / "x[1]{a}.tar").write_bytes(b"")
    assert names(expand("x[1]{a}.tar", base=folder), folder) == ["x[1]{a}.tar"]


@pytest.mark.parametrize(
    "patterns",
    ["pipe:cat a/1.tar", "PIPE:cat", "ftp://x/0.tar", "ssh://x/{0..1}.tar", "file:///x::zip://y"],
)
def test_other_schemes_and_chains_are_refused(folder, patterns):
    with pytest.raises(UserError, match=r"only local paths and http://|chains of URLs"):
        expand(patterns, base=folder)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["a/*.tar", "a/2.tar"], r"2\.tar is named twice, by 'a/\*\.tar' and 'a/2\.tar'"),
        ("a/{1,2,1}.tar", "1.tar is named twice, by"),
        (["a", "b/../a/1.tar"], "named twice"),
        ("a/{1..3}.tar", r"no shard matches 'a/3\.tar': .* holds 3 .tar file\(s\), '1.tar' to '10"),
        ("b/01.tar", r"did you mean '001\.tar'"),
        ("bb/*.tar", "no folder 'bb' in"),
        ("training/*.tar", "no folder 'training' in"),
        (".", "holds no .tar file; it has 'a', 'b'"),
        ("*", "for the shards in folders write '\\*/\\*.tar'"),
        ("a/*.md", r"no .tar file matches 'a/\*.md', only e.g. '.*notes.md'$"),
        ("a/{1..2.tar", "braces that don't match"),
        ("none.txt", "list of shards .*none.txt can't be read"),
        ([], "no shards given"),
    ],
)
def test_mistakes_are_told_with_what_is_there(folder, patterns, message):
    with pytest.raises(UserError, match=message):
        expand(patterns, base=folder)


def test_one_shard_under_two_names_is_refused(folder):
    (folder / "a" / "link.tar").symlink_to(folder / "a" / "1.tar")
    with pytest.raises(UserError, match="named twice, by 'a'"):
        expand("a", base=folder)


def test_digits_that_are_no_numbers_sort_as_text():
    names = ["a10", "a9\u00b22", "a9", "\u00b2"]
    assert sorted(names, key=natural_key) == ["a9", "a9\u00b22", "a10", "\u00b2"]
