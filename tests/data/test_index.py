import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from shard_files import png, sound, text_shard, write_tar

from mmlight.data.shards import index_file
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import build, load_or_build
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_index_lies_beside_the_shard_and_says_what_is_in_it(tmp_path):
    path = write_tar(
        tmp_path / "a.tar",
        [("0.png", png(30, 20)), ("0.txt", b"hi"), ("1.flac", sound(1.5)), ("2.png", b"broken")],
    )
    (index,) = load_or_build([path])
    assert index.index_path == tmp_path / "a.tar.index"
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.index"]
    assert index.num_samples == 3
    assert index.extensions == {"png": 2, "txt": 1, "flac": 1}
    rows = index.rows()
    assert list(rows.keys) == ["0", "1", "2"]
    assert list(zip(rows.width, rows.height, strict=True)) == [(30, 20), (0, 0), (0, 0)]
    np.testing.assert_allclose(rows.duration_s, [np.nan, 1.5, np.nan])


def test_second_load_reads_no_shard_and_gives_the_same(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    first = load_or_build([path])
    times = (path.with_name("a.tar.index")).stat().st_mtime_ns
    assert load_or_build([path]) == first
    assert (path.with_name("a.tar.index")).stat().st_mtime_ns == times


def test_changed_shard_is_indexed_again(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    (old,) = load_or_build([path])
    text_shard(path, 9)
    (new,) = load_or_build([path])
    assert (old.num_samples, new.num_samples) == (5, 9)
    assert old.sha256 != new.sha256
    with pytest.raises(UserError, match="changed while it was in use"):
        old.rows()


def test_same_size_with_another_time_is_indexed_again(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    (old,) = load_or_build([path])
    text_shard(path, 5, first=100)
    os.utime(path, ns=(0, old.mtime_ns + 1))
    (new,) = load_or_build([path])
    assert new.rows().keys[0] == "000100"


def test_touched_shard_keeps_its_fingerprint(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    before = Corpus(load_or_build([path]))
    os.utime(path, ns=(0, 12345))
    after = Corpus(load_or_build([path]))
    assert after.shards[0].mtime_ns == 12345
    assert after.fingerprint() == before.fingerprint()


def test_unreadable_or_foreign_index_is_replaced(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    (good,) = load_or_build([path])
    whole = good.index_path.read_bytes()
    for content in (b"", b"garbage" * 100, whole[: len(whole) // 2]):
        good.index_path.write_bytes(content)
        assert load_or_build([path]) == [good]
        assert good.index_path.read_bytes() == whole


def rewritten(index, change):
    """Change rows of an index as somebody would who makes its checksum right, too."""
    rows = index.rows()
    columns = {
        "members_each": np.diff(rows.start),
        **{
            name: np.array(getattr(rows, name))
            for name in ("duration_s", "width", "height", "extension", "crc32", "offset", "size")
        },
    }
    change(columns)
    names = ("num_bytes", "mtime_ns", "sha256", "extensions", "largest_member", "num_ignored")
    index_file.store(
        index.path,
        keys=list(rows.keys),
        columns=columns,
        summary={name: getattr(index, name) for name in names},
    )


@pytest.mark.parametrize(
    ("column", "place", "value"),
    [
        ("offset", 3, -1),
        ("offset", 3, 1 << 40),
        ("size", 3, 1 << 40),
        ("size", 3, (1 << 63) - 1),
        ("size", 3, -5),
        ("extension", 3, 9),
        ("extension", 3, -1),
        ("members_each", 0, 3),
        ("members_each", 0, -1),
    ],
)
def test_index_that_points_outside_its_shard_is_built_anew(tmp_path, column, place, value):
    path = text_shard(tmp_path / "a.tar", 5)
    (good,) = load_or_build([path])
    whole = good.index_path.read_bytes()
    rewritten(good, lambda columns: columns[column].__setitem__(place, value))
    corpus = Corpus(load_or_build([path]))
    assert corpus.read(1, ["cls"]) == {"cls": b"1"}
    assert good.index_path.read_bytes() == whole


@pytest.mark.parametrize(
    "summary", [b"[]", b"{}", b"[" * 100_000, b'{"num_samples": "5"}', b"nan", b"\xff"]
)
def test_index_whose_summary_makes_no_sense_is_built_anew(tmp_path, summary):
    path = text_shard(tmp_path / "a.tar", 5)
    (good,) = load_or_build([path])
    head = index_file._HEAD
    magic, version, *_ = head.unpack_from(good.index_path.read_bytes())
    content = head.pack(magic, version, len(summary), zlib.crc32(summary)) + summary
    good.index_path.write_bytes(content)
    assert load_or_build([path]) == [good]


def test_lengths_in_a_damaged_index_take_no_memory(tmp_path):
    path = text_shard(tmp_path / "a.tar", 5)
    (good,) = load_or_build([path])
    magic, version, _, crc32 = index_file._HEAD.unpack_from(good.index_path.read_bytes())
    tracemalloc.start()
    good.index_path.write_bytes(index_file._HEAD.pack(magic, version, (1 << 32) - 1, crc32))
    assert index_file.load(path) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_damaged_index_is_named(tmp_path, caplog):
    path = text_shard(tmp_path / "a.tar", 5)
    (good,) = load_or_build([path])
    whole = good.index_path.read_bytes()
    good.index_path.write_bytes(whole.replace(b'"num_samples": 5', b'"num_samples": 4'))
    assert load_or_build([path]) == [good]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"index {good.index_path} is damaged (its checksum")


def test_other_content_than_last_time_is_said(tmp_path, caplog):
    path = text_shard(tmp_path / "a.tar", 5)
    load_or_build([path])
    os.utime(path, ns=(0, 12345))
    load_or_build([path])
    assert not caplog.records  # merely touched
    text_shard(path, 9)
    load_or_build([path])
    text_shard(path, 9, first=4)
    load_or_build([path], rebuild=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"shard {path} has another content than when it was indexed last ({n} samples then, 9 now)"
        for n in (5, 9)
    ]


def test_other_format_is_replaced(tmp_path, monkeypatch):
    path = text_shard(tmp_path / "a.tar", 5)
    with monkeypatch.context() as patch:
        patch.setattr(index_file, "FORMAT", 0)
        load_or_build([path])
    assert index_file.load(path) == []
    (index,) = load_or_build([path])
    assert index_file.load(path) == [index]


def test_index_folder_of_the_environment_takes_all(tmp_path, monkeypatch):
    a, b = text_shard(tmp_path / "a" / "0.tar", 2), text_shard(tmp_path / "b" / "0.tar", 3)
    monkeypatch.setenv("MMLIGHT_INDEX_DIR", str(tmp_path / "cache"))
    sizes = [index.num_samples for index in load_or_build([a, b])]
    assert sizes == [index.num_samples for index in load_or_build([a, b])] == [2, 3]
    assert os.listdir(a.parent) == os.listdir(b.parent) == ["0.tar"]
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_where_the_shards_folder_refuses_the_cache_folder_serves(tmp_path):
    path = text_shard(tmp_path / "a.tar", 2)
    # A folder in the index's place refuses it to root as well, unlike a read-only one.
    (tmp_path / "a.tar.index").mkdir()
    (index,) = load_or_build([path])
    assert index.index_path.parent == tmp_path / "home" / ".cache" / "mmlight" / "index"
    assert load_or_build([path]) == [index]
    assert not list(tmp_path.glob(".*.tmp"))


def test_read_only_folder_is_left_alone(tmp_path):
    path = text_shard(tmp_path / "shards" / "a.tar", 2)
    path.parent.chmod(0o555)
    (index,) = load_or_build([path])
    path.parent.chmod(0o755)
    assert index.index_path.parent == tmp_path / "home" / ".cache" / "mmlight" / "index"


def test_many_shards_are_built_in_processes_in_their_order(tmp_path):
    paths = [text_shard(tmp_path / f"{n}.tar", n + 1) for n in range(9)]
    indexes = load_or_build(paths, workers=2)
    assert [index.path for index in indexes] == paths
    assert [index.num_samples for index in indexes] == list(range(1, 10))


def test_damage_found_in_a_process_is_the_users_one_line(tmp_path):
    paths = [text_shard(tmp_path / f"{n}.tar", 3) for n in range(9)]
    paths[5].write_bytes(paths[5].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"5\.tar: cut short inside member"):
        load_or_build(paths, workers=2)


def test_two_builders_at_once_leave_one_whole_index(tmp_path):
    path = text_shard(tmp_path / "a.tar", 200)
    results = []
    threads = [threading.Thread(target=lambda: results.append(build(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert list(results[0].rows().keys) == list(results[3].rows().keys)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.index"]


def test_smaller_member_limit_is_applied_to_indexed_shards(tmp_path):
    path = text_shard(tmp_path / "a.tar", 2, size=700)
    load_or_build([path])
    with pytest.raises(UserError, match="limit is 699"):
        load_or_build([path], max_member_bytes=699)


def test_missing_shard_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"b\.tar can't be read: No such file"):
        load_or_build([tmp_path / "b.tar"])


def test_without_a_terminal_one_line_is_shown_and_only_when_building(tmp_path, capfd):
    path = text_shard(tmp_path / "a.tar", 2)
    load_or_build([path])
    assert capfd.readouterr().err.splitlines() == [f"Indexing 1 shard (once), the first is {path}"]
    load_or_build([path])
    load_or_build([path], rebuild=True, progress=False)
    assert capfd.readouterr().err == ""


def test_data_floor_modules_import_no_torch():
    names = "decode.probe order.cursor order.mixture shards.corpus shards.index shards.paths"
    names += " shards.tar packing.write packing.table_file shards_command"
    code = "import sys\n" + "".join(f"import mmlight.data.{name}\n" for name in names.split())
    code += (
        "import json; print(json.dumps([m for m in ('torch', 'lightning') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []


def test_index_found_in_a_read_only_folder_is_used(tmp_path):
    path = text_shard(tmp_path / "shards" / "a.tar", 2)
    (built,) = load_or_build([path])
    path.parent.chmod(0o555)
    (found,) = load_or_build([path])
    path.parent.chmod(0o755)
    assert found == built
    assert not (tmp_path / "home").exists()
