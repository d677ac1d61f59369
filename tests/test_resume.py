"""A run that is interrupted and continued equals one that was not, bit for bit."""

import json
import os
import random
import signal
import time

import cli_data
import pytest
import torch
from forked_runs import ForkedRuns
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from tasks import token_experiments

from mmlight.trainer.checkpoint_files import AtomicCheckpointIO
from mmlight.trainer.ema import Ema

MODEL = "model.init_args."
IMAGE = f"{MODEL}towers.image.encoder.init_args."


class Killed(Exception):
    pass


class Kill(Callback):
    """Ends training in the middle of a batch, after `steps` steps of the optimiser."""

    def __init__(self, steps):
        self.steps = steps

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if trainer.global_step >= self.steps:
            raise Killed


def random_settings(values):
    """Everything that draws numbers in training: patch dropout, dropout, crops."""
    return cli_data.changed(
        values,
        {
            f"{IMAGE}patch_drop_rate": 0.25,
            f"{IMAGE}drop_path_rate": 0.2,
            f"{MODEL}towers.text.encoder.init_args.kwargs": {"attention_dropout": 0.2},
            "data.init_args.image": {"size": 16, "scale": [0.5, 1.0], "flip_probability": 0.5},
        },
    )


def interrupt_and_continue(values, folder, *, kill_after, make_callbacks=list):
    """Return an uninterrupted run's losses and model, and those from the checkpoint on."""
    whole = cli_data.Losses()
    model = cli_data.fit(values, folder / "whole", callbacks=[whole, *make_callbacks()])
    saving = ModelCheckpoint(
        dirpath=folder / "ckpt", filename="{step}", every_n_train_steps=3, save_top_k=-1
    )
    with pytest.raises(Killed):
        cli_data.fit(
            values, folder / "cut", callbacks=[Kill(kill_after), *make_callbacks(), saving]
        )
    newest = max((folder / "ckpt").glob("*.ckpt"), key=lambda p: int(p.stem.partition("=")[2]))
    assert newest.stem == f"step={3 * (kill_after // 3)}"
    rest = cli_data.Losses()
    continued = cli_data.fit(
        values, folder / "rest", callbacks=[rest, *make_callbacks()], ckpt_path=newest
    )
    return (whole.by_batch, model), (rest.by_batch, continued)


def assert_equal_states(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    return cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_losses_and_weights_equal_those_of_an_uninterrupted_run(values, num_workers, tmp_path):
    values = cli_data.changed(
        random_settings(values),
        {"trainer.max_steps": 12, "data.init_args.num_workers": num_workers},
    )
    whole, rest = interrupt_and_continue(values, tmp_path, kill_after=8)
    assert len(whole[0]) == 12
    assert len(rest[0]) == 6
    assert rest[0] == {place: whole[0][place] for place in list(whole[0])[6:]}
    assert_equal_states(whole[1], rest[1])


def test_average_and_accumulation_are_continued_bit_for_bit(values, tmp_path):
    values = cli_data.changed(
        random_settings(values),
        # 5 batches an epoch in pairs: each epoch ends in a step of one batch.
        {"trainer.max_steps": 8, "trainer.accumulate_grad_batches": 2},
    )
    whole, rest = interrupt_and_continue(
        values, tmp_path, kill_after=5, make_callbacks=lambda: [Ema(decay=0.9)]
    )
    later = list(whole[0])[5:]  # three steps are 2 + 2 + 1 batches
    assert rest[0] == {place: whole[0][place] for place in later}
    assert_equal_states(whole[1], rest[1])


def test_another_seed_draws_other_numbers(values, tmp_path):
    """The equalities above are not those of a run without chance."""
    values = cli_data.changed(random_settings(values), {"trainer.max_steps": 2})
    found = []
    for seed in (0, 1):
        losses = cli_data.Losses()
        task = cli_data.changed(values, {"seed_everything": seed})
        cli_data.fit(task, tmp_path, callbacks=[losses])
        found.append(losses.by_batch)
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]


def test_checkpoint_cut_short_is_passed_over(values, tmp_path):
    """A process killed while it writes leaves no file under a checkpoint's name."""
    target = tmp_path / "step-00000003.ckpt"

    class Explosive:
        def __reduce__(self):
            raise Killed

    with pytest.raises(Killed):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(9), "x": Explosive()}, target)
    assert list(tmp_path.iterdir()) == []


def finetuning(values):
    """A classifier of images and texts that is unfrozen in three stages."""
    model = cli_data.changed(values, {"model.init_args.towers.audio": None})["model"]["init_args"]
    kept = {name: model[name] for name in ("towers", "optimizer", "schedule")}
    stages = {0: "head", 4: "last 1 blocks", 8: "all"}
    return cli_data.changed(
        values,
        {
            "model": {
                "class_path": "mmlight.tasks.classification.Classification",
                "init_args": {**kept, "tuning": {"unfreeze": stages}},
            },
            "data.init_args.members": {"image": "png", "text": "txt", "label": "cls"},
            "data.init_args.audio": None,
        },
    )


@pytest.mark.parametrize("kill_after", [3, 5, 9])
def test_freezing_schedule_is_continued_bit_for_bit(values, kill_after, tmp_path):
    values = cli_data.changed(finetuning(random_settings(values)), {"trainer.max_steps": 12})
    whole, rest = interrupt_and_continue(values, tmp_path, kill_after=kill_after)
    first = 3 * (kill_after // 3)
    assert rest[0] == {place: whole[0][place] for place in list(whole[0])[first:]}
    assert_equal_states(whole[1], rest[1])
    assert whole[1].trained.summary().startswith("trains")
    assert all(p.requires_grad for p in rest[1].parameters())


# One of them in the fast suite.
@pytest.mark.parametrize(
    "kind",
    [
        "language",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("masked", *token_experiments.KINDS)
            if kind != "language"
        ),
    ],
)
def test_each_token_task_is_continued_bit_for_bit(values, kind, tmp_path):
    values = token_experiments.experiment(random_settings(values), kind)
    # Dead codes are found again after 20 steps.
    steps, kill_after = (23, 20) if kind == "codes" else (8, 5)
    values = cli_data.changed(values, {"trainer.max_steps": steps})
    whole, rest = interrupt_and_continue(values, tmp_path, kill_after=kill_after)
    first = 3 * (kill_after // 3)
    assert rest[0] == {place: whole[0][place] for place in list(whole[0])[first:]}
    assert_equal_states(whole[1], rest[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind", ["contrastive", "freezing schedule", "masked", *token_experiments.KINDS]
)
def test_killed_process_continues_bit_for_bit(values, kind, tmp_path):
    values = cli_data.changed(
        random_settings(values),
        {
            "trainer.max_steps": 60,
            "checkpoint": {"every_n_steps": 3},
            "ema": {"decay": 0.9},
            "data.init_args.num_workers": 1,
        },
    )
    if kind not in ("contrastive", "freezing schedule"):
        values = token_experiments.experiment(values, kind)
    if kind == "freezing schedule":
        stages = {0: "head", 15: "last 1 blocks", 30: "all"}
        values = cli_data.changed(
            finetuning(values), {"model.init_args.tuning": {"unfreeze": stages}}
        )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    whole = cli_data.start("fit", "-c", path, "--run.root", tmp_path / "whole", cwd=tmp_path)
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    wanted = cli_data.losses(cli_data.only_run(tmp_path / "whole"))
    assert sorted(wanted) == list(range(1, 61))

    root = ("--run.root", tmp_path / "killed")
    step = random.randint(5, 50)
    process = cli_data.start("fit", "-c", path, *root, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        logs = list((tmp_path / "killed").rglob("metrics.jsonl"))
        if logs and len(cli_data.losses(logs[0].parent)) >= step:
            break
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run = cli_data.only_run(tmp_path / "killed")
    reached = max(cli_data.losses(run))
    assert step <= reached < 60
    assert not (run / "summary.json").exists()

    again = cli_data.start("fit", "-c", path, *root, "--ckpt_path", "last", cwd=tmp_path)
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert cli_data.only_run(tmp_path / "killed") == run
    assert cli_data.losses(run) == wanted, f"killed after step {reached}"
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_row_of_a_step_is_there_before_the_checkpoint_that_counts_it(tmp_path, monkeypatch):
    values = cli_data.changed(
        cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs"),
        {"checkpoint": {"every_n_steps": 2, "keep": 2}, "trainer.accumulate_grad_batches": 2},
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    command = ("fit", "-c", path, "--run.id", "a", "--ckpt_path", "auto")
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_die(*args, **kwargs):
        save(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_die)
    for _ in range(2):
        with pytest.raises(Killed):
            cli_data.run_in_process(*command)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
    assert cli_data.run_in_process(*command) == 0
    run = tmp_path / "runs/tiny/a"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]


def last_state(run):
    (path,) = run.glob("checkpoints/step-00000060.ckpt")
    return torch.load(path, weights_only=True)


def different(one, other, path=""):
    """Return the places at which two states differ."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        return [p for key in one for p in different(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [p for n, pair in pairs for p in different(*pair, f"{path}/{n}")]
    return [] if one == other else [path]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_run_killed_many_times_between_two_steps_continues_bit_for_bit(values, tmp_path):
    """Accumulation, checkpoints by the clock and averaged weights, 20 kills at any moment."""
    values = cli_data.changed(
        random_settings(values),
        {
            "trainer.max_steps": 60,
            "trainer.accumulate_grad_batches": 4,
            "trainer.val_check_interval": 3,
            "trainer.callbacks": [{"class_path": f"{Slow.__module__}.{Slow.__name__}"}],
            "checkpoint": {"every_n_minutes": 0.003, "keep": 2},
            "ema": {"decay": 0.9},
            "data.init_args.num_workers": 1,
        },
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    log = tmp_path / "log"
    modules = ["mmlight.tasks.contrastive", "mmlight.encoders.mel_timm", "mmlight.encoders.hf_text"]
    runs = ForkedRuns(cwd=tmp_path, log=log, modules=modules)

    def start(name):
        root = ("--run.root", tmp_path / name, "--run.id", "a", "--ckpt_path", "auto")
        return runs.start("fit", "-c", path, *root)

    start("whole")
    assert runs.wait() == 0, log.read_text()
    run = tmp_path / "killed/tiny/a"
    steps = []
    for kill in range(20):
        pid = start("killed")
        # Two steps on from where the last one was killed, most of which were in a checkpoint.
        deadline = time.monotonic() + 200
        while reached(run) < 2 * kill + 1:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        assert runs.wait() == -signal.SIGKILL, log.read_text()
        steps.append(reached(run))
    start("killed")
    assert runs.wait() == 0, log.read_text()
    runs.close()
    print("killed after steps", steps)
    wanted = tmp_path / "whole/tiny/a"
    assert cli_data.losses(run) == cli_data.losses(wanted)
    one, other = last_state(wanted), last_state(run)
    for state in (one, other):  # paths, and the time of the clock
        for key in [key for key in state["callbacks"] if "Checkpoint" in key]:
            del state["callbacks"][key]
    assert different(one, other) == []
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [
        (e["step"], name) for e in entries for name in e if "loss" in name and "_ms" not in name
    ]
    assert len(logged) == len(set(logged))
    assert len(list(run.glob("checkpoints/*"))) == 2


class Slow(Callback):
    """Has a step take long enough to be killed in the middle of."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.05)


def reached(run):
    return max(cli_data.losses(run), default=0)
