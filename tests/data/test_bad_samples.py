import itertools
import json
import os

import pytest
from multimodal import Recorder, shard, text_only, trainer, with_images

from mmlight.batch import BadSample
from mmlight.data.bad_samples import BadSamples
from mmlight.data.members import Members
from mmlight.data.shards.index import load_or_build
from mmlight.data.splits.split import Split
from mmlight.errors import UserError


def bad(key: str) -> BadSample:
    return BadSample("s.tar", key, "jpg", "ValueError: cut short", "s/1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "0.tar", range(20), broken=[4, 11])
    return folder


def lines(folder) -> list[dict[str, str]]:
    text = (folder / "bad_samples.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_each_is_written_once(tmp_path):
    counter = BadSamples(tmp_path / "new" / "bad.jsonl", limit=5, limit_text="")
    counter.add([bad("1"), bad("2")])
    counter.add([bad("1")])
    assert len(counter) == 2
    written = [json.loads(line) for line in counter.path.read_text().splitlines()]
    assert [line["key"] for line in written] == ["1", "2"]
    assert written[0]["reason"] == "ValueError: cut short" and written[0]["shard"] == "s.tar"


def test_the_limit_itself_is_allowed_one_more_is_not(tmp_path):
    counter = BadSamples(tmp_path / "bad.jsonl", limit=2.0, limit_text="10 % of 20")
    counter.add([bad("1"), bad("2"), bad("2")])
    with pytest.raises(UserError, match=r"3 samples cannot be decoded, more than 10 % of 20"):
        counter.add([bad("3")])
    assert len(counter.path.read_text().splitlines()) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_goes_on_and_names_each_once(folder, tmp_path, num_workers):
    model = Recorder()
    data = with_images(folder, max_bad_fraction=0.1, num_workers=num_workers)
    trainer(tmp_path, max_epochs=4).fit(model, data)
    assert len(model.trained) == 20
    assert not {4, 11} & set(itertools.chain(*model.trained))
    assert sorted(line["key"] for line in lines(tmp_path)) == ["0004", "0011"]
    assert all("truncated" in line["reason"] for line in lines(tmp_path))
    assert all(line["replaced_by"].startswith("0/") for line in lines(tmp_path))


def rot(path, text):
    """Change a bit of the only place that holds a text; size and time stay."""
    status, data = path.stat(), bytearray(path.read_bytes())
    assert data.count(text) == 1
    data[data.index(text)] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("verify", [True, False])
def test_bytes_that_rotted_after_indexing_are_a_bad_sample(tmp_path, verify):
    path = shard(tmp_path / "data" / "0.tar", range(20))
    load_or_build([path])
    rot(path, b"caption 7\n")
    model = Recorder()
    data = text_only(path.parent, max_bad_fraction=0.1, verify=verify)
    trainer(tmp_path, max_epochs=2).fit(model, data)
    if not verify:
        assert {7} <= set(itertools.chain(*model.trained))
        assert not (tmp_path / "bad_samples.jsonl").exists()
        return
    assert not {7} & set(itertools.chain(*model.trained))
    (line,) = lines(tmp_path)
    assert (line["shard"], line["key"], line["member"]) == (str(path), "0007", "txt")
    assert "its checksum is another" in line["reason"]


def test_what_is_looked_up_before_training_passes_over_rotten_members(tmp_path, caplog):
    path = shard(tmp_path / "data" / "0.tar", range(20))
    load_or_build([path])
    rot(path, b'["a7", "b7"]')
    data = text_only(
        path.parent,
        members=Members(text="json:captions", label="json:n"),
        train=Split(str(path), without={"json:n": [3]}),
        class_names=[str(n) for n in range(20)],
        max_bad_fraction=0.1,
    )
    trainer(tmp_path, max_epochs=1).fit(Recorder(), data)
    assert data.num_samples("train") == 19
    assert sum(data.label_counts("train", 20)) == 18
    (line,) = lines(tmp_path)
    assert line["key"] == "0007"
    (said,) = [r.getMessage() for r in caplog.records if r.name == "mmlight.data.splits.metadata"]
    assert said.startswith("data.train: 1 samples can't be read") and "'0007'" in said


def test_too_many_stop_the_run(folder, tmp_path):
    data = with_images(folder, max_bad_fraction=0.05)
    with pytest.raises(UserError, match=r"2 samples cannot be decoded, more than 0\.05 of 20") as e:
        trainer(tmp_path, max_epochs=4).fit(Recorder(), data)
    message = str(e.value)
    assert "\n" not in message
    assert "0.tar" in message and "truncated" in message and "bad_samples.jsonl" in message
    assert "data.max_bad_fraction" in message


def test_evaluation_leaves_them_out_and_names_them(folder, tmp_path):
    model = Recorder()
    data = with_images(
        folder, train=None, val=Split(str(folder)), max_bad_fraction=0.5, eval_batch_size=8
    )
    trainer(tmp_path).validate(model, data, verbose=False)
    assert model.validated == sorted(set(range(20)) - {4, 11})
    assert [line["key"] for line in lines(tmp_path)] == ["0004", "0011"]


def test_restart_names_a_sample_no_second_time(tmp_path):
    bad = BadSample(shard="a.tar", key="1", member="jpg", reason="cut", replaced_by="a/2")
    for _ in range(2):
        counted = BadSamples(tmp_path / "bad.jsonl", limit=1, limit_text="1")
        counted.add([bad])
        assert len(counted) == 1
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("left", [b'{"shard": "s.tar", "key"', b"\0\0\0", b"[]", b"[" * 99_999])
def test_line_that_a_kill_cut_short_is_passed_over(tmp_path, capsys, left):
    path = tmp_path / "bad.jsonl"
    BadSamples(path, limit=5, limit_text="").add([bad("1")])
    with path.open("ab") as file:
        file.write(left)
    again = BadSamples(path, limit=5, limit_text="")
    assert "cannot be read" in capsys.readouterr().err
    again.add([bad("1"), bad("2"), bad("3")])
    written = path.read_bytes().splitlines()
    assert [json.loads(written[n])["key"] for n in (0, 2, 3)] == ["1", "2", "3"]
    assert written[1] == left


def test_one_of_few_samples_may_be_bad_unless_none_may(tmp_path):
    folder = tmp_path / "shards"
    shard(folder / "0.tar", range(12), broken=[4])
    trainer(tmp_path, max_epochs=1).fit(Recorder(), with_images(folder))
    assert len(lines(tmp_path)) == 1
    with pytest.raises(UserError, match="1 samples cannot be decoded, more than 0 of 12"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), with_images(folder, max_bad_fraction=0))
