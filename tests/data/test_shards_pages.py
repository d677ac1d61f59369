import re

import pytest
from shard_files import png, sound, write_tar

from mmlight.data.shards_command import main
from mmlight.errors import UserError


@pytest.fixture
def shards(tmp_path):
    members = []
    for n in range(6):
        members += [(f"{n}.png", png(20 + n, 10)), (f"{n}.txt", b"a red circle" + b" x" * n)]
        members += [(f"{n}.flac", sound(0.5 + n))]
    write_tar(tmp_path / "in" / "0.tar", members)
    evil = b"<script>alert(1)</script>"
    write_tar(
        tmp_path / "in" / "1.tar",
        [
            ("<img src=x>.txt", evil),
            ("<img src=x>.json", b'{"a": "</pre><script>alert(2)</script>"}'),
            ("<img src=x>.png", b"<svg onload=alert(3)>"),
            ('q".txt', b"\xff\xfe\xff"),
        ],
    )
    return tmp_path / "in"


def is_offline(page):
    """Whether a page loads nothing and runs nothing."""
    assert "<script" not in page and "onload=alert(3)>" not in page and "<img src=x>" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    return all(source.startswith(("data:", "#")) for source in sources)


def test_stats_tells_sizes_durations_and_captions(tmp_path, shards, capsys):
    page = tmp_path / "stats.html"
    assert main(["stats", str(shards), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "samples: 8" in said and "shards: 2" in said
    rows = {line.split("  ")[0].strip(): line.split() for line in said.splitlines()}
    assert rows["image width (px)"][-7:] == ["6", "20", "20", "22", "25", "25", "22.5"]
    assert rows["sound (s)"][3] == "0.50" and rows["sound (s)"][-1] == "18.00"
    assert rows["caption (words)"][2:4] == ["7", "1"]
    text = page.read_text()
    assert is_offline(text) and text.count("data:image/png") >= 6
    with pytest.raises(UserError, match="--text jsn"):
        main(["stats", str(shards), "--text", "jsn"])


def test_peek_shows_samples_and_runs_nothing_of_theirs(tmp_path, shards, capsys):
    page = tmp_path / "peek.html"
    assert main(["peek", str(shards), "--out", str(page)]) == 0
    text = page.read_text()
    assert is_offline(text)
    assert text.count("data:image/jpeg") == 6 and text.count("data:audio/flac") == 6
    assert text.count("data:image/png") == 6  # spectrograms
    assert "&lt;script&gt;alert(1)" in text and "alert(2)" in text and "UnicodeDecodeError" in text
    assert "UnidentifiedImageError" in text
    assert main(["peek", str(shards), "--out", str(page), "--where", "width == 23"]) == 0
    assert "1 of 8" in page.read_text()
    with pytest.raises(UserError, match="no sample meets it"):
        main(["peek", str(shards), "--out", str(page), "--where", "width == 99"])
    with pytest.raises(UserError, match="--samples 0"):
        main(["peek", str(shards), "--out", str(page), "--samples", "0"])


def test_peek_shows_no_bomb(tmp_path):
    from test_shards_check import huge_png

    write_tar(tmp_path / "0.tar", [("0.png", huge_png())])
    main(["peek", str(tmp_path / "0.tar"), "--out", str(tmp_path / "p.html")])
    text = (tmp_path / "p.html").read_text()
    assert "Error" in text and "data:image" not in text
