"""A run that is sharded, averaged and sharded again is the run of one process."""

import json

import cli_data
import pytest

from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import read_checkpoint
from mmlight.tasks.load import load_task

STEPS = 12


def train(path, folder, *arguments):
    process = cli_data.start(
        *("fit", "-c", path, "--run.root", folder, "--run.id", "it", *arguments), cwd=folder
    )
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    return cli_data.only_run(folder)


def same(one, other):
    """Compare two plain values, tensors to 1e-5."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            same(first, second)
    elif hasattr(one, "shape"):
        assert (one.float() - other.float()).abs().max() < 1e-5
    else:
        assert one == pytest.approx(other)


@pytest.mark.slow
def test_sharded_then_averaged_then_sharded_equals_one_process(tmp_path):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    values = cli_data.changed(
        values,
        {
            "trainer.max_steps": STEPS,
            "trainer.gradient_clip_val": 0.5,
            "trainer.accumulate_grad_batches": 2,
            "model.init_args.optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            "data.init_args.global_batch_size": 4,
            "data.init_args.eval_batch_size": 3,
            "run.test": True,
            "zero_shot": {"templates": ["{} 1"]},
            "ema": {"decay": 0.9},
        },
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = train(path, tmp_path / "one")
    whole = '{"class_path": "mmlight.trainer.strategies.Fsdp"'
    whole += ', "init_args": {"sharded_checkpoints": false}}'
    for steps, strategy in ((4, "fsdp"), (8, "ddp"), (10, whole), (STEPS, "fsdp")):
        resume = () if steps == 4 else ("--ckpt_path", "last")
        two = train(
            path,
            tmp_path / "two",
            *("--trainer.devices", "2", "--trainer.max_steps", str(steps)),
            *("--trainer.strategy", strategy, *resume),
        )
        newest = Run(two).newest_checkpoint()
        assert newest.name == f"step-{steps:08d}.ckpt"
        assert newest.is_dir() == (strategy == "fsdp")
        assert not list(newest.parent.glob(".*.part"))
    wanted = cli_data.losses(one)
    assert sorted(wanted) == list(range(1, STEPS + 1))
    assert cli_data.losses(two) == {s: pytest.approx(v, abs=1e-5) for s, v in wanted.items()}
    ours, theirs = (read_checkpoint(Run(run).newest_checkpoint()) for run in (one, two))
    for key in ("state_dict", "optimizer_states", "ema", "lr_schedulers"):
        same(ours[key], theirs[key])
    final, other = (json.loads((run / "summary.json").read_text())["final"] for run in (one, two))
    scores = {k: v for k, v in final.items() if k.startswith(("val/", "test/")) and "loss" not in k}
    assert len(scores) > 30
    assert {k: other[k] for k in scores} == pytest.approx(scores, abs=1e-5)
    assert load_task(two).embed_dim == 8
