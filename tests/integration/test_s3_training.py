"""Training from a real S3 server sees what training from a disk sees, however often it is killed.

`MMLIGHT_KILLS` says how often (3); the issue's figure is 20.
"""

import multiprocessing
import os
import random
import time

import pytest
from integration.s3_server import TESTS, put, running
from integration.s3_training import GLOBAL_BATCH, free_port, noted, train

from mmlight.data.shards import remote
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.index import load_or_build
from mmlight.data.shards.seal import SealedWriter

KILLS = int(os.environ.get("MMLIGHT_KILLS", "3"))
STEPS = 20 + 8 * KILLS
NUM_SHARDS = 8

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600 + 300 * KILLS)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What the environment says of a server that runs while these tests do."""
    with running(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture
def shards(environment, tmp_path, monkeypatch):
    """The same shards in a folder and in a bucket."""
    for name, value in {
        **environment,
        "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}",
    }.items():
        monkeypatch.setenv(name, value)
    remote._stores.clear()
    here = tmp_path / "here"
    here.mkdir()
    paths = [here / f"{n}.tar" for n in range(NUM_SHARDS)]
    for number, path in enumerate(paths):
        with SealedWriter(path) as writer:
            for sample in range(40):
                text = f"{number} {sample} ".ljust(9000, "x")
                writer.add(f"{number:03d}{sample:03d}.txt", text.encode())
    load_or_build(paths, progress=False)
    yield str(here), put([*paths, *here.glob("*.index")], cache=tmp_path / "cache")
    remote._stores.clear()


def attempt(number, folder, settings, environment, *, world_size, kill_after):
    """Train until so many steps were noted, then kill all ranks; return whether it was done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["integration.s3_training"])
    port, before = free_port(), len(noted(folder))
    given = (world_size, port, number, folder, settings, STEPS, environment)
    ranks = [context.Process(target=train, args=(rank, *given)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    try:
        while any(rank.is_alive() for rank in ranks):
            if kill_after is not None and len(noted(folder)) - before >= kill_after * world_size:
                break
            assert all(rank.exitcode in (None, 0) for rank in ranks), "a rank failed by itself"
            time.sleep(0.05)
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return all(rank.exitcode == 0 for rank in ranks)


def test_killed_at_random_steps_it_sees_what_a_run_from_a_disk_sees(shards, environment, tmp_path):
    near, far = shards
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert attempt(0, whole, {"shards": near}, environment, world_size=1, kill_after=None)
    expected = {line["step"]: (line["keys"], line["tokens"]) for line in noted(whole)}
    assert sorted(expected) == list(range(STEPS))

    # Room for five of eight shards: some are fetched again and again.
    room = 5.5 * (tmp_path / "here" / "0.tar").stat().st_size / 1e9
    cache = ShardCache(str(tmp_path / "cache-of-run"), max_gb=room)
    seed = random.randrange(10**6)
    draws = random.Random(seed)
    worlds = (1, 2, 4)
    for number in range(KILLS + 1):
        world_size, workers = worlds[number % 3], draws.randrange(3)
        after = draws.randint(3, 9) if number < KILLS else None
        print(
            f"seed {seed}, attempt {number}: {world_size} ranks, {workers} workers, {after} steps"
        )
        settings = {"shards": far, "cache": cache, "num_workers": workers}
        done = attempt(
            number, killed, settings, environment, world_size=world_size, kill_after=after
        )
        assert done is (after is None)

    lines = noted(killed)
    for line in lines:
        share = GLOBAL_BATCH // line["world_size"]
        mine = slice(line["rank"] * share, (line["rank"] + 1) * share)
        keys, tokens = expected[line["step"]]
        assert (line["keys"], line["tokens"]) == (keys[mine], tokens[mine]), (seed, line)
    assert {line["step"] for line in lines} == set(range(STEPS))
    assert {line["world_size"] for line in lines} == set(worlds[: KILLS + 1])
