import csv
import hashlib
import json
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pack_data import pack_folder, pack_table
from shard_files import png, sound

from mmlight.data.packing.write import pack
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)


def samples(count, first=0):
    for n in range(first, first + count):
        yield {
            "__key__": f"part/{n:04d}",
            "txt": f"caption é {n}",
            "cls": n,
            "json": {"n": n, "é": [1.5, None]},
            "bin": bytes([n]),
            "png": None,
        }


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_samples_come_back(tmp_path):
    corpus = Corpus(pack(samples(5), tmp_path / "out", samples_per_shard=2))
    assert files_in(tmp_path / "out") == [
        name for n in range(3) for name in (f"0000{n}.tar", f"0000{n}.tar.index")
    ]
    assert corpus.shard_sizes.tolist() == [2, 2, 1]
    assert corpus.key(3) == "00001/part/0003"
    read = corpus.read(3, ["txt", "cls", "json", "bin", "png"])
    assert read.pop("json") == '{"n": 3, "é": [1.5, null]}'.encode()
    assert read == {"txt": "caption é 3".encode(), "cls": b"3", "bin": b"\x03"}


def test_equal_samples_give_equal_bytes(tmp_path):
    def digest(name):
        pack(samples(5), tmp_path / name, samples_per_shard=3)
        paths = sorted((tmp_path / name).glob("*.tar"))
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    assert digest("a") == digest("b")
    with tarfile.open(tmp_path / "a" / "00000.tar") as file:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in file} == {(0, 0, 0, "")}


def test_webdataset_reads_what_is_written(tmp_path):
    from webdataset.tariterators import tarfile_to_samples

    key = "a/" + "long-name-" * 30 + "é"
    (shard,) = pack([{"__key__": key, "txt": "x"}], tmp_path)
    (sample,) = tarfile_to_samples()(iter([{"url": str(shard.path)}]))
    assert (sample["__key__"], sample["txt"]) == (key, b"x")


def test_index_written_with_the_shards_is_up_to_date(tmp_path):
    shards = pack(samples(5), tmp_path, samples_per_shard=2)
    times = [shard.index_path.stat().st_mtime_ns for shard in shards]
    assert load_or_build([shard.path for shard in shards]) == shards
    assert [shard.index_path.stat().st_mtime_ns for shard in shards] == times


def test_index_folder_of_the_environment_gets_no_leftovers(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLIGHT_INDEX_DIR", str(tmp_path / "cache"))
    pack(samples(5), tmp_path / "out", samples_per_shard=2)
    assert len(files_in(tmp_path / "cache")) == 3
    assert files_in(tmp_path / "out") == ["00000.tar", "00001.tar", "00002.tar"]


def test_nothing_is_left_after_an_error(tmp_path):
    def breaks():
        yield from samples(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(breaks(), tmp_path, samples_per_shard=2)
    assert files_in(tmp_path) == []


def test_what_a_killed_process_left_is_taken_away(tmp_path):
    (tmp_path / ".packing-of-one").mkdir()
    (tmp_path / ".packing-of-one" / "00000.tar").write_bytes(b"a part")
    pack(samples(1), tmp_path)
    assert files_in(tmp_path) == ["00000.tar", "00000.tar.index"]


def test_names_of_classes_appear_with_the_shards(tmp_path):
    names = []

    def named():
        for sample in samples(3):
            names.append("cat")
            assert not (tmp_path / "classnames.txt").exists()
            yield sample

    pack(named(), tmp_path, class_names=lambda: "".join(names).encode())
    assert (tmp_path / "classnames.txt").read_bytes() == b"catcatcat"
    pack(samples(1), tmp_path, overwrite=True)
    assert not (tmp_path / "classnames.txt").exists()


def test_shards_in_the_way_are_kept_unless_told(tmp_path):
    old = pack(samples(5), tmp_path, samples_per_shard=1)
    with pytest.raises(UserError, match=r"holds shards \(00000.tar\)"):
        pack(samples(1), tmp_path)
    with pytest.raises(UserError, match="no samples to pack"):
        pack([], tmp_path, overwrite=True)
    assert load_or_build([shard.path for shard in old]) == old
    pack(samples(1), tmp_path, overwrite=True)
    assert files_in(tmp_path) == ["00000.tar", "00000.tar.index"]


def test_foreign_shards_are_never_overwritten(tmp_path):
    (tmp_path / "precious.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"precious.tar was not written by pack"):
        pack(samples(1), tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"txt": "x"}, "'__key__' is None"),
        ({"__key__": "a.b", "txt": "x"}, "sample 'a.b', member 'txt': keys have no dot"),
        ({"__key__": "__a", "txt": "x"}, "begin neither"),
        ({"__key__": "a", "JPG": b"x"}, "lower case"),
        ({"__key__": "a"}, "has no members"),
        ({"__key__": "0", "x": {1, 2}}, "member 'x': .*not JSON serializable; give bytes"),
    ],
)
def test_samples_that_would_not_come_back_are_refused(tmp_path, sample, message):
    with pytest.raises(UserError, match=message):
        pack([sample], tmp_path)
    assert files_in(tmp_path) == []


def test_keys_must_be_unique(tmp_path):
    with pytest.raises(UserError, match="sample 'part/0000' comes twice"):
        pack([*samples(1), *samples(1)], tmp_path)
    with pytest.raises(UserError, match="sample 'part/0000' comes twice"):
        pack([*samples(3), *samples(1)], tmp_path, samples_per_shard=3)
    assert files_in(tmp_path) == []


def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    def meanwhile():
        yield from samples(1)
        with pytest.raises(UserError, match="another process writes there"):
            pack(samples(1), tmp_path / "o")
        with pytest.raises(UserError, match="another process writes there"):
            pack(samples(1), tmp_path / "o", resume=True)

    assert len(pack(meanwhile(), tmp_path / "o")) == 1
    assert files_in(tmp_path / "o") == ["00000.tar", "00000.tar.index"]


@pytest.mark.parametrize(
    ("overwrite", "message"), [(False, "holds shards"), (True, "00000.tar appeared while packing")]
)
def test_what_appears_while_packing_is_not_replaced(tmp_path, overwrite, message):
    def meanwhile():
        yield from samples(1)
        (tmp_path / "00000.tar").write_bytes(b"precious")

    with pytest.raises(UserError, match=message):
        pack(meanwhile(), tmp_path, overwrite=overwrite)
    assert files_in(tmp_path) == ["00000.tar"]
    assert (tmp_path / "00000.tar").read_bytes() == b"precious"


def test_a_folder_that_was_made_for_nothing_is_gone(tmp_path):
    with pytest.raises(UserError, match="no samples to pack"):
        pack([], tmp_path / "a/b/c")
    assert files_in(tmp_path) == []


def make_folder(folder):
    for path, data in {
        "dog/2.png": png(4, 4),
        "dog/2.txt": b"a dog",
        "cat/10.png": png(5, 5),
        "cat/9.png": png(6, 6),
        "cat/.hidden.png": b"",
        "cat/README": b"",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_files_of_one_stem_are_one_sample(tmp_path):
    corpus = Corpus(pack_folder(make_folder(tmp_path / "in"), tmp_path / "out"))
    assert [corpus.key(i) for i in range(3)] == [f"00000/{k}" for k in ("cat/9", "cat/10", "dog/2")]
    assert list(corpus.members(2)) == ["png", "txt"]
    assert corpus.read(0, ["png"])["png"] == png(6, 6)


def test_folders_are_classes_if_wanted(tmp_path):
    folder = make_folder(tmp_path / "in")
    corpus = Corpus(pack_folder(folder, tmp_path / "out", label_from_folder=True))
    assert [corpus.read(i, ["cls"])["cls"] for i in range(3)] == [b"0", b"0", b"1"]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "cat\ndog\n"
    (folder / "loose.png").write_bytes(b"")
    with pytest.raises(UserError, match="'loose' lies in no class folder"):
        pack_folder(folder, tmp_path / "other", label_from_folder=True)


def test_shuffling_is_a_permutation_of_its_seed(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(30):
        (tmp_path / "in" / f"{n}.txt").write_text("x")

    def keys(name, seed):
        corpus = Corpus(pack_folder(tmp_path / "in", tmp_path / name, shuffle_seed=seed))
        return [corpus.key(i).split("/")[-1] for i in range(30)]

    first = keys("a", 1)
    assert first == keys("b", 1) != keys("c", 2)
    assert first != keys("d", None) == [str(n) for n in range(30)]
    assert sorted(first, key=int) == keys("e", None)


def test_folder_of_shards_is_refused(tmp_path):
    pack(samples(1), tmp_path / "in")
    with pytest.raises(UserError, match=r"00000.tar is a shard already"):
        pack_folder(tmp_path / "in", tmp_path / "out")


ROWS = [
    {"file": "x/1.flac", "caption": "one, two", "label": 3, "id": "a"},
    {"file": "2.flac", "caption": "zwölf", "label": 4, "id": "b"},
]


def write_table(path):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        with open(path, "w", newline="") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    for row in ROWS:
        (path.parent / row["file"]).parent.mkdir(exist_ok=True)
        (path.parent / row["file"]).write_bytes(sound(0.1 * row["label"]))
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_rows_become_samples(tmp_path, name):
    table = write_table(tmp_path / "in" / name)
    members = {"txt": "caption", "cls": "label"}
    shards = pack_table(table, tmp_path / "out", files=["file"], members=members, key="id")
    corpus = Corpus(shards)
    assert [corpus.key(i) for i in range(2)] == ["00000/a", "00000/b"]
    read = corpus.read(1, ["flac", "txt", "cls"])
    assert read == {"flac": sound(0.4), "txt": "zwölf".encode(), "cls": b"4"}
    assert Corpus(pack_table(table, tmp_path / "b", members=members)).key(1) == "00000/000000001"


def test_images_inside_a_parquet_table(tmp_path):
    rows = [{"image": {"bytes": png(4, 4), "path": None}, "raw": b"\x00\xff"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    members = {"png": "image", "bin": "raw"}
    corpus = Corpus(pack_table(tmp_path / "t.parquet", tmp_path / "out", members=members))
    assert corpus.read(0, ["png", "bin"]) == {"png": png(4, 4), "bin": b"\x00\xff"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t.csv", {"files": ["fil"]}, r"no column 'fil' \(did you mean 'file'\?\): file, cap"),
        ("t.parquet", {"members": {"txt": "x"}}, "no column 'x'"),
        ("t.jsonl", {"members": {"txt": "capton"}}, "did you mean 'caption'"),
        ("t.csv", {}, "name at least one column"),
        (
            "t.csv",
            {"files": ["caption"]},
            "line 2, column 'caption': 'one, two' has no ending",
        ),
        ("t.csv", {"files": ["file"], "members": {"flac": "caption"}}, "a second member '.flac'"),
    ],
)
def test_mistakes_in_tables_are_one_line(tmp_path, name, options, message):
    table = write_table(tmp_path / "in" / name)
    with pytest.raises(UserError, match=message):
        pack_table(table, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1\n", "line 2: 1 fields, but 2 names"),
        ("t.csv", b"a\n\xff\n", "not UTF-8"),
        ("t.jsonl", b'{"a": 1}\n{\n', "line 2: "),
        ("t.jsonl", b'{"a": 1}\n{"a": ' + b"[" * 100_000 + b"\n", "line 2: JSON that is nested"),
        ("t.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "line 1: "),
        ("t.csv", b'a\n"' + b"x" * 200_000 + b'"\n', "field larger than field limit"),
        ("t.parquet", b"nothing", "no parquet file"),
        ("t.xls", b"", "must end in .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_damaged_tables_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        pack_table(tmp_path / name, tmp_path / "out", members={"txt": "a"})


def test_a_dot_in_a_files_name_is_none_of_its_ending(tmp_path):
    (tmp_path / "Track 2.0 (clean).PNG").write_bytes(png(4, 4))
    (tmp_path / "t.csv").write_text("path\nTrack 2.0 (clean).PNG\n")
    corpus = Corpus(pack_table(tmp_path / "t.csv", tmp_path / "out", files=["path"]))
    assert corpus.extensions() == {"png": 1}


def test_missing_texts_of_a_table_are_no_members_and_half_characters_are_mended(tmp_path):
    rows = [{"a": float("nan"), "b": 1}, {"a": "x \ud83d", "b": 2}, {"a": None, "b": 3}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    members = {"txt": "a", "id": "b"}
    corpus = Corpus(pack_table(tmp_path / "t.jsonl", tmp_path / "out", members=members))
    assert corpus.extensions() == {"id": 3, "txt": 1}
    assert corpus.read(1, ["txt"]) == {"txt": b"x ?"}


def test_a_folders_file_whose_name_is_not_utf8_is_packed(tmp_path):
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path) + b"/in/na\xefve.txt", "wb") as file:
        file.write(b"x")
    corpus = Corpus(pack_folder(tmp_path / "in", tmp_path / "out"))
    assert corpus.key(0) == "00000/na\\xefve" and corpus.read(0, ["txt"]) == {"txt": b"x"}
