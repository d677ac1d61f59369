"""Packing reads regular files of the folders that the user named, and no others."""

import os

import pytest
from pack_data import pack_folder, pack_table

from mmlight.__main__ import main
from mmlight.data.packing.source import SourceFiles
from mmlight.errors import UserError


@pytest.fixture
def here(tmp_path):
    (tmp_path / "data/cats").mkdir(parents=True)
    (tmp_path / "data/cats/1.txt").write_text("one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret.txt").write_text("secret")
    return tmp_path


def table(here, path):
    (here / "data/t.csv").write_text(f"file\n{path}\n")
    return here / "data/t.csv"


@pytest.mark.parametrize(
    "path",
    ["../elsewhere/secret.txt", "cats/../../elsewhere/secret.txt", "{}", "link.txt", "way/x.txt"],
)
def test_a_table_names_no_file_outside_its_folder(here, path):
    (here / "data/link.txt").symlink_to("../elsewhere/secret.txt")
    (here / "elsewhere/x.txt").touch()
    (here / "data/way").symlink_to(here / "elsewhere")
    given = table(here, path.format(here / "elsewhere/secret.txt"))
    with pytest.raises(UserError, match=r"line 2, column 'file'.*--also-from") as error:
        pack_table(given, here / "out", files=["file"])
    assert "\n" not in str(error.value)
    assert not (here / "out").exists()


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_folder_holds_no_link_out_of_it(here, as_folder):
    if as_folder:
        (here / "data/dogs").symlink_to("../elsewhere")
    else:
        (here / "data/cats/2.txt").symlink_to("../../elsewhere/secret.txt")
    with pytest.raises(UserError, match=f"--also-from {here}"):
        pack_folder(here / "data", here / "out")
    (shard,) = pack_folder(here / "data", here / "out", also_from=[here / "elsewhere"])
    assert shard.num_samples == 2


def test_links_within_the_folder_are_followed(here):
    (here / "data/cats/2.txt").symlink_to("1.txt")
    (here / "data/dogs").symlink_to("cats")
    (shard,) = pack_folder(here / "data", here / "out")
    assert shard.num_samples == 4
    (shard,) = pack_table(table(here, "cats/2.txt"), here / "out2", files=["file"])
    assert shard.num_samples == 1


def test_the_folder_itself_may_be_a_link(here):
    (here / "same").symlink_to("data")
    (shard,) = pack_folder(here / "same", here / "out")
    assert shard.num_samples == 1


@pytest.mark.parametrize("to", ["..", ".", "../../data"])
def test_a_circle_of_links_is_refused(here, to):
    (here / "data/cats/again").symlink_to(to)
    with pytest.raises(UserError, match="circle"):
        pack_folder(here / "data", here / "out")


@pytest.mark.parametrize("kind", ["pipe", "device", "large", "loop", "folder"])
def test_only_regular_files_of_bounded_size_are_read(here, kind):
    path = here / "data/cats/2.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to("2.txt")
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"x" * 17)
    files = SourceFiles(here / "data", also_from=[], largest=16)
    with pytest.raises(UserError, match=f"^here: {path}"):
        files.read(path, "here")


def test_command_says_what_would_allow_it(here, capsys):
    given = table(here, here / "elsewhere/secret.txt")
    command = ["shards", "pack", str(given), str(here / "out"), "--file", "file"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--also-from {here / 'elsewhere'}" in said
    assert main([*command, "--also-from", str(here / "elsewhere")]) == 0
    assert main([*command, "--also-from", str(here / "none")]) == 2
