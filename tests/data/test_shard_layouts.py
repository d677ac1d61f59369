"""Shards as img2dataset and CLIP_benchmark write them, read and sifted as they are."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from shard_files import png, write_tar

from mmlight.data.members import Contents, Members
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards_command import main

DATA = Path(__file__).parents[2] / "experiments/data"


def members_of(name):
    values = yaml.safe_load((DATA / f"{name}.yaml").read_text())
    return Members(**values["data"]["init_args"]["members"])


@pytest.fixture
def img2dataset(tmp_path):
    """Two shards, with the table and the statistics that lie beside each."""
    folder = tmp_path / "img2dataset"
    for shard in range(2):
        files, rows = [], []
        for n in range(4):
            key = f"{shard:05d}{n:04d}"
            row = {
                **{"url": f"https://x.org/{key}.jpg", "caption": f"thing {key}", "key": key},
                **{"status": "success", "error_message": None, "width": 16, "height": 16},
                **{"original_width": 400 + n, "original_height": 300, "exif": "{}"},
            }
            rows.append(row)
            files += [(f"{key}.jpg", png(16, 16)), (f"{key}.json", json.dumps(row).encode())]
            files += [(f"{key}.txt", row["caption"].encode())]
        write_tar(folder / f"{shard:05d}.tar", files)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def captions(folder, name):
    corpus, members = Corpus(load_or_build(expand(str(folder)))), members_of(name)
    found = []
    for number in range(len(corpus)):
        contents = Contents(corpus.read(number, members.extensions()))
        assert contents.first(members.image)
        found += [text for text, _ in contents.captions(members)]
    return found


def test_img2dataset_is_read_and_filtered_by_its_own_metadata(tmp_path, img2dataset, capsys):
    assert main(["check", str(img2dataset)]) == 0
    assert len(captions(img2dataset, "img2dataset")) == 8
    out = tmp_path / "o"
    condition = "original_width >= 402 and status == 'success' and error_message is None"
    assert main(["filter", condition, str(img2dataset), "--out", str(out)]) == 0
    wanted = [f"thing {s:05d}{n:04d}" for s in range(2) for n in (2, 3)]
    assert captions(out, "img2dataset") == wanted
    urls = [str(path) for path in expand(str(out))]
    read = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).to_tuple("jpg", "txt")
    assert [(jpg, txt.decode()) for jpg, txt in read] == [(png(16, 16), w) for w in wanted]
    assert "4 of 8 samples" in capsys.readouterr().err


def test_clip_benchmark_is_read_and_split_with_its_classes(tmp_path):
    folder = tmp_path / "clip_benchmark" / "test"
    files = [(f"s{n:07d}.webp", png(8, 8)) for n in range(30)]
    files += [(f"s{n:07d}.cls", str(n % 3).encode()) for n in range(30)]
    write_tar(folder / "0.tar", sorted(files))
    (folder / "classnames.txt").write_text("a\nb\nc\n")
    (folder / "nshards.txt").write_text("1")
    assert main(["check", str(folder)]) == 0
    out = tmp_path / "o"
    shares = ["--shares", "one=0.5", "two=0.5"]
    assert main(["split", str(folder), "--out", str(out), *shares]) == 0
    members, labels = members_of("clip_benchmark"), []
    for part in ("one", "two"):
        assert (out / part / "classnames.txt").read_text() == "a\nb\nc\n"
        corpus = Corpus(load_or_build(expand(str(out / part))))
        for number in range(len(corpus)):
            contents = Contents(corpus.read(number, members.extensions()))
            assert contents.first(members.image) == "webp"
            labels.append(contents.value(members.label))
    assert sorted(labels) == [c for c in "012" for _ in range(10)]
