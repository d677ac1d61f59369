import copy
import multiprocessing

import pytest
import torch
from multimodal import Recorder, same, shard, text_only, trainer, with_images
from torch.utils.data import DataLoader

from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "0.tar", range(12), broken=[5])
    shard(folder / "1.tar", range(12, 22))
    return folder


def everything(folder, **settings):
    data = text_only(
        folder,
        members=Members(image="jpg", text="txt", audio="flac", label="cls", fields={"n": "json:n"}),
        val=Split(str(folder / "*.tar")),
        image=ImageSettings(size=8),
        text=TextSettings(ByteTokenizer()),
        **settings,
    )
    data.setup("fit")
    return data


def test_workers_give_the_same_batches_byte_for_byte(folder):
    found = []
    for num_workers in (0, 2):
        data = everything(folder, num_workers=num_workers)
        loader = data.train_dataloader()
        assert len(loader) == 5
        batches = list(loader)
        batches += list(data.val_dataloader())
        found.append(copy.deepcopy(batches))
    assert len(found[0]) == len(found[1]) == 5 + 6
    assert all(same(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_iteration_begins_at_the_position(folder, num_workers):
    data = text_only(folder, num_workers=num_workers)
    data.setup("fit")
    reference = [data.train_dataloader().dataset[number].index_B.tolist() for number in range(15)]
    loader = data.train_dataloader()
    for start in (3, 0, 8):
        data._position.go_to(start)
        numbers = [batch.index_B.tolist() for batch in loader]
        assert numbers == reference[start : start + 5]


def test_an_iterator_that_is_dropped_costs_nothing(folder):
    data = text_only(folder, num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    iter(loader)
    assert loader._stream is None  # no worker was started


def test_loaders_leave_the_global_random_numbers_alone(folder):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    data = everything(folder)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.rand(1), expected)


def test_loaders_are_no_data_loaders(folder):
    # Lightning would put a DistributedSampler into one
    data = everything(folder)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert not isinstance(loader, DataLoader)


def test_evaluation_can_be_repeated(folder):
    data = everything(folder, num_workers=1)
    loader = data.val_dataloader()
    first, second = ([batch.index_B.tolist() for batch in loader] for _ in range(2))
    assert first == second and sum(map(len, first)) >= 22


@pytest.mark.parametrize("ends", ["done", "failed"])
def test_no_worker_outlives_the_trainer(folder, tmp_path, ends):
    data = with_images(
        folder, val=Split(str(folder)), num_workers=2, max_bad_fraction=0.05 * (ends == "done")
    )
    fit = trainer(tmp_path, max_epochs=2, limit_train_batches=3, limit_val_batches=1)
    if ends == "done":
        fit.fit(Recorder(), data)
    else:
        with pytest.raises(UserError, match="cannot be decoded"):
            fit.fit(Recorder(), data)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_mistake_found_by_a_worker_is_one_line(tmp_path, num_workers):
    shard(tmp_path / "s.tar", range(4), broken=range(4))
    data = with_images(tmp_path, num_workers=num_workers)
    data.setup("fit")
    loader = data.train_dataloader()
    with pytest.raises(UserError, match="cannot be decoded either") as caught:
        next(iter(loader))
    loader.close()
    assert "\n" not in str(caught.value)
