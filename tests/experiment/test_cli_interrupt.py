"""Ctrl-C, what it says, and how a run is gone on with; best weights by name."""

import json
import signal

import cli_data
import pytest

from mmlight import signals
from mmlight.runs.run.attempts import read_attempts


@pytest.fixture
def as_a_program(monkeypatch):
    """Answer Ctrl-C from the start, as the program does; pytest has it back afterwards."""
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    signals.answer_interrupts()
    yield
    signals.stop_noting()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def experiment(tmp_path):
    """Write an experiment of two towers; changes make it another file of the same name."""
    data = cli_data.write_data(tmp_path / "data")

    def write(**changes):
        values = cli_data.changed(
            cli_data.experiment(data, tmp_path / "runs"),
            {
                "model.init_args.towers.audio": None,
                "data.init_args.members.audio": None,
                "data.init_args.audio": None,
                **changes,
            },
        )
        return cli_data.write_yaml(tmp_path / "tiny.yaml", values)

    return write


def press(step):
    return {
        "trainer.callbacks": [{"class_path": "press_callback.Press", "init_args": {"step": step}}]
    }


def test_ctrl_c_saves_names_the_command_and_resume_ends_what_was_begun(
    experiment, tmp_path, capsys, as_a_program
):
    path = experiment(**press(2))
    assert cli_data.run_in_process("fit", "-c", path) == 130
    run = cli_data.only_run(tmp_path / "runs")
    out, err = capsys.readouterr()
    root = tmp_path / "runs"
    command = f"mmlight resume tiny/{run.name} --root {root}"
    assert f"stopped at step 3, saved (INT)\nto go on: {command}\n" in out
    assert "Ctrl-C: saves after this step and stops; once more, and it leaves at once" in err
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000003.ckpt"]
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert f"to go on: {command}\n" in (run / "console.log").read_text()
    signals.stop_noting()
    assert cli_data.run_in_process(*command.split()[1:]) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 6
    assert sorted(cli_data.losses(run)) == [1, 2, 3, 4, 5, 6]
    assert cli_data.run_in_process(*command.split()[1:]) == 2
    assert (
        "has finished: there is nothing to resume; --trainer.max_steps" in capsys.readouterr().err
    )
    assert cli_data.run_in_process(*command.split()[1:], "--model.embed_dim", "4") == 2
    assert "it would be another experiment" in capsys.readouterr().err


def test_ctrl_c_before_the_first_step_is_no_older_runs_start(
    experiment, tmp_path, capsys, as_a_program
):
    assert cli_data.run_in_process("fit", "-c", experiment(), "--run.id", "old") == 0
    path = experiment(**press(None))
    capsys.readouterr()
    assert cli_data.run_in_process("fit", "-c", path, "--run.id", "new") == 130
    assert "stopped by Ctrl-C before its first step" in capsys.readouterr().err
    (event,) = read_attempts(tmp_path / "runs/tiny/new").events
    assert (event["event"], event["reason"]) == ("end", "INT")
    for verb in ("fit", "validate"):
        assert cli_data.run_in_process(verb, "-c", path, "--ckpt_path", "last") == 2
        said = capsys.readouterr().err
        assert "the newest start of tiny, new of" in said and "mmlight resume tiny/old" in said


def test_best_weights_are_asked_for_by_name(experiment, tmp_path, capsys):
    path = experiment(
        **{
            "checkpoint": {"monitor": "val/loss", "monitor_mode": "min"},
            "run.test": True,
            "run.test_with": "best",
        }
    )
    assert cli_data.run_in_process("fit", "-c", path) == 0
    run = cli_data.only_run(tmp_path / "runs")
    said = capsys.readouterr().out
    assert "test with best-0000000" in said and "the best by val/loss" in said
    (best,) = (run / "checkpoints").glob("best-*.ckpt")
    tested = json.loads((run / "summary.json").read_text())["final"]["test/loss"]
    for asked in ("best", f"{run}/best"):
        assert cli_data.run_in_process("test", "-c", path, "--ckpt_path", asked) == 0
        said = capsys.readouterr().out
        if asked == "best":
            assert f"--ckpt_path best: tiny/{run.name}: {best.name}, the best by val/loss" in said
        newest = max(run.parent.glob("**/summary.json"), key=lambda p: p.stat().st_mtime_ns)
        found = json.loads(newest.read_text())
        assert found["verb"] == "test" and found["final"]["test/loss"] == pytest.approx(tested)
    assert cli_data.run_in_process("fit", "-c", path, "--ckpt_path", "best") == 2
    assert "a training goes on from its newest checkpoint" in capsys.readouterr().err
    assert cli_data.run_in_process("fit", "-c", path, "--checkpoint.monitor", "null") == 2
    assert "run.test_with: best needs checkpoint.monitor" in capsys.readouterr().err
