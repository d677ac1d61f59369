"""Training on shards that can't be indexed: equal batches, seeded, each sample once a pass."""

import gzip
import itertools
import json
import os
import threading
from collections import Counter

import pytest
import torch
from multimodal import Recorder, jpeg, sample_members, shard, text_only, trainer, with_images
from shard_files import write_tar
from test_data_resume import SaveAt

from mmlight.data.dataset import Rank, Refusal
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.shards.cache import ShardCache
from mmlight.data.splits.split import Split
from mmlight.data.stream import reading
from mmlight.data.stream.loader import StreamLoader
from mmlight.errors import UserError

NUM_SAMPLES = 22


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two compressed shards."""
    folder = tmp_path_factory.mktemp("compressed")
    for name, numbers in (("a", range(12)), ("b", range(12, NUM_SAMPLES))):
        path = shard(folder / "plain" / f"{name}.tar", numbers)
        (folder / f"{name}.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    return folder


def stream(folder, **settings):
    given = {"train": Split(str(folder)), "mode": "stream", "samples_per_epoch": 20}
    return text_only(folder, **(given | settings))


def batches(data, *, rank=0, world_size=1, count):
    """Return some batches of one rank, without a trainer."""
    data._rank = lambda: Rank(rank, world_size)
    data.setup("fit")
    loader = data.train_dataloader()
    assert isinstance(loader, StreamLoader)
    found = list(itertools.islice(loader._batches(), count))
    loader.close()
    return found


def keys(found):
    return [key.partition("/")[2] for batch in found for key in batch.keys]


def test_a_pass_gives_each_sample_once_as_the_seed_says(folder):
    first = batches(stream(folder, global_batch_size=2), count=10)
    seen = Counter(keys(first))
    assert len(seen) == 20 and set(seen.values()) == {1}
    assert keys(first) != sorted(keys(first))
    assert keys(batches(stream(folder, global_batch_size=2), count=10)) == keys(first)
    assert keys(batches(stream(folder, global_batch_size=2, seed=1), count=10)) != keys(first)


def test_batches_are_made_as_those_of_indexed_shards(folder):
    members = Members(text="txt", label="cls", fields={"n": "json:n"})
    (batch,) = batches(stream(folder, members=members, global_batch_size=20), count=1)
    for row, number in enumerate(batch.fields["n"]):
        there = sample_members(number)
        assert batch.captions[row] == there["txt"].decode().strip("\n")
        assert batch.label_B[row] == int(there["cls"])
        assert batch.keys[row] == f"{'ab'[number >= 12]}/{number:04d}"
    assert batch.valid_B.all() and batch.text is not None


def test_frames_of_a_video_are_named_by_a_pattern(tmp_path):
    frames = [(f"clip{n}.{k:03d}.jpg", jpeg(seed=n + k)) for n in range(4) for k in range(3)]
    write_tar(tmp_path / "0.tar", frames)
    image = ImageSettings(size=16, frames=2)
    data = with_images(
        tmp_path, members=Members(image="*.jpg"), image=image, mode="stream", samples_per_epoch=4
    )
    (batch,) = batches(data, count=1)
    assert batch.size == 4 and batch.image.pixels_BCHW.shape[0] == 8 and not batch.bad


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("names", [["a.tar.gz"], ["a.tar.gz", "b.tar.gz"]])
def test_ranks_share_a_pass_in_equal_batches(folder, names, workers):
    """By shards, or where there are fewer than processes, by turns."""
    total = 12 if len(names) == 1 else NUM_SAMPLES
    seen = []
    for rank in range(2):
        train = Split([str(folder / name) for name in names])
        data = stream(folder, train=train, global_batch_size=4, num_workers=workers)
        found = batches(data, rank=rank, world_size=2, count=5)
        assert [batch.size for batch in found] == [2] * 5
        assert [batch.step for batch in found] == list(range(5))
        seen.append(keys(found))
    assert not set(seen[0][: total // 2]) & set(seen[1][: total // 2]) or workers
    assert len({*seen[0], *seen[1]}) >= (12 if len(names) == 1 else 18)


def test_a_window_is_bounded_by_its_bytes(folder, monkeypatch):
    held = []
    shuffled = reading._shuffled

    def noted(samples, draws, *, window):
        waiting = 0

        def count(one):
            nonlocal waiting
            waiting += 1
            held.append(waiting)
            return one

        for one in shuffled(map(count, samples), draws, window=window):
            waiting -= 1
            yield one

    monkeypatch.setattr(reading, "_shuffled", noted)
    monkeypatch.setattr(reading, "_MOST_BYTES", 40)
    batches(stream(folder), count=5)
    assert max(held) <= 8
    held.clear()
    monkeypatch.setattr(reading, "_MOST_BYTES", 1 << 20)
    found = batches(stream(folder, window=1, train=Split(str(folder / "a.tar.gz"))), count=3)
    assert max(held) == 1 and keys(found) == [f"{n:04d}" for n in range(12)]


def test_pipes_are_trained_on_while_shards_are_written(folder, tmp_path):
    pipes = [tmp_path / f"{n}.pipe" for n in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)

    def write(pipe, name):
        with open(pipe, "wb") as file:
            file.write((folder / f"plain/{name}.tar").read_bytes())

    writers = [
        threading.Thread(target=write, args=(pipe, name), daemon=True)
        for pipe, name in zip(pipes, "ab", strict=True)
    ]
    for writer in writers:
        writer.start()
    cache = ShardCache(folder=str(tmp_path / "cache"), patience_s=3)
    data = stream(folder, train=Split(str(tmp_path / "*.pipe")), cache=cache, num_workers=2)
    model = Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, data)
    # Of the second pipe 10 samples come, which are two batches and a half.
    assert len(model.trained) == 5
    for writer in writers:
        writer.join(10)


def test_each_rank_needs_a_pipe(folder, tmp_path):
    os.mkfifo(tmp_path / "x.pipe")
    pipe = Split(str(tmp_path / "x.pipe"))
    with pytest.raises(UserError, match=r"1 pipe\(s\) for 2 ranks"):
        batches(stream(folder, train=pipe), world_size=2, count=1)
    both = Split([str(tmp_path / "x.pipe"), str(folder / "a.tar.gz")])
    with pytest.raises(UserError, match="is a pipe and others are not"):
        batches(stream(folder, train=both), count=1)


def test_bad_samples_are_left_out_and_named(tmp_path):
    path = shard(tmp_path / "0.tar", range(20), broken=[3, 11])
    data = with_images(tmp_path, mode="stream", samples_per_epoch=16, max_bad_fraction=0.2)
    model = Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, data)
    assert len(model.trained) == 4
    rows = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} <= {"0003", "0011"} and rows
    assert rows[0]["shard"] == str(path) and rows[0]["member"] == "jpg"


def test_too_many_bad_samples_stop_the_run(tmp_path):
    shard(tmp_path / "0.tar", range(20), broken=range(20))
    data = with_images(tmp_path, mode="stream", samples_per_epoch=16)
    with pytest.raises(UserError, match=r"100 samples on end can't be used; the last: sample 00"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), data)
    shard(tmp_path / "0.tar", range(20), broken=range(0, 20, 2))
    data = with_images(tmp_path, mode="stream", samples_per_epoch=16)
    with pytest.raises(UserError, match=r"samples cannot be decoded, more than 0\.001 of 16"):
        trainer(tmp_path, max_epochs=1).fit(Recorder(), data)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_stops_the_run_in_one_line(folder, tmp_path, workers):
    data = (folder / "a.tar.gz").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(data[:-700])
    with pytest.raises(UserError, match=r"a\.tar\.gz: its gzip data are damaged") as error:
        trainer(tmp_path, max_epochs=9).fit(Recorder(), stream(tmp_path, num_workers=workers))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (Members(text="tx"), r"members\.text: none of the first 22 samples .* has tx; they have"),
        (Members(text="json:caption"), r"members\.text: none of the .* has json:caption"),
        (Members(text="txt", label="class"), r"members\.label: none of the first 22 samples"),
    ],
)
def test_a_member_nobody_has_is_told(folder, members, said):
    with pytest.raises(UserError, match=said):
        batches(stream(folder, members=members, samples_per_epoch=80), count=20)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bucket_batches": 2}, "data.bucket_batches needs an index"),
        ({"num_lanes": 2}, "data.num_lanes needs an index"),
        ({"train": [Split("a"), Split("b")]}, "one source, not a mixture"),
        ({"train": Split("a", limit=3)}, "data.train.limit needs an index"),
        ({"train": Split("a", only={"cls": 1})}, "data.train.only needs an index"),
        ({"train": None, "val": Split("a")}, "has no effect without data.train"),
    ],
)
def test_what_only_an_index_can_is_refused(folder, settings, said):
    with pytest.raises(UserError, match=said):
        stream(folder, **settings)


def test_the_length_of_an_epoch_must_be_known(folder, tmp_path):
    data = stream(folder, samples_per_epoch=None)
    with pytest.raises(UserError, match=r"set data\.samples_per_epoch .* or trainer\.max_steps"):
        trainer(tmp_path, max_epochs=2).fit(Recorder(), data)
    model = Recorder()
    fit = trainer(tmp_path, max_steps=3, max_epochs=-1, accumulate_grad_batches=2)
    fit.fit(model, stream(folder, samples_per_epoch=None))
    assert len(model.trained) == 6 and fit.global_step == 3
    with pytest.raises(UserError, match="samples_per_epoch 3 is less than one global batch of 4"):
        batches(stream(folder, samples_per_epoch=3), count=1)
    with pytest.raises(UserError, match="can't share a global batch of 4 equally"):
        batches(stream(folder), world_size=3, count=1)


def test_nothing_of_a_stream_is_counted_beforehand(folder):
    data = stream(folder, members=Members(text="txt", label="cls"))
    for ask in (data.samples, data.num_samples, lambda name: data.label_counts(name, 3)):
        with pytest.raises(UserError, match=r"data\.train pass by once, so nothing can be counted"):
            ask("train")


def test_a_resumed_run_says_that_it_begins_anew(folder, tmp_path, capsys):
    def data(**settings):
        return stream(folder, val=Split(str(folder / "plain/a.tar")), **settings)

    keep = SaveAt(tmp_path / "at.ckpt", batches=7)
    first = Recorder(schedule=True)
    trainer(tmp_path, max_epochs=3, callbacks=[keep]).fit(first, data())
    assert len(first.trained) == 15 and len(first.validated) == 36
    said = capsys.readouterr()
    assert (said.out + said.err).count("data.mode: stream: 2 shards of training, 5 steps") == 1

    rest = Recorder(schedule=True)
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(rest, data(), ckpt_path=tmp_path / "at.ckpt", weights_only=True)
    said = capsys.readouterr()
    assert "goes on at step 2 of epoch 1 with shards from their beginning" in said.out + said.err
    assert len(rest.trained) == 8 and fit.global_step == 15
    # Neither what came before once more, nor what would have come.
    assert rest.trained != first.trained[7:]

    other = text_only(folder / "plain")
    with pytest.raises(UserError, match=r"trained with data\.mode: stream, now it is index"):
        trainer(tmp_path, max_epochs=3).fit(
            Recorder(schedule=True), other, ckpt_path=tmp_path / "at.ckpt", weights_only=True
        )


def test_a_refusal_reaches_the_trainer_from_a_worker(folder):
    data = stream(folder, members=Members(text="tx"))
    data.setup("fit")
    found = list(data.train_dataloader()._dataset)
    assert isinstance(found[-1], Refusal) and all(
        isinstance(one.index_B, torch.Tensor) for one in found[:-1]
    )
