"""Interrupted and resumed training sees the samples that uninterrupted training sees."""

import warnings
from dataclasses import replace

import lightning
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from multimodal import Recorder, shard, text_only, trainer

from mmlight.data.splits.split import Split
from mmlight.errors import UserError

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    shard(folder / "0.tar", range(12))
    shard(folder / "1.tar", range(12, 22))
    return folder


def data(folder, **settings):
    return text_only(folder, val=Split(str(folder / "0.tar")), **settings)


class SaveAt(lightning.Callback):
    """Writes a checkpoint after so many batches, within the hook where Lightning writes its own."""

    def __init__(self, path, *, batches: int) -> None:
        self.path = path
        self.batches = batches
        self.seen = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen += 1
        if self.seen == self.batches:
            trainer.save_checkpoint(self.path)


def interrupt_and_resume(
    folder, tmp_path, *, after: int, schedule=False, workers=(0, 0), **options
):
    """Train 3 epochs; again, but stopped `after` batches; and on from there. Return all three."""
    models = [Recorder(schedule=schedule) for _ in range(3)]
    whole, first, second = models
    options = {"max_epochs": 3} | options
    trainer(tmp_path, **options).fit(whole, data(folder, num_workers=workers[0]))
    path = tmp_path / "at.ckpt"
    keep = SaveAt(path, batches=after)
    trainer(tmp_path, callbacks=[keep], **options).fit(first, data(folder, num_workers=workers[0]))
    assert first.trained == whole.trained
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*before the epoch ended.*")
        trainer(tmp_path, **options).fit(
            second, data(folder, num_workers=workers[1]), ckpt_path=path, weights_only=True
        )
    return whole.trained, second.trained, second


@pytest.mark.parametrize("workers", [(0, 0), (2, 2), (2, 0), (0, 1)])
@pytest.mark.parametrize("after", [3, 5, 7])
def test_resumed_at_any_step(folder, tmp_path, after, workers):
    whole, rest, _ = interrupt_and_resume(folder, tmp_path, after=after, workers=workers)
    assert len(whole) == 3 * STEPS_PER_EPOCH
    assert rest == whole[after:]


@pytest.mark.parametrize("after", [1, 5, 6, 11])
@pytest.mark.parametrize(
    "options",
    [
        {"schedule": True},
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 2, "schedule": True, "val_check_interval": 2},
        {"val_check_interval": 3},
        {"max_epochs": -1, "max_steps": 15},
        {"max_epochs": -1, "max_steps": 15, "schedule": True, "val_check_interval": 0.4},
        {"limit_train_batches": 4, "limit_val_batches": 0},
        {"num_sanity_val_steps": 1, "check_val_every_n_epoch": 2},
    ],
    ids=lambda options: ",".join(options),
)
def test_resumed_under_every_trainer_setting(folder, tmp_path, after, options):
    whole, rest, _ = interrupt_and_resume(folder, tmp_path, after=after, **options)
    assert rest == whole[after:]


@pytest.mark.parametrize("save", [{"every_n_epochs": 1}, {"every_n_train_steps": 2}])
@pytest.mark.parametrize("on_epoch_end", [True, None])
def test_resumed_from_every_checkpoint_that_lightning_writes(folder, tmp_path, save, on_epoch_end):
    keep = ModelCheckpoint(
        tmp_path / "kept", save_top_k=-1, save_on_train_epoch_end=on_epoch_end, **save
    )
    options = {"max_epochs": 3, "val_check_interval": 3, "enable_checkpointing": True}
    whole = Recorder(schedule=True)
    trainer(tmp_path, callbacks=[keep], **options).fit(whole, data(folder))
    paths = sorted((tmp_path / "kept").glob("*.ckpt"))
    assert len(paths) >= 3
    for path in paths:
        rest = Recorder(schedule=True)
        trainer(tmp_path, max_epochs=3, val_check_interval=3).fit(
            rest, data(folder), ckpt_path=path, weights_only=True
        )
        assert rest.trained == whole.trained[len(whole.trained) - len(rest.trained) :]
        step = int(path.stem.rpartition("step=")[2])
        assert len(rest.trained) == 15 - step


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_from_a_checkpoint_written_because_of_an_exception(folder, tmp_path, num_workers):
    whole = Recorder()
    trainer(tmp_path, max_epochs=2).fit(whole, data(folder))
    stopped = Recorder(fail_at=7)  # within the training step: this batch comes again
    keep = ModelCheckpoint(tmp_path / "kept", save_on_exception=True)
    with pytest.raises(RuntimeError, match="as asked"):
        trainer(tmp_path, max_epochs=2, callbacks=[keep], enable_checkpointing=True).fit(
            stopped, data(folder, num_workers=num_workers)
        )
    (path,) = (tmp_path / "kept").glob("*step=7.ckpt")
    rest = Recorder()
    trainer(tmp_path, max_epochs=2).fit(
        rest, data(folder, num_workers=num_workers), ckpt_path=path, weights_only=True
    )
    assert stopped.trained + rest.trained == whole.trained


def test_resumed_twice(folder, tmp_path):
    whole = Recorder()
    trainer(tmp_path, max_epochs=3).fit(whole, data(folder))
    seen, ckpt = [], None
    for stop in (4, 9, 15):
        part = Recorder()
        fit = trainer(tmp_path, max_steps=stop, max_epochs=-1)
        fit.fit(part, data(folder), ckpt_path=ckpt, weights_only=True)
        ckpt = tmp_path / f"{stop}.ckpt"
        fit.save_checkpoint(ckpt)
        seen += part.trained
    assert seen == whole.trained


def test_a_mixture_resumes(folder, tmp_path):
    def mixed():
        train = [Split(str(folder / "0.tar")), Split(str(folder / "1.tar"), weight=2.0)]
        return text_only(folder, train=train)

    whole, rest = Recorder(), Recorder()
    keep = SaveAt(tmp_path / "at.ckpt", batches=7)
    trainer(tmp_path, max_epochs=3, callbacks=[keep]).fit(whole, mixed())
    trainer(tmp_path, max_epochs=3).fit(
        rest, mixed(), ckpt_path=tmp_path / "at.ckpt", weights_only=True
    )
    assert rest.trained == whole.trained[7:]


@pytest.fixture(scope="module")
def state(folder):
    module = data(folder)
    module.setup("fit")
    module._position.go_to(7)
    return module.state_dict()


def test_the_state_is_two_numbers_and_what_must_be_the_same(folder, state):
    assert (state["epoch"], state["step"]) == (1, 2)
    again = data(folder)
    again.setup("fit")
    again.load_state_dict(state)
    assert again.state_dict() == state


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1}, r"checkpoint: data.seed was 0 and is 1\. "),
        ({"global_batch_size": 2}, "data.global_batch_size was 4 and is 2; data.num_lanes was 4"),
        ({"window": 8}, r"data.window was 4096 and is 8\. "),
        ({"num_lanes": 2, "seed": 7}, "data.seed was 0 and is 7; data.num_lanes was 4 and is 2"),
        (
            {"train": ["0.tar"]},
            r"train has changed: removed 1 \(10 samples\), 22 samples in 2 shards then, 12 in 1",
        ),
        ({"train": ["1.tar", "0.tar"]}, "the shards come in another order, from 1 on"),
        (
            {"limit": 15},
            "other samples are chosen of 1 shard, 22 samples in 2 shards then, 15 in 2",
        ),
        ({"bucket_batches": 2}, "data.bucket_batches was None and is 2"),
        ({"mixed": True}, "weight of the sources of data.train was None and is .0.5, 0.5."),
        (
            {"mixed": True, "more": True},
            "had 1 source and has 2, other samples are chosen of 1 shard, 22",
        ),
    ],
    ids=str,
)
def test_another_order_is_refused_with_what_differs(folder, state, settings, message):
    given = dict(settings)
    if names := given.pop("train", None):
        given["train"] = Split([str(folder / name) for name in names])
    if limit := given.pop("limit", None):
        given["train"] = Split(str(folder), limit=limit)
    if given.pop("mixed", False):
        first, second = (Split(str(folder / f"{number}.tar")) for number in (0, 1))
        given["train"] = [first, replace(second, limit=9 if given.pop("more", False) else None)]
    other = data(folder, **given)
    other.setup("fit")
    with pytest.raises(UserError, match=message) as caught:
        other.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert "--data.allow_changed true" in str(caught.value)


def test_rewritten_and_added_shards_are_named(folder, state, tmp_path):
    shard(tmp_path / "0.tar", range(12))
    shard(tmp_path / "1.tar", range(12, 21))
    shard(tmp_path / "2.tar", range(30, 40))
    other = data(tmp_path)
    other.setup("fit")
    with pytest.raises(UserError) as caught:
        other.load_state_dict(state)
    assert (
        "data.train has changed: rewritten 1 (9 samples), added 2 (10 samples), 22 samples in 2 "
        "shards then, 31 in 3 now" in str(caught.value)
    )


def test_a_state_without_its_shards_is_refused_too(folder, state):
    older = {key: value for key, value in state.items() if key != "sources"}
    other = data(folder)
    other.setup("fit")
    other.load_state_dict(older)
    other = data(folder, train=Split(str(folder / "0.tar")))
    other.setup("fit")
    with pytest.raises(UserError, match="the training shards have changed, or their chosen"):
        other.load_state_dict(older)


def test_changed_data_is_gone_on_with_knowingly(folder, tmp_path, capsys):
    options = {"max_epochs": 2}
    keep = SaveAt(tmp_path / "at.ckpt", batches=3)
    trainer(tmp_path, callbacks=[keep], **options).fit(Recorder(), data(folder))
    changed = {"seed": 9, "train": Split(str(folder / "[01].tar"), limit=19)}
    whole, rest = Recorder(), Recorder()
    trainer(tmp_path, **options).fit(whole, data(folder, **changed))
    capsys.readouterr()
    module = data(folder, allow_changed=True, **changed)
    trainer(tmp_path, **options).fit(
        rest, module, ckpt_path=tmp_path / "at.ckpt", weights_only=True
    )
    assert len(whole.trained) == 8
    assert rest.trained == whole.trained[3:]
    assert module.changed[1] == "data.seed was 0 and is 9"
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "allow_changed" in line]
    assert "22 samples in 2 shards then, 19 in 2 now; data.seed was 0 and is 9" in said


def test_an_epoch_that_is_shorter_by_now_ends(folder, tmp_path):
    keep = SaveAt(tmp_path / "at.ckpt", batches=4)
    trainer(tmp_path, max_epochs=2, callbacks=[keep]).fit(Recorder(), data(folder))
    module = data(folder, allow_changed=True, train=Split(str(folder / "0.tar")))
    whole, rest = Recorder(), Recorder()
    shorter = data(folder, train=Split(str(folder / "0.tar")))
    trainer(tmp_path, max_epochs=2).fit(whole, shorter)
    trainer(tmp_path, max_epochs=2).fit(
        rest, module, ckpt_path=tmp_path / "at.ckpt", weights_only=True
    )
    assert rest.trained[:3] == whole.trained[3:]


def test_moved_shards_are_the_same_data(folder, state, tmp_path):
    for path in folder.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    other = data(tmp_path, num_workers=1, eval_batch_size=2)
    other.setup("fit")
    other.load_state_dict(state)
    assert other._position.next_batch() == 7


def test_an_evaluation_takes_any_checkpoint(folder, state):
    other = text_only(folder, train=None, val=Split(str(folder / "0.tar")), seed=5)
    other.setup("validate")
    other.load_state_dict(state)
