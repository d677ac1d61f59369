"""Two processes give what one gives with the same global batch."""

import json

import cli_data
import pytest
import torch

STEPS = 20


def train(path, folder, *arguments):
    process = cli_data.start(
        *("fit", "-c", path, "--run.root", folder / "runs", *arguments), cwd=folder
    )
    _, error = process.communicate(timeout=250)
    assert process.returncode == 0, error
    return cli_data.only_run(folder / "runs")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    values = cli_data.changed(
        cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs"),
        {
            "trainer.max_steps": STEPS,
            # The default epsilon turns rounding errors of tiny gradients into steps of full size.
            "model.init_args.optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            "data.init_args.eval_batch_size": 3,
            "run.test": True,
            "zero_shot": {"templates": ["{} 1"]},
        },
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = train(path, tmp_path / "one")
    two = train(path, tmp_path / "two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    wanted = cli_data.losses(one)
    assert sorted(wanted) == list(range(1, STEPS + 1))
    assert cli_data.losses(two) == {s: pytest.approx(v, abs=1e-5) for s, v in wanted.items()}
    ours, theirs = (_weights(run) for run in (one, two))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-5
    final, other = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert other["num_devices"] == 2
    scores = {k: v for k, v in final["final"].items() if k.startswith(("val/", "test/"))}
    # The loss of an evaluation is the mean over batches, whose sizes differ; scores are not.
    scores = {k: v for k, v in scores.items() if not k.endswith("/loss")}
    assert len(scores) > 50
    assert {k: other["final"][k] for k in scores} == pytest.approx(scores, abs=1e-6)
    assert other["samples_seen"] == final["samples_seen"] == STEPS * 8


def _weights(run):
    (path,) = (run / "checkpoints").glob("*.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]
