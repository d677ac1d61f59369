"""A run whose training data has changed goes on only where that is said, and notes it."""

import json

import cli_data
import pytest

from mmlight.runs.run.attempts import read_attempts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of three steps, to whose training data a shard was added since."""
    folder = tmp_path_factory.mktemp("changed")
    data = cli_data.write_data(folder / "data")
    path = cli_data.write_yaml(
        folder / "tiny.yaml", cli_data.experiment(data, folder / "runs") | {"pictures": None}
    )
    more = ("--trainer.max_steps", "3", "--trainer.limit_val_batches", "0")
    assert cli_data.run_in_process("fit", "-c", path, "--run.id", "a", *more) == 0
    cli_data.write_shard(data / "train/2.tar", range(60, 72))
    return folder


def resume(folder, *more):
    longer = ("--trainer.max_steps", "5")
    return cli_data.run_in_process("resume", "tiny/a", "--root", folder / "runs", *longer, *more)


def test_changed_data_is_refused_then_allowed_and_noted(folder, capsys):
    assert resume(folder) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "cannot continue" in line]
    assert "data.train has changed: added 2 (12 samples), 40 samples in 2 shards then" in said
    assert "--data.allow_changed true" in said

    assert resume(folder, "--data.allow_changed", "true") == 0
    err = capsys.readouterr().err
    assert "goes on with other data than that of the checkpoint (data.allow_changed)" in err
    run = cli_data.only_run(folder / "runs")
    starts = [event for event in read_attempts(run).events if event["event"] == "start"]
    assert [event.get("changed_data") is not None for event in starts] == [False, True]
    (noted,) = starts[-1]["changed_data"]
    assert noted == (
        "data.train has changed: added 2 (12 samples), 40 samples in 2 shards then, 52 in 3 now"
    )
    assert json.loads((run / "provenance.json").read_text())["data"]["changed"] == [noted]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["status"]) == (5, "finished")
    assert summary["data"]["changed"] == [noted]
    assert "sources" not in summary["data"]["cursor"]
