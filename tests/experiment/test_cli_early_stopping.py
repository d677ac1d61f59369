"""The key `early_stopping` of an experiment."""

import json

import cli_data
import pytest


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("early")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs") | {
        "early_stopping": {"monitor": "val/loss", "patience": 2, "min_delta": 100},
    }
    return cli_data.write_yaml(
        folder / "tiny.yaml",
        cli_data.changed(values, {"trainer.max_steps": 40, "trainer.max_epochs": -1}),
    )


def test_run_ends_early_says_why_and_is_finished(path, capsys):
    assert cli_data.run_in_process("fit", "-c", path) == 0
    run = cli_data.only_run(path.parent / "runs")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 15)  # the third epoch of 5 steps
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "stopped early" in x]
    assert line.startswith("stopped early at step 15: val/loss has not fallen below")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000015.ckpt"]
    assert "early_stopping" in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--early_stopping.monitor", "val/los"], "(did you mean 'val/loss'?)"),
        (["--early_stopping.patience", "0"], "early_stopping.patience is 0"),
        (["--trainer.limit_val_batches", "0"], "early_stopping.monitor has no effect without"),
        (["--early_stopping.mod", "max"], "early_stopping.mod"),
    ],
)
def test_mistakes_are_told_in_a_line(path, capsys, arguments, said):
    assert cli_data.run_in_process("fit", "-c", path, *arguments) == 2
    told = ("Indexing ", "mmlight: train ")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith(told)]
    assert said in line
