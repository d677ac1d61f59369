import os

import pytest
from shard_files import png, sound, text_shard, write_tar

from mmlight.data.shards_command import main
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)


@pytest.fixture
def shard(tmp_path):
    return write_tar(
        tmp_path / "in" / "0.tar",
        [
            ("0.png", png(64, 64)),
            ("0.txt", b"hello"),
            ("1.flac", sound(1.5)),
            ("1.txt", b"world"),
            ("._1.txt", b"macos"),
        ],
    )


def test_index_prints_what_the_shards_hold(shard, capsys):
    assert main(["index", str(shard.parent)]) == 0
    text = capsys.readouterr().out
    parts = [
        "2 (2 to 2 per shard)",
        "2 (all samples)",
        "1 (50.0% of samples)",
        "1.50 / 1.50 / 1.50 s",
        "64x64",
        "1 members that belong to no sample",
    ]
    for part in parts:
        assert part in text
    fingerprint = text.splitlines()[-1]
    assert fingerprint.startswith("fingerprint: ") and len(fingerprint.split()[1]) == 64
    assert shard.with_name("0.tar.index").exists()
    assert main(["index", "--rebuild", "--workers", "1", str(shard)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == fingerprint


def test_check_passes_good_shards(shard, capsys):
    assert main(["check", str(shard)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "not read: 1 entries that belong to no sample",
        "1 shards, 2 samples: all good",
    ]


def test_check_names_every_bad_sample(tmp_path, capsys):
    text_shard(tmp_path / "in" / "0.tar", 3)
    write_tar(
        tmp_path / "in" / "1.tar",
        [
            ("a/0.png", png(64, 64)[:3000]),
            ("a/1.flac", sound(2)[:5000]),
            ("a/2.txt", b"\xff"),
            ("a/3.txt", b"fine"),
        ],
    )
    text_shard(tmp_path / "in" / "2.tar", 3)
    os.truncate(tmp_path / "in" / "2.tar", 2000)
    assert main(["check", str(tmp_path / "in")]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = {lines[n]: lines[n + 1].strip() for n in (0, 2, 4, 6)}
    places = {
        "1 x image that can't be decoded": "1.tar: a/0.png: ",
        "1 x sound that can't be decoded": "1.tar: a/1.flac: ",
        "1 x text that is not UTF-8": "1.tar: a/2.txt: ",
        "1 x shard that can't be read": "2.tar: shard ",
    }
    assert found.keys() == places.keys() and len(lines) == 9
    for kind, place in places.items():
        assert found[kind].startswith("bad: ") and place in found[kind]
    assert lines[-1] == "3 shards, 7 samples: 4 problems"


def test_check_finds_bytes_that_rotted_in_place(tmp_path, capsys):
    path = text_shard(tmp_path / "0.tar", 3)
    main(["index", str(path)])
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(["check", str(path)]) == 1
    assert "its content is not what was indexed" in capsys.readouterr().out
    main(["index", "--rebuild", str(path)])
    assert main(["check", str(path)]) == 0


def test_pack_writes_shards_from_a_folder(tmp_path, capsys):
    for n in range(5):
        path = tmp_path / "in" / "cats" / f"{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("meow")
    out = tmp_path / "out"
    arguments = ["pack", str(tmp_path / "in"), str(out), "--samples-per-shard", "2"]
    assert main([*arguments, "--label-from-folder", "--shuffle-seed", "1"]) == 0
    assert "5 (1 to 2 per shard)" in capsys.readouterr().out
    assert len(list(out.glob("*.tar"))) == 3
    with pytest.raises(UserError, match="holds shards"):
        main(arguments)
    assert main([*arguments, "--overwrite"]) == 0


def test_pack_writes_shards_from_a_table(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("caption,name\nhello,0.bin\n")
    (tmp_path / "0.bin").write_bytes(b"x")
    arguments = ["pack", str(tmp_path / "t.csv"), str(tmp_path / "out")]
    assert main([*arguments, "--file", "name", "--member", "txt=caption"]) == 0
    text = capsys.readouterr().out
    assert ".bin" in text and ".txt" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere/*.tar"], "no shard matches"),
        (["index", "--workers", "0", "x"], "--workers 0"),
        (["pack", "nowhere", "out"], "nowhere does not exist"),
        (
            ["pack", ".", "out", "--key", "x"],
            "--key is for a table or a saved dataset; the source is a folder",
        ),
    ],
)
def test_mistakes_are_user_errors(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.parametrize("verb", ["index", "check", "pack", "filter", "split", "merge"])
def test_help_of_each_verb(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "show this help" in capsys.readouterr().out


def labelled_shard(path, labels):
    return str(write_tar(path, [(f"{n}.cls", label) for n, label in enumerate(labels)]))


@pytest.mark.parametrize("how", ["option", "beside"])
def test_check_knows_names_of_classes(tmp_path, capsys, how):
    good = labelled_shard(tmp_path / "a/0.tar", [b"cat", b"1", b"dog\n"])
    bad = labelled_shard(tmp_path / "b/0.tar", [b"cat", b"dgo", b"2", b"n/a"])
    names = tmp_path / "names.txt"
    arguments = ["--class-names", str(names)] if how == "option" else []
    for path in [names] if how == "option" else [tmp_path / f"{n}/classnames.txt" for n in "ab"]:
        path.write_text("cat\ndog\n")
    assert main(["check", good, *arguments]) == 0
    assert main(["check", bad, *arguments]) == 1
    said = capsys.readouterr().out
    assert "did you mean 'dog'" in said and "label 2" in said and "3 problems" in said


def test_check_takes_names_where_no_label_is_a_number(tmp_path, capsys):
    assert main(["check", labelled_shard(tmp_path / "0.tar", [b"cat", b"dog"])]) == 0
    said = capsys.readouterr().out
    assert "labels are names" in said and "give data.class_names" in said and "all good" in said
    assert main(["check", labelled_shard(tmp_path / "1.tar", [b"0", b"n/a", b"1"])]) == 1
    assert "bad: " in (said := capsys.readouterr().out) and "1.cls" in said and "n/a" in said
    assert main(["check", labelled_shard(tmp_path / "2.tar", [b"cat", b" "])]) == 1


def test_packing_anew_leaves_no_class_names_of_the_shards_before(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.txt").write_text(name)
    arguments = ["pack", str(tmp_path / "in"), str(tmp_path / "out")]
    main([*arguments, "--label-from-folder"])
    assert (tmp_path / "out/classnames.txt").read_text() == "cat\ndog\n"
    main([*arguments, "--overwrite"])
    assert not (tmp_path / "out/classnames.txt").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00000.tar", "00000.tar.index"]
