"""What is kept of batches is gathered over ranks and scored, with a trainer or without."""

import math
from dataclasses import replace

import lightning
import numpy as np
import torch
from ranks import run_ranks
from tasks import tiny
from torch.utils.data import DataLoader

from mmlight import comm
from mmlight.tasks.evaluation import Gatherer, Kept, Rows, evaluate


def test_batches_weigh_by_their_samples_and_nothing_has_no_mean():
    losses = Gatherer()
    assert losses.loss() == {}
    losses.add_loss(torch.tensor(3.0), torch.tensor([True, True, True]))
    losses.add_loss(torch.tensor(1.0), torch.tensor([True, False, False]))
    losses.add_loss(torch.tensor(math.nan), torch.tensor([False, False, False]))
    assert losses.loss() == {"loss": 2.5}
    losses.add_loss(torch.tensor(math.nan), torch.tensor([True]))
    assert math.isnan(losses.loss()["loss"])


def _loss_on_rank() -> dict[str, float]:
    losses = Gatherer()
    # The loss is of both ranks' samples; the second rank's last batch has none.
    losses.add_loss(torch.tensor(4.0), torch.tensor([True, True]))
    losses.add_loss(torch.tensor(1.0), torch.tensor([comm.rank() == 0, False]))
    return losses.loss()


def test_ranks_weigh_by_all_samples(tmp_path):
    for scores in run_ranks(_loss_on_rank, world_size=2, folder=tmp_path):
        assert scores == {"loss": (4 * 4.0 + 1.0) / 5}


def _tables() -> list:
    gatherer, world = Gatherer(), comm.world_size()
    # Samples are dealt out in turn; the last batch of each rank ends with a filler.
    for start in range(0, 8, 4):
        mine = range(start + comm.rank(), start + 4, world)
        batch = tiny.batch(len(mine), captions=2)
        batch = replace(
            batch,
            index_B=torch.tensor(list(mine)),
            valid_B=torch.tensor([number != 7 for number in mine]),
            keys=[f"k{number}" for number in mine],
        )
        texts = Rows(
            {"text": [f"{n}{letter}" for n in mine for letter in "ab"]}, row_N=batch.text.item_N
        )
        samples = Rows(
            {"key": batch.keys, "square": batch.index_B[:, None] ** 2},
            keep_N=batch.index_B != 2,
        )
        gatherer.add(batch, Kept({"samples": samples, "texts": texts}))
    samples, texts = gatherer.tables()["samples"], gatherer.tables()["texts"]
    return [samples.sample_N, samples["key"], samples["square"], texts.sample_N, texts["text"]]


def test_rows_come_in_the_order_of_samples_from_any_number_of_ranks(tmp_path):
    sample_N, keys, square_N1, of_text_N, texts = alone = _tables()
    assert sample_N.tolist() == [0, 1, 3, 4, 5, 6] and keys == ["k0", "k1", "k3", "k4", "k5", "k6"]
    assert square_N1[:, 0].tolist() == [0, 1, 9, 16, 25, 36]
    assert of_text_N.tolist() == [n for n in range(7) for _ in "ab"]
    assert texts == [f"{n}{letter}" for n in range(7) for letter in "ab"]
    for rank in run_ranks(_tables, world_size=2, folder=tmp_path):
        assert str(rank) == str(alone)


def test_scores_without_a_trainer_are_those_of_validation(tmp_path):
    task = tiny.task()
    batches = [tiny.batch(seed=seed) for seed in range(2)]
    batches[1] = replace(batches[1], index_B=batches[1].index_B + 6)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    (validated,) = trainer.validate(task, DataLoader(batches, batch_size=None), verbose=False)
    task.train()
    scores = evaluate(task, batches)
    # what Lightning logs is rounded to float32
    assert {f"val/{name}": float(np.float32(value)) for name, value in scores.items()} == validated
    assert task.training and task.evaluation.stage == "val"
    assert len(task.evaluation.keys) == 12
