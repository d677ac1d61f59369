import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from object_server import serving, wait_little
from shard_files import text_shard

from mmlight.data.shards import cache as cache_module
from mmlight.data.shards import index, remote, url
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.corpus import Corpus
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.paths import expand
from mmlight.data.shards.storage import OpenShard, digest
from mmlight.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    wait_little(monkeypatch)


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "there") as found:
        yield found


@pytest.fixture
def there(tmp_path):
    """Four shards with indexes."""
    folder = tmp_path / "there"
    paths = [
        text_shard(folder / f"{n}.tar", 20 + n, size=4000 + n, first=100 * n) for n in range(4)
    ]
    load_or_build(paths, progress=False)
    return folder


def cache_in(tmp_path, **settings):
    return ShardCache(str(tmp_path / "cache"), **{"patience_s": 5.0, **settings})


def contents(corpus):
    return [corpus.read(n, ["txt", "cls"]) for n in range(len(corpus))]


def local(there):
    return Corpus(load_or_build(expand(str(there)), progress=False))


def far(server, cache, names="{0..3}.tar"):
    return Corpus(load_or_build(expand(f"{server.url}/{names}", cache=cache), progress=False))


def test_remote_shards_are_the_local_ones(tmp_path, there, server):
    corpus, here = far(server, cache_in(tmp_path)), local(there)
    assert corpus.fingerprint() == here.fingerprint()
    # A start reads beginnings of indexes, and no shard.
    assert server.num_bytes < 4 * 5000
    assert corpus.key(0) == here.key(0)
    assert corpus.origin(0)[0] == f"{server.url}/0.tar"
    assert len(pickle.dumps(corpus)) < 4000
    assert contents(corpus) == contents(here)
    asked = server.log.copy()
    again = pickle.loads(pickle.dumps(far(server, cache_in(tmp_path))))
    assert contents(again) == contents(here)
    # Each shard was asked for its size, and nothing else: it is in the cache, as is its index.
    assert server.log - asked == {f"{n}.tar": 1 for n in range(4)}


def test_without_indexes_beside_them_they_are_built_in_the_cache(tmp_path, there, server):
    here = local(there)
    for path in there.glob("*.index"):
        path.unlink()
    assert contents(far(server, cache_in(tmp_path))) == contents(here)
    asked = server.log.copy()
    assert far(server, cache_in(tmp_path)).fingerprint() == here.fingerprint()
    assert set((server.log - asked).values()) == {1}


def test_faults_of_the_way_lose_nothing(tmp_path, there, server):
    server.busy, server.cut = 0.15, 0.3
    assert contents(far(server, cache_in(tmp_path))) == contents(local(there))


def test_a_server_without_ranges_will_do(tmp_path, there, server):
    server.ranges = False
    server.cut = 0.3
    assert contents(far(server, cache_in(tmp_path, patience_s=20))) == contents(local(there))


def test_a_server_that_is_down_is_waited_for(tmp_path, there, server):
    corpus = far(server, cache_in(tmp_path))
    server.down_until = time.monotonic() + 1
    assert contents(corpus) == contents(local(there))
    server.down_until = time.monotonic() + 60
    for shard in corpus.shards:
        shard.path.drop()
    corpus = far_again(corpus, patience_s=0.3)
    with pytest.raises(UserError, match=r"/0\.tar: .*for .* s and \d+ attempts; start the run"):
        contents(corpus)


@pytest.mark.slow
def test_half_a_minute_without_a_server_is_waited_for(tmp_path, there, server, monkeypatch, capsys):
    monkeypatch.undo()  # real waits
    corpus = far(server, ShardCache(str(tmp_path / "cache")))
    server.down_until = time.monotonic() + 30
    assert contents(corpus) == contents(local(there))
    assert "trying on for" in capsys.readouterr().err


def far_again(corpus, **settings):
    from dataclasses import replace

    shards = [
        replace(s, path=replace(s.path, cache=replace(s.path.cache, **settings)))
        for s in corpus.shards
    ]
    return Corpus(shards)


def test_a_shard_that_is_replaced_stops_the_run_in_one_line(tmp_path, there, server):
    corpus = far(server, cache_in(tmp_path))
    text_shard(there / "2.tar", 22, size=4002, first=999)
    assert corpus.read(0, ["cls"])
    with pytest.raises(UserError, match=r"2\.tar was replaced since this run began") as error:
        contents(corpus)
    assert "\n" not in str(error.value)


def test_a_shard_that_is_not_what_its_index_says_is_refused(tmp_path, there, server):
    text_shard(there / "2.tar", 22, size=4002, first=999)  # of the same size
    corpus = far(server, cache_in(tmp_path))
    with pytest.raises(UserError, match=r"2\.tar is not what its index says"):
        contents(corpus)
    assert list((tmp_path / "cache").glob("*.tar"))  # the others, and nothing of it
    text_shard(there / "3.tar", 5)
    corpus = far(server, cache_in(tmp_path), "3.tar")
    assert len(corpus) == 5  # of another size: indexed anew


def test_a_shard_that_is_deleted_stops_the_run_in_one_line(tmp_path, there, server):
    corpus = far(server, cache_in(tmp_path))
    (there / "1.tar").unlink()
    with pytest.raises(UserError, match=r"1\.tar: there is no such object \(status 404\)$"):
        contents(corpus)
    with pytest.raises(UserError, match=r"1\.tar: there is no such object"):
        far(server, cache_in(tmp_path))


def test_access_that_is_refused_is_said(tmp_path, there, server):
    corpus = far(server, cache_in(tmp_path))
    server.denied = True
    with pytest.raises(UserError, match=r"0\.tar: the server refuses access \(status 403\)"):
        contents(corpus)


def test_a_copy_that_rots_is_fetched_again(tmp_path, there, server):
    corpus = far(server, cache_in(tmp_path))
    good = contents(corpus)
    place = corpus.shards[0].path.place()
    data = bytearray(place.read_bytes())
    data[3000:3100] = bytes(100)
    place.write_bytes(data)
    assert contents(far(server, cache_in(tmp_path))) == good
    place.write_bytes(data[:5000])
    assert contents(far(server, cache_in(tmp_path))) == good


def test_the_cache_stays_within_its_limit(tmp_path, there, server):
    size = (there / "3.tar").stat().st_size
    cache = cache_in(tmp_path, max_gb=2.5 * size / 1e9)
    corpus = far(server, cache)
    first, second, third = (corpus.shards[n].path for n in range(3))
    for shard in (first, second, first, third):
        OpenShard(shard)
        time.sleep(0.01)
    # The second was used longest ago.
    assert [shard.place().exists() for shard in (first, second, third)] == [True, False, True]
    assert contents(corpus) == contents(local(there))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) < 2.5 * size
    with pytest.raises(UserError, match=r"more than data\.cache\.max_gb \(1e-06\); raise it"):
        contents(far_again(Corpus(corpus.shards[1:2]), max_gb=1e-6, folder=str(tmp_path / "c")))


def test_readers_close_what_was_removed(tmp_path, there, server, monkeypatch):
    monkeypatch.setattr("mmlight.data.shards.corpus._SWEEP_S", -1.0)
    corpus = far(server, cache_in(tmp_path))
    corpus.read(0, ["cls"])
    corpus.shards[0].path.drop()
    corpus.read(30, ["cls"])
    assert list(corpus._open_files) == [1]


def test_threads_that_want_one_shard_fetch_it_once(tmp_path, there, server):
    cache = cache_in(tmp_path)
    (shard,) = expand(f"{server.url}/0.tar", cache=cache)
    server.slow_s = 0.05
    asked = server.log["0.tar"]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: shard.fetch(), range(6)))
    assert server.log["0.tar"] - asked == 1
    assert digest(shard) == digest(there / "0.tar")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [shard.place().name]


_FETCH = """
import pickle, sys
shard = pickle.load(sys.stdin.buffer)
print("begins", flush=True)
shard.fetch()
"""


def fetch_in_process(shard):
    process = subprocess.Popen(
        [sys.executable, "-c", _FETCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pickle.dump(shard, process.stdin)
    process.stdin.close()
    assert process.stdout.readline() == b"begins\n"
    return process


def test_what_a_killed_process_left_is_continued(tmp_path, server):
    path = text_shard(tmp_path / "there/0.tar", 200, size=10_000)
    (shard,) = expand(f"{server.url}/0.tar", cache=cache_in(tmp_path))
    server.slow_s = 0.02
    process = fetch_in_process(shard)
    part = shard.place().with_name(shard.place().name + ".part")
    while not part.exists() or part.stat().st_size < 1 << 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left, server.slow_s, before = part.stat().st_size, 0.0, server.num_bytes
    # Another process waits for the lock of a living one, and goes on with what a dead one left.
    shard.fetch(sha256=digest(path))
    assert server.num_bytes - before <= path.stat().st_size - left + (1 << 16)
    assert shard.place().read_bytes() == path.read_bytes() and not part.exists()


def test_two_processes_that_want_one_shard_fetch_it_once(tmp_path, server):
    path = text_shard(tmp_path / "there/0.tar", 100, size=10_000)
    (shard,) = expand(f"{server.url}/0.tar", cache=cache_in(tmp_path))
    server.slow_s, asked = 0.03, server.log["0.tar"]
    processes = [fetch_in_process(shard) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    for process in processes:
        process.stdout.close()
    assert server.log["0.tar"] - asked == 1
    assert shard.place().read_bytes() == path.read_bytes()


_FULL = """
import pickle, resource, sys
shard = pickle.load(sys.stdin.buffer)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from mmlight.errors import UserError
try:
    shard.fetch()
except UserError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_is_said(tmp_path, there, server):
    (shard,) = expand(f"{server.url}/0.tar", cache=cache_in(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _FULL], input=pickle.dumps(shard), capture_output=True
    )
    assert b"0.tar can't be kept in" in done.stderr and b"File too large" in done.stderr
    assert done.stderr.count(b"\n") == 1
    # A copy that is half there is continued, not taken for the whole.
    assert shard.fetch().read_bytes() == (there / "0.tar").read_bytes()


def test_a_disk_that_is_full_makes_room(tmp_path, there, server, monkeypatch):
    cache = cache_in(tmp_path)
    old, new = expand([f"{server.url}/{n}.tar" for n in (0, 1)], cache=cache)
    old.fetch()
    write, full = os.pwrite, OSError(28, "No space left on device")

    def pwrite(part, data, offset):
        if offset > 10_000 and old.place().exists():
            raise full
        return write(part, data[:9000], offset)

    monkeypatch.setattr(remote.os, "pwrite", pwrite)
    assert new.fetch().read_bytes() == (there / "1.tar").read_bytes()
    assert not old.place().exists()


def test_a_part_that_nobody_goes_on_with_is_removed(tmp_path):
    cache = cache_in(tmp_path)
    for name, age_s in (("old", 3 * 86_400), ("new", 60)):
        part = cache.path() / f"{name}-1.tar.part"
        part.write_bytes(b"x")
        os.utime(part, (time.time() - age_s,) * 2)
    assert cache.make_room()
    assert [path.name for path in cache.path().iterdir()] == ["new-1.tar.part"]
    assert cache_module.touch(cache.path() / "nowhere") is False


def test_secrets_are_shown_nowhere(tmp_path, there, server):
    host = server.url.removeprefix("http://")
    secret = f"http://me:pass@{host}/1.tar?x=1&X-Amz-Signature=abc"
    for given in (secret, f"http://me:pass@{host}/1.tar", f"http://{host}/1.tar?sig=abc"):
        with pytest.raises(UserError, match="holds a password or a signature") as error:
            expand(given)
        assert not any(word in str(error.value) for word in ("me:", "pass@", "abc"))
    (tmp_path / "list.txt").write_text(f"# mine\n{secret}\n")
    server.password = "Basic bWU6cGFzcw=="
    cache = cache_in(tmp_path)
    (shard,) = expand(str(tmp_path / "list.txt"), cache=cache)
    (found,) = load_or_build([shard], progress=False)
    corpus = Corpus([found])
    assert contents(corpus)[0]["txt"].startswith(b"000100")
    assert shard.key == url.key(f"{secret[:-3]}xyz")  # signed anew, the same shard
    assert shard.key != url.key(secret.replace("x=1", "x=2"))
    shown = [str(shard), repr(shard), repr(found), corpus.key(0), *corpus.origin(0)]
    shown += [path.name for path in cache.path().iterdir()]
    shown += [path.read_bytes().decode("latin-1") for path in cache.path().glob("*.summary")]
    server.denied = True
    shard.drop()
    with pytest.raises(UserError) as error:
        shard.fetch()
    assert not any("pass" in text or "abc" in text for text in [*shown, str(error.value)])


def test_what_can_not_be_read_is_refused_before_anything_is_asked(tmp_path, server):
    for given, message in (
        (f"{server.url}/", "name a file"),
        (f"{server.url}/a/", "can't be listed"),
        (f"{server.url}/list.txt", "can't be listed"),
        ("s3://me:pass@bucket/0.tar", "no user or password"),
        ("s3://bucket/*/0.tar", "a glob may stand in the last part"),
        ("gs://bucket/0.tar", "gs:// needs gcsfs: pip install gcsfs"),
    ):
        with pytest.raises(UserError, match=message):
            expand(given, cache=cache_in(tmp_path))
    assert not server.log
    for settings in ({"max_gb": 0}, {"downloads": 0}, {"patience_s": -1}):
        with pytest.raises(UserError, match="must be"):
            ShardCache(**settings)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the cache of shards can't be in"):
        ShardCache(str(tmp_path / "file")).path()


def test_stores_of_fsspec_list_read_and_take_indexes(tmp_path, there, monkeypatch):
    import fsspec

    monkeypatch.setattr(url, "SCHEMES", (*url.SCHEMES, "memory"))
    files = fsspec.filesystem("memory")
    for path in there.glob("*.tar"):
        files.pipe_file(f"/set/{path.name}", path.read_bytes())
    cache = cache_in(tmp_path)
    for given in (
        "memory://set/",
        "memory://set",
        "memory://set/[0-3].tar",
        "memory://set/{0..3}.tar",
    ):
        shards = expand(given, cache=cache)
        assert [str(shard) for shard in shards] == [f"memory://set/{n}.tar" for n in range(4)]
    indexes = load_or_build(shards, progress=False)
    assert index.publish(indexes) == 4 and index.publish(indexes) == 0
    assert files.cat_file("/set/0.tar.index")
    anew = ShardCache(str(tmp_path / "anew"))
    corpus = Corpus(load_or_build(expand("memory://set", cache=anew), progress=False))
    assert not list((tmp_path / "anew").glob("*.tar"))
    assert contents(corpus) == contents(local(there))
    with pytest.raises(UserError, match=r"memory://set/7\.tar: there is no such object"):
        expand("memory://set/7.tar", cache=cache)
    with pytest.raises(UserError, match="nothing there is named x"):
        expand("memory://set/x*.tar", cache=cache)
