"""Answers of samples: read, drawn, tokenised beside captions, refused where they are missing."""

import json

import pytest
import suite_data

from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

QUESTIONS = [
    {"question": "which colour?", "answer": ["red", "crimson"], "rejected": "blue"},
    {"question": "how many?", "answer": "two", "rejected": "three"},
    {"question": "where?"},
]


@pytest.fixture
def shards(tmp_path):
    samples = {str(n): {"json": json.dumps(one).encode()} for n, one in enumerate(QUESTIONS)}
    suite_data.write_tar(tmp_path / "s/00000.tar", samples)
    return str(tmp_path / "s")


def module(shards, **more):
    members = {"text": "json:question", "answer": "json:answer", "rejected": "json:rejected"}
    return ShardDataModule(
        members=Members(**members | more),
        train=Split(shards),
        val=Split(shards),
        text=TextSettings(tokenizer=ByteTokenizer()),
        global_batch_size=3,
        eval_batch_size=3,
        num_workers=0,
    )


def test_evaluation_has_all_answers_of_a_sample(shards):
    data = module(shards)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert batch.captions == ["which colour?", "how many?", "where?"]
    assert batch.answers == ["red", "crimson", "two", ""]
    assert batch.answer.item_N.tolist() == [0, 0, 1, 2]
    assert batch.answer.present_N.tolist() == [True, True, True, False]
    assert batch.rejected.item_N.tolist() == [0, 1, 2]
    decoded = [ByteTokenizer().decode(row.tolist()) for row in batch.answer.token_ids_NL]
    assert decoded == batch.answers


def test_training_draws_one_answer_by_epoch_and_sample(shards):
    data = module(shards)
    data.setup("fit")
    batches = data.train_batches(data._rank())
    drawn = [set(batches[step].answers) for step in range(20)]
    assert all(len(batches[step].answers) == 3 for step in range(20))
    assert {"red", "crimson"} <= set.union(*drawn)
    assert drawn == [set(batches[step].answers) for step in range(20)]


def test_rejected_answers_need_answers():
    with pytest.raises(UserError, match=r"members.rejected needs members.answer"):
        Members(text="txt", rejected="json:worse")


def test_an_answer_that_no_sample_has_is_refused(shards):
    with pytest.raises(UserError, match=r"json:reply.*keys there are answer, question"):
        module(shards, answer="json:reply").setup("fit")
