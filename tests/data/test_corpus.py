import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from shard_files import png, sound, text_shard, write_tar

from mmlight.data.shards import corpus as corpus_module
from mmlight.data.shards.corpus import ChecksumError, Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)


def make(*paths):
    return Corpus(load_or_build(paths))


@pytest.fixture
def three(tmp_path):
    sizes = [4, 1, 7]
    return make(*(text_shard(tmp_path / f"{n}.tar", size) for n, size in enumerate(sizes)))


def test_samples_of_all_shards_form_one_sequence(three):
    assert len(three) == 12
    assert three.shard_sizes.tolist() == [4, 1, 7]
    places = [three.locate(i) for i in range(12)]
    assert places == [(0, r) for r in range(4)] + [(1, 0)] + [(2, r) for r in range(7)]
    assert three.key(0) == "0/000000" and three.key(11) == "2/000006"
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            three.locate(outside)


def test_read_gives_the_members_that_are_there(three):
    assert three.members(5) == {"txt": 700, "cls": 1}
    got = three.read(11, ["txt", "jpg"])
    assert list(got) == ["txt"]
    assert got["txt"].startswith(b"000006 x") and len(got["txt"]) == 700
    assert three.read(11, ["jpg"]) == {}
    assert three.read(11, ["cls"]) == {"cls": b"6"}


def test_shards_of_equal_name_get_distinct_keys(tmp_path):
    corpus = make(*(text_shard(tmp_path / folder / "0.tar", 2) for folder in ("a", "b")))
    keys = [corpus.key(i) for i in range(4)]
    assert keys == ["a/0/000000", "a/0/000001", "b/0/000000", "b/0/000001"]


def test_counts_durations_and_sizes(tmp_path):
    a = write_tar(tmp_path / "a.tar", [("0.flac", sound(0.5)), ("1.png", png(8, 6))])
    b = write_tar(tmp_path / "b.tar", [("0.txt", b"x"), ("1.wav", sound(2, format="WAV"))])
    corpus = make(a, b)
    assert corpus.extensions() == {"flac": 1, "png": 1, "txt": 1, "wav": 1}
    np.testing.assert_allclose(corpus.durations, [0.5, np.nan, np.nan, 2])
    assert corpus.image_sizes.tolist() == [[0, 0], [8, 6], [0, 0], [0, 0]]


def test_fingerprint_follows_content_and_order_not_place(tmp_path):
    a, b = text_shard(tmp_path / "a.tar", 3), text_shard(tmp_path / "b.tar", 4)
    original = make(a, b).fingerprint()
    moved = [shutil.copy(path, tmp_path / f"moved-{path.name}") for path in (a, b)]
    assert make(*(tmp_path / os.path.basename(path) for path in moved)).fingerprint() == original
    assert make(b, a).fingerprint() != original
    text_shard(b, 4, first=9)
    assert make(a, b).fingerprint() != original


def test_pickle_carries_paths_only_and_works_there(three):
    three.read(0, ["txt"])
    blob = pickle.dumps(three)
    assert len(blob) < 3000
    assert pickle.loads(blob).read(11, ["cls"]) == {"cls": b"6"}


def _read_all(corpus, queue=None):
    result = [corpus.read(i, ["txt", "cls"]) for i in range(len(corpus))]
    if queue:
        queue.put(result)
    return result


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(three, method):
    expected = _read_all(three)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read_all, args=(three, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join()


def test_threads_share_a_corpus_whose_caches_are_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_MAX_OPEN_FILES", 2)
    monkeypatch.setattr(corpus_module, "_MAX_ROWS_BYTES", 1)
    corpus = make(*(text_shard(tmp_path / f"{n}.tar", 3, first=3 * n) for n in range(6)))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    numbers = np.random.default_rng(0).integers(0, 18, 600).tolist()
    with ThreadPoolExecutor(8) as pool:
        texts = pool.map(lambda i: corpus.read(i, ["txt"])["txt"][:6], numbers)
        assert [int(text) for text in texts] == numbers
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4


def replaced(path, count, *, first, in_place):
    """Put other samples into a shard of the same size, as a re-export or a sync does."""
    new = text_shard(path.with_name("new"), count, first=first)
    assert new.stat().st_size == path.stat().st_size
    if in_place:
        path.write_bytes(new.read_bytes())
        new.unlink()
    else:
        os.replace(new, path)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_shard_replaced_before_it_is_opened_is_noticed(tmp_path, in_place, verify):
    corpus = Corpus(load_or_build([text_shard(tmp_path / "0.tar", 4)]), verify=verify)
    replaced(tmp_path / "0.tar", 4, first=100, in_place=in_place)
    with pytest.raises(UserError, match=r"0\.tar has changed since it was indexed; start the run"):
        corpus.read(1, ["txt"])


def test_shard_rewritten_while_it_is_open_is_noticed(tmp_path):
    corpus = make(text_shard(tmp_path / "0.tar", 4))
    corpus.read(1, ["txt"])
    replaced(tmp_path / "0.tar", 4, first=100, in_place=True)
    with pytest.raises(UserError, match=r"0\.tar has changed since it was indexed"):
        corpus.read(1, ["txt"])


def test_shard_renamed_over_an_open_one_gives_the_bytes_that_were_indexed(tmp_path):
    corpus = make(text_shard(tmp_path / "0.tar", 4))
    before = corpus.read(1, ["txt"])
    replaced(tmp_path / "0.tar", 4, first=100, in_place=False)
    assert corpus.read(1, ["txt"]) == before  # of the file that is open
    with pytest.raises(UserError, match="has changed since it was indexed"):
        pickle.loads(pickle.dumps(corpus)).read(1, ["txt"])


def test_shard_of_another_size_is_noticed(three):
    text_shard(three.shards[2].path, 30)
    with pytest.raises(UserError, match=r"2\.tar has changed since it was indexed"):
        three.read(11, ["txt"])


def test_shard_that_was_merely_touched_is_read_on(three):
    os.utime(three.shards[2].path, ns=(0, 12345))
    assert three.read(11, ["cls"]) == {"cls": b"6"}


def rot(path, place):
    """Flip a bit and leave the time as it is."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_bits_that_flip_in_a_member_are_noticed(three):
    shard = three.shards[0]
    rows = shard.rows()
    rot(shard.path, int(rows.offset[2]) + 10)  # the txt of sample 1
    with pytest.raises(
        ChecksumError, match=r"'\.txt' of sample '000001'.*0\.tar is damaged"
    ) as got:
        three.read(1, ["txt", "cls"])
    assert got.value.member == "txt"
    assert three.read(1, ["cls"]) == {"cls": b"1"}
    assert three.read(0, ["txt"])["txt"].startswith(b"000000 x")


def test_without_verify_bytes_are_taken_as_they_are(three):
    rot(three.shards[0].path, int(three.shards[0].rows().offset[2]) + 10)
    trusting = Corpus(three.shards, verify=False)
    for corpus in (trusting, Corpus.joined([trusting]), trusting.subset(np.arange(9))):
        assert pickle.loads(pickle.dumps(corpus)).read(1, ["txt"])["txt"][10:12] == b"|x"
    for corpus in (three, Corpus.joined([three])):
        with pytest.raises(ChecksumError):
            pickle.loads(pickle.dumps(corpus)).read(1, ["txt"])


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: rot(p, -5)])
def test_index_damaged_or_lost_during_the_run_is_built_anew(three, damage, caplog):
    right = _read_all(pickle.loads(pickle.dumps(three)))
    damage(three.shards[2].index_path)
    assert _read_all(three) == right
    assert [record.getMessage() for record in caplog.records] == [
        f"index {three.shards[2].index_path} is damaged; it is built anew"
    ]
    assert load_or_build([three.shards[2].path]) == [three.shards[2]]


def test_index_lost_with_another_shard_in_place_stops_the_run(three):
    three.shards[2].index_path.unlink()
    text_shard(three.shards[2].path, 7, first=50)
    with pytest.raises(UserError, match=r"2\.tar changed while it was in use"):
        three.key(11)


def test_short_read_is_an_error(three):
    three.read(11, ["txt"])  # opens the file
    os.truncate(three.shards[2].path, 1000)
    with pytest.raises(OSError, match=r"2\.tar ended before byte \d+ while read"):
        three.read(11, ["txt"])


def test_a_run_of_samples_is_what_each_is(three, monkeypatch):
    run = range(5, 12)
    expected = [(three.origin(n)[1], three.read_all(n)) for n in run]
    assert three.read_run(run) == expected
    rot(three.shards[2].path, int(three.shards[2].rows().offset[4]) + 10)
    damaged = pickle.loads(pickle.dumps(three)).read_run(run)
    assert damaged == [*expected[:2], (expected[2][0], None), *expected[3:]]
    os.truncate(three.shards[2].path, int(three.shards[2].rows().offset[9]))
    assert [members for _, members in three.read_run(run)][4:] == [None] * 3
    monkeypatch.setattr(corpus_module, "_MAX_RUN_BYTES", 1000)
    assert three.read_run(run) == [(key, None) for key, _ in expected]


@pytest.mark.parametrize("run", [range(3, 5), range(5, 13), range(12, 14)])
def test_a_run_over_the_end_of_a_shard_is_refused(three, run):
    with pytest.raises((ValueError, IndexError)):
        three.read_run(run)
    with pytest.raises(ValueError, match="do not follow"):
        three.subset(np.array([0, 2, 3])).read_run(range(2))


def test_empty_corpus_is_refused():
    with pytest.raises(UserError, match="at least one shard"):
        Corpus([])
