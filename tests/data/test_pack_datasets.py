import json

import pyarrow as pa
import pytest
import webdataset
from shard_files import png, sound

from mmlight.data.shards_command import main
from mmlight.errors import UserError

FEATURES = {
    "picture": {"_type": "Image"},
    "noise": {"_type": "Audio"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    "text": {"dtype": "string", "_type": "Value"},
    "n": {"dtype": "int64", "_type": "Value"},
    "words": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
}
MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        *(("picture", MEDIA), ("noise", MEDIA), ("label", pa.int64())),
        *(("text", pa.string()), ("n", pa.int64()), ("words", pa.list_(pa.string()))),
    ]
)


def row(n):
    return {
        "picture": {"bytes": png(8, 8, seed=n), "path": None},
        "noise": {"bytes": sound(0.1), "path": "x.flac"} if n % 2 else None,
        "label": n % 2 if n != 3 else -1,
        "text": f"thing {n}",
        "n": n,
        "words": ["a", str(n)],
    }


def save(folder, numbers, *, files=2, rows=None, info=FEATURES):
    """What `Dataset.save_to_disk` of datasets 5.2 writes, byte for byte but for its metadata."""
    folder.mkdir(parents=True)
    rows = [row(n) for n in numbers] if rows is None else rows
    names = []
    for part in range(files):
        names.append(f"data-{part:05d}-of-{files:05d}.arrow")
        table = pa.Table.from_pylist(rows[part::files], schema=SCHEMA)
        with pa.OSFile(str(folder / names[-1]), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as s:
            s.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": info}))
    return folder


def read(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return [{k: v for k, v in sample.items() if k[0] != "_"} for sample in samples]


def pack(*arguments):
    return main(["pack", *map(str, arguments)])


def test_a_saved_dataset_is_packed_by_what_its_columns_are(tmp_path):
    folder = save(tmp_path / "in", range(5))
    assert pack(folder, tmp_path / "out", "--samples-per-shard", 3) == 0
    found = {json.loads(sample["json"])["n"]: sample for sample in read(tmp_path / "out")}
    assert sorted(found) == list(range(5))
    for n, sample in found.items():
        assert sample["png"] == png(8, 8, seed=n) and sample["txt"] == f"thing {n}".encode()
        assert ("flac" in sample) == bool(n % 2)
        assert sample.get("cls") == (None if n == 3 else str(n % 2).encode())
        assert json.loads(sample["json"]) == {"n": n, "words": ["a", str(n)]}
    assert (tmp_path / "out/classnames.txt").read_text() == "cat\ndog\n"


def test_columns_may_be_named_and_classes_numbered_as_elsewhere(tmp_path):
    folder = save(tmp_path / "in", range(3))
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    given = ("--member", "webp=picture", "--key", "text", "--label", "label")
    assert pack(folder, tmp_path / "o", *given, "--class-names", tmp_path / "names.txt") == 0
    found = read(tmp_path / "o")
    assert [sorted(sample) for sample in found] == [["cls", "webp"]] * 3
    assert sorted(sample["cls"] for sample in found) == [b"0", b"1", b"1"]


def test_splits_are_named(tmp_path):
    for name, count in (("train", 3), ("test", 2)):
        save(tmp_path / "in" / name, range(count), files=1)
    (tmp_path / "in/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert pack(tmp_path / "in", tmp_path / "o", "--split", "test") == 0
    assert len(read(tmp_path / "o")) == 2
    for given, message in (((), "name one by --split: train, test"), (("--split", "tset"), "test")):
        with pytest.raises(UserError, match=message):
            pack(tmp_path / "in", tmp_path / "p", *given)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "data-00000-of-00001.arrow").write_bytes(b"nonsense"), "no Arrow stream"),
        (lambda f: (f / "data-00000-of-00001.arrow").unlink(), "no Arrow stream"),
        (lambda f: (f / "state.json").write_text("{"), "state.json"),
        (
            lambda f: (f / "state.json").write_text(
                '{"_data_files": [{"filename": "../x.arrow"}]}'
            ),
            "names no data files",
        ),
        (lambda f: (f / "dataset_info.json").write_text("{}"), "names no columns"),
    ],
)
def test_a_damaged_dataset_is_one_line(tmp_path, spoil, message):
    folder = save(tmp_path / "in", range(2), files=1)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        pack(folder, tmp_path / "o")
    assert list(tmp_path.glob("o/*")) == []


def test_a_path_of_a_dataset_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(4, 4))
    rows = [row(0) | {"picture": {"bytes": None, "path": "../secret.png"}}]
    folder = save(tmp_path / "in", (), files=1, rows=rows)
    with pytest.raises(UserError, match="is not in"):
        pack(folder, tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert pack(folder, tmp_path / "o", "--also-from", tmp_path) == 0


def test_mistakes(tmp_path):
    folder = save(tmp_path / "in", range(2))
    with pytest.raises(UserError, match=r"no column 'labell' \(did you mean 'label'"):
        pack(folder, tmp_path / "o", "--label", "labell")
    with pytest.raises(UserError, match="holds one split"):
        pack(folder, tmp_path / "o", "--split", "train")
    with pytest.raises(UserError, match="--exclude is for"):
        pack(folder, tmp_path / "o", "--exclude", "x")
    (tmp_path / "o.tar").write_bytes(b"")
    with pytest.raises(UserError, match="shards merge"):
        pack(tmp_path / "o.tar", tmp_path / "o")
