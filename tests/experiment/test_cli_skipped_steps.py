"""What a training does whose steps are not finite."""

import json

import cli_data
import pytest
import torch
import weights_data
from lightning.pytorch.callbacks import Callback

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.trainer.left_out import SkippedSteps


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skipped")
    return weights_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")


class Spoiled(Callback):
    """Makes a gradient NaN in some steps."""

    def __init__(self, steps):
        self.steps = steps
        self.weights = {}

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in self.steps:
            next(p for p in pl_module.parameters() if p.grad is not None).grad.fill_(torch.nan)

    def on_train_batch_end(self, trainer, pl_module, *args):
        weights = [p.detach().clone() for p in pl_module.parameters()]
        self.weights[trainer.global_step] = torch.cat([w.flatten() for w in weights])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_is_left_out_and_training_goes_on(values, accumulated, tmp_path, capsys):
    values = cli_data.changed(values, {"trainer.accumulate_grad_batches": accumulated})
    spoiled, skipped = Spoiled({2, 3}), SkippedSteps(Run(tmp_path), most=2)
    task = cli_data.fit(values, tmp_path, callbacks=[skipped, spoiled])
    found = spoiled.weights
    assert torch.equal(found[2], found[4]) and not torch.equal(found[4], found[5])
    assert task.finite.read() == (0, 2) and skipped.state_dict() == {"skipped": 2}
    said = capsys.readouterr().err
    assert said.count("is not finite") == 1 and "step 3: the loss or its gradient" in said


def test_too_many_in_a_row_stop_it(values, tmp_path):
    callbacks = [SkippedSteps(Run(tmp_path), most=2), Spoiled({1, 2, 3})]
    with pytest.raises(UserError, match=r"in 3 steps in a row, up to step 4 .*no good checkpoint"):
        cli_data.fit(values, tmp_path, callbacks=callbacks)


def test_a_training_without_any_finite_step_is_not_finished(values, tmp_path):
    callbacks = [SkippedSteps(Run(tmp_path), most=10), Spoiled(range(9))]
    with pytest.raises(UserError, match=r"in 6 steps in a row"):
        cli_data.fit(values, tmp_path, callbacks=callbacks)


def test_a_rate_beyond_all_bounds_ends_in_a_line_that_names_the_last_good_checkpoint(
    values, tmp_path, capsys
):
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    given = {
        "--model.optimizer.lr": "1e30",
        "--trainer.max_steps": "20",
        "--checkpoint.every_n_steps": "1",
        "--run.max_skipped_steps": "3",
        "--run.root": str(tmp_path / "runs"),
    }
    code = cli_data.run_in_process("fit", "-c", path, *(x for pair in given.items() for x in pair))
    run = cli_data.only_run(tmp_path / "runs")
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "in 4 steps in a row" in last and f"last good checkpoint is {run}/checkpoints/" in last
    counts = [
        r["train/skipped_steps"]
        for r in read_rows(run / "metrics.jsonl")
        if "train/skipped_steps" in r
    ]
    assert counts[-1] == 3  # the row of the step that stops it is not written
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "failed" and "not finite" in summary["error"]
