import numpy as np
import pytest
from multimodal import Recorder, sample_members, text_only, trainer, with_images
from shard_files import sound, write_tar
from test_data_resume import SaveAt

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.members import Members
from mmlight.data.order.bucket import Bucketed
from mmlight.data.order.cursor import Order
from mmlight.data.order.mixture import Mixture
from mmlight.errors import UserError

LENGTHS = np.random.default_rng(0).uniform(1, 10, 500).astype(np.float32)


def plain(seed=0):
    return Order([200, 300], global_batch=16, seed=seed)


def bucketed(seed=0, order=None, lengths=LENGTHS):
    return Bucketed(order or plain(seed), lengths, global_batch=16, pool_batches=4, seed=seed)


def epoch_of(order, epoch):
    return np.stack([order.batch(epoch, step) for step in range(order.steps_per_epoch)])


def padding(batches):
    lengths = LENGTHS[batches]
    return 1 - lengths.sum() / (lengths.max(1).sum() * batches.shape[1])


def test_an_epoch_holds_the_same_samples_as_without_buckets():
    for epoch in range(3):
        ours, theirs = epoch_of(bucketed(), epoch), epoch_of(plain(), epoch)
        assert sorted(ours.ravel()) == sorted(theirs.ravel())


def test_batches_hold_similar_lengths():
    assert padding(epoch_of(plain(), 0)) > 0.35
    assert padding(epoch_of(bucketed(), 0)) < 0.2


def test_every_epoch_and_seed_has_other_batches_in_an_order_that_is_drawn():
    first, second = epoch_of(bucketed(), 0), epoch_of(bucketed(), 1)
    other = epoch_of(bucketed(seed=1), 0)
    as_sets = lambda batches: {frozenset(batch) for batch in batches.tolist()}  # noqa: E731
    assert not as_sets(first) & as_sets(second)
    assert not as_sets(first) & as_sets(other)
    means = LENGTHS[first].mean(1)
    assert not (np.diff(means[:4]) > 0).all() or not (np.diff(means[4:8]) > 0).all()


def test_any_step_is_the_same_whatever_was_asked_before():
    walked = epoch_of(bucketed(), 2)
    for step in (30, 0, 17, 29):
        assert np.array_equal(bucketed().batch(2, step), walked[step])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_batches_joined_are_the_batch(world_size):
    order = bucketed()
    parts = [order.batch(1, 5, rank=r, world_size=world_size) for r in range(world_size)]
    assert np.array_equal(np.concatenate(parts), bucketed().batch(1, 5))


def test_a_mixture_is_sorted_too():
    mixture = Mixture([[200], [300]], weights=[1, 3], global_batch=16, seed=0)
    ours = epoch_of(bucketed(order=mixture), 0)
    assert sorted(ours.ravel()) == sorted(epoch_of(mixture, 0).ravel())
    assert padding(ours) < padding(epoch_of(mixture, 0)) / 2


def test_samples_of_unknown_length_come_last():
    lengths = LENGTHS.copy()
    lengths[::50] = np.nan
    batches = epoch_of(bucketed(lengths=lengths), 0)
    assert sorted(batches.ravel()) == sorted(epoch_of(plain(), 0).ravel())
    for batch in batches:
        unknown = np.isnan(lengths[batch])
        assert (np.diff(unknown.astype(int)) >= 0).all()


def test_a_pool_of_one_batch_and_unequal_ranks_are_refused():
    with pytest.raises(UserError, match="bucket_batches is 1"):
        Bucketed(plain(), LENGTHS, global_batch=16, pool_batches=1, seed=0)
    with pytest.raises(UserError, match="3 ranks can't share"):
        bucketed().check_world(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    members = []
    for number in range(40):
        sample = sample_members(number) | {"txt": b"x" * (1 + number * 7 % 40)}
        sample["flac"] = sound(0.05 + 0.01 * (number * 11 % 40))
        members += [(f"{number:04d}.{name}", data) for name, data in sample.items()]
    write_tar(folder / "0.tar", members)
    return folder


def train(folder, path, data, **options):
    model = Recorder()
    trainer(path, max_epochs=2, **options).fit(model, data, weights_only=True)
    return model.trained


def test_training_on_text_takes_batches_of_similar_length(folder, tmp_path):
    data = text_only(folder, bucket_batches=5)
    data.setup("fit")
    spans = []
    for batch in data.train_dataloader():
        lengths = batch.text.mask_NL.sum(1)
        spans.append(int(lengths.max() - lengths.min()))
    assert len(spans) == 10 and np.mean(spans) < 10


def test_training_on_sound_sorts_by_its_duration(folder):
    members = Members(text="txt", audio="flac")
    data = text_only(folder, members=members, bucket_batches=10, audio=AudioSettings(8000))
    data.setup("fit")
    spans = [int(b.audio.length_B.max() - b.audio.length_B.min()) for b in data.train_dataloader()]
    assert max(spans) <= 8000 * 0.04


def test_a_resumed_run_sees_the_same_batches(folder, tmp_path):
    whole = train(folder, tmp_path, text_only(folder, bucket_batches=4))
    keep = SaveAt(tmp_path / "at.ckpt", batches=13)
    train(folder, tmp_path, text_only(folder, bucket_batches=4), callbacks=[keep])
    model = Recorder()
    trainer(tmp_path, max_epochs=2).fit(
        model,
        text_only(folder, bucket_batches=4),
        ckpt_path=tmp_path / "at.ckpt",
        weights_only=True,
    )
    assert model.trained == whole[13:]
    with pytest.raises(UserError, match="order"):
        trainer(tmp_path, max_epochs=2).fit(
            Recorder(),
            text_only(folder, bucket_batches=5),
            ckpt_path=tmp_path / "at.ckpt",
            weights_only=True,
        )


def test_images_alone_have_nothing_to_sort_by(folder):
    with pytest.raises(UserError, match="bucket_batches has no effect"):
        with_images(folder, bucket_batches=4).setup("fit")
