import json

import torch
from multimodal import text_only
from shard_files import write_tar

from mmlight.data.dataset import Rank
from mmlight.data.members import Members


def data_of(folder, texts, **settings):
    folder.mkdir()
    write_tar(
        folder / "0.tar",
        [(f"{n}.json", json.dumps({"text": text}).encode()) for n, text in enumerate(texts)],
    )
    members = Members(text="json:text")
    data = text_only(folder, members=members, **settings)
    data.reads = ("text",)
    data.setup("fit")
    return data


def test_another_sample_takes_the_place_of_one_whose_text_is_null_or_blank(tmp_path):
    data = data_of(tmp_path / "d", ["a", None, "  ", "b"], global_batch_size=4)
    batch = data.train_batches(Rank())[0]
    assert set(batch.captions) == {"a", "b"} and batch.valid_B.all()
    assert [(bad.reason, bad.missing) for bad in batch.bad] == [("no text", True)] * 2


def test_where_hardly_any_sample_has_one_rows_count_for_nothing(tmp_path):
    data = data_of(tmp_path / "d", ["a"] + [None] * 99, global_batch_size=100)
    batch = data.train_batches(Rank())[0]
    assert torch.equal(batch.valid_B, batch.text.present_N) and len(batch.bad) == 99
    assert 1 <= batch.valid_B.sum() < 60
    assert [bad.replaced_by for bad in batch.bad].count("") == (~batch.valid_B).sum()


def test_evaluation_leaves_an_empty_row_that_does_not_count(tmp_path):
    data = data_of(tmp_path / "d", ["a", None], global_batch_size=2)
    batch = data.batch_of("train", [0, 1])
    assert torch.equal(batch.valid_B, torch.tensor([True, False]))


def test_without_a_model_nothing_is_known_to_be_missing(tmp_path):
    data = data_of(tmp_path / "d", ["a", None], global_batch_size=2)
    data.reads = None
    assert data.batch_of("train", [0, 1]).valid_B.all()
