"""Where results go is looked at before they are computed."""

import os

import pytest
from shard_files import text_shard

from mmlight.data import ngram_command, shards_command
from mmlight.errors import UserError
from mmlight.files import check_writable


def test_places_that_cannot_hold_a_file_are_refused_and_nothing_is_made(tmp_path):
    (tmp_path / "notes").write_text("")
    for path, said in (
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "notes" / "a.html", "Not a directory; name another place"),
    ):
        with pytest.raises(UserError, match=said):
            check_writable(path, option="--out")
    check_writable(tmp_path / "new" / "a.html", option="--out")
    check_writable(tmp_path / "notes", option="--out")
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize(
    "command",
    [
        lambda shards, out: shards_command.main(["stats", shards, "--html", out]),
        lambda shards, out: shards_command.main(["peek", shards, "--out", out]),
        lambda shards, out: ngram_command.main(["--shards", shards, "--out", out]),
    ],
)
def test_commands_refuse_them_before_they_read(command, tmp_path):
    shard = text_shard(tmp_path / "in" / "0.tar", 3)
    with pytest.raises(UserError, match="Not a directory; name another place"):
        command(str(tmp_path / "in"), str(shard / "page.html"))
    assert not (tmp_path / "in" / "0.tar.index").exists()
