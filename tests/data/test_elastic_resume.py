"""A run that is stopped goes on with the same batches on other numbers of processes and workers."""

import multiprocessing
import os
from functools import partial

import pytest
import torch.distributed as dist
from multimodal import Recorder, text_only, trainer
from ranks import run_ranks
from shard_files import text_shard
from test_data_resume import SaveAt

from mmlight.data.members import Members
from mmlight.data.splits.split import Split

GLOBAL_BATCH, STEPS = 8, 15
# Where it is stopped, and with how many processes and workers it came there.
PARTS = ((3, 1, 2), (7, 2, 1), (11, 4, 0), (STEPS, 1, 0))
MID_EPOCH = {"max_epochs": 3, "limit_train_batches": 6, "val_check_interval": 2}
ACCUMULATED = {"max_epochs": 2, "accumulate_grad_batches": 2, "val_check_interval": 5}
BY_STEPS = {"max_epochs": -1, "max_steps": STEPS, "val_check_interval": 0.5}
MIXED = {"weights": (0.3, 0.7)}
CASES = {
    "lanes": ({"window": 8}, MID_EPOCH),
    "buckets": ({"bucket_batches": 3}, ACCUMULATED),
    "mixture": (MIXED, BY_STEPS),
    "mixture in buckets": ({**MIXED, "bucket_batches": 3}, MID_EPOCH),
    "one source a batch": ({"weights": ({0: 0.3, 6: 0.9}, 0.7), "batches": "one_source"}, BY_STEPS),
}
PRELOAD = ("lightning.pytorch", "mmlight.data.module")
# Its processes import Lightning; how batches are shared out is in the fast suite.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class StopAt(SaveAt):
    """Ends training with the checkpoint."""

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        trainer.should_stop = trainer.should_stop or self.seen == self.batches


def data(folder, settings, *, num_workers):
    settings = dict(settings)
    train = Split(str(folder / "[0-2].tar"))
    if weights := settings.pop("weights", None):
        names = ("0.tar", "[12].tar")
        train = [
            Split(str(folder / name), weight=weight)
            for name, weight in zip(names, weights, strict=True)
        ]
    return text_only(
        folder,
        members=Members(text="txt"),
        train=train,
        val=Split(str(folder / "3.tar")),
        global_batch_size=GLOBAL_BATCH,
        num_workers=num_workers,
        seed=3,
        **settings,
    )


def run_cases(folder, *, start, stop, num_workers):
    """Train each case from a checkpoint (or from the beginning) on this rank."""
    found = {}
    ranked = dist.is_initialized()
    if ranked:
        os.environ.update(LOCAL_RANK=str(dist.get_rank()))
        # As workers of a rank start elsewhere; by a server they would import all of it again.
        multiprocessing.set_start_method("fork", force=True)
    for name, (settings, options) in CASES.items():
        model, here = Recorder(schedule=True), folder / name
        strategy = {"strategy": "ddp", "devices": dist.get_world_size()} if ranked else {}
        keep = StopAt(here / f"{stop}.ckpt", batches=stop - start)
        fit = trainer(here, use_distributed_sampler=False, callbacks=[keep], **options, **strategy)
        ckpt = {"ckpt_path": here / f"{start}.ckpt", "weights_only": True} if start else {}
        fit.fit(model, data(folder, settings, num_workers=num_workers), **ckpt)
        found[name] = [model.trained, model.validated]
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What an uninterrupted run of each case sees, and what each rank of each part does."""
    folder = tmp_path_factory.mktemp("elastic")
    for number, size in enumerate((37, 29, 30, 11)):
        text_shard(folder / f"{number}.tar", size, first=100 * number, size=20 + 9 * number)
    whole = run_cases(folder, start=0, stop=STEPS, num_workers=0)
    seen, start = [], 0
    for stop, world_size, num_workers in PARTS:
        call = partial(run_cases, folder, start=start, stop=stop, num_workers=num_workers)
        if world_size == 1:
            seen.append([call()])
        else:
            meet = folder / f"ranks-{stop}"
            meet.mkdir()
            seen.append(run_ranks(call, world_size=world_size, folder=meet, preload=PRELOAD))
        start = stop
    return whole, seen


@pytest.mark.parametrize("case", CASES)
def test_batches_are_those_of_one_process(parts, case):
    whole, seen = parts
    batches = []
    for ranks in seen:
        steps = [len(trained) for trained, _ in (rank[case] for rank in ranks)]
        assert len(set(steps)) == 1
        batches += [
            [sample for rank in ranks for sample in rank[case][0][n]] for n in range(steps[0])
        ]
    assert len(batches) == STEPS
    assert batches == whole[case][0]


@pytest.mark.parametrize("case", CASES)
def test_each_validation_sees_every_sample_once(parts, case):
    for ranks in parts[1]:
        found = sorted(number for rank in ranks for number in rank[case][1])
        times = len(found) // 11
        assert found == sorted(list(range(11)) * times)
