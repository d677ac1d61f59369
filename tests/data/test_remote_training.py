"""Training from a server with faults sees the samples that training from a disk sees."""

import time
from hashlib import sha256

import numpy as np
import pytest
from object_server import serving, wait_little
from shard_files import text_shard

from mmlight.data.dataset import Rank
from mmlight.data.loader import EvalLoader, TrainLoader
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.order.ahead import Lookup, Window
from mmlight.data.order.bucket import Bucketed
from mmlight.data.order.cursor import Order
from mmlight.data.order.evaluation import EvalOrder
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.index import load_or_build
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

NUM_SHARDS, SIZE = 8, 9000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    wait_little(monkeypatch)


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    paths = [
        text_shard(folder / f"{n}.tar", 24, size=SIZE, first=100 * n) for n in range(NUM_SHARDS)
    ]
    load_or_build(paths, progress=False)
    return folder


def module(shards, *, num_workers=0, cache=None):
    data = ShardDataModule(
        members=Members(text="txt", label="cls"),
        train=Split(shards),
        val=Split(shards),
        text=TextSettings(tokenizer=ByteTokenizer(), max_tokens=16),
        global_batch_size=8,
        eval_batch_size=16,
        num_lanes=2,
        window=16,
        num_workers=num_workers,
        cache=cache,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def samples_of(loader, most=None):
    found = []
    for number, batch in enumerate(loader):
        found += zip(batch.keys, batch.index_B.tolist(), strict=True)
        found.append(sha256(batch.text.token_ids_NL.numpy().tobytes()).hexdigest())
        if number + 1 == most:
            break
    loader.close()
    return found


def test_an_epoch_from_a_server_with_faults_is_that_from_a_disk(tmp_path, there):
    size = (there / "0.tar").stat().st_size
    # Room for the shards of a window, and not for all.
    cache = ShardCache(str(tmp_path / "cache"), max_gb=5.5 * size / 1e9, patience_s=60)
    here = module(str(there))
    with serving(there) as server:
        server.busy, server.cut = 0.15, 0.3
        far = module(f"{server.url}/{{0..7}}.tar", num_workers=2, cache=cache)
        assert far.fingerprint() == here.fingerprint()
        loader = far.train_dataloader()
        assert isinstance(loader, TrainLoader)
        first = samples_of(loader, most=5)
        server.down_until = time.monotonic() + 2
        whole = samples_of(far.train_dataloader())
        assert whole == samples_of(here.train_dataloader())
        assert whole[: len(first)] == first
        assert samples_of(far.val_dataloader()) == samples_of(here.val_dataloader())
        assert isinstance(far.val_dataloader(), EvalLoader)
        held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar"))
        assert held <= 5.5 * size


@pytest.mark.parametrize(("room", "is_told"), [(1.5, True), (5.5, False)])
def test_a_cache_with_no_room_for_a_batch_is_told_of_once(tmp_path, there, capsys, room, is_told):
    size = (there / "0.tar").stat().st_size
    with serving(there) as server:
        cache = ShardCache(str(tmp_path / "cache"), max_gb=room * size / 1e9)
        loader = module(f"{server.url}/{{0..7}}.tar", cache=cache).train_dataloader()
        for _ in range(2):
            samples_of(loader, most=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "data.cache.max_gb" in line]
    assert len(said) == is_told
    assert not said or "reads from 4 shards, which do not fit" in said[0]


def test_a_shard_that_is_gone_stops_training_with_one_line(tmp_path, there):
    with serving(there) as server:
        cache = ShardCache(str(tmp_path / "cache"), patience_s=60)
        far = module(f"{server.url}/{{0..7}}.tar", num_workers=1, cache=cache)
        (there / "5.tar").unlink()
        with pytest.raises(UserError, match=r"5\.tar: there is no such object") as error:
            samples_of(far.train_dataloader())
        far.teardown("fit")
        assert "\n" not in str(error.value)


def test_a_window_is_what_the_next_batches_need():
    sizes = np.full(40, 30)
    order = Order(sizes, global_batch=8, num_lanes=4, window=24, seed=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for rank, world_size in ((0, 1), (1, 2)):
        lookup = Lookup(order, starts, rank, world_size)
        window = Window(lookup, [10] * 39 + [0], most_bytes=120)
        for number in (0, 1, 2, 40, 41, 149, 150, 7):
            got = window.at(number)
            needed = [s for n in range(number, number + 30) for s in lookup.shards(n) if s != 39]
            assert 1 <= len(got) <= 12 and len(set(got)) == len(got)
            assert set(lookup.shards(number)) - {39} <= set(got)
            assert set(got) <= set(needed) or len(set(needed)) < 12


def test_what_evaluations_and_sorted_batches_need_is_known():
    starts = np.arange(0, 101, 10)
    lookup = Lookup(EvalOrder(100, batch_size=25), starts, 0, 1)
    assert lookup.num_batches == 4 and lookup.shards(3) == [7, 8, 9]
    window = Window(lookup, [1] * 10, most_bytes=100)
    assert window.at(0) == list(range(10)) and window.at(2) == list(range(5, 10))
    order = Order([50, 50], global_batch=10, seed=0)
    bucketed = Bucketed(order, np.arange(100), global_batch=10, pool_batches=2, seed=0)
    assert bucketed.sorted is order
    assert Rank().on_node == 1
