"""What a local run prints is kept in its folder, and shown by `mmlight logs`."""

import io
import sys

import pytest

from mmlight.__main__ import main
from mmlight.runs.run import logs
from mmlight.runs.run.logs import LOG, OLDER, kept_console
from mmlight.terminal import Terminal, note, say


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "tiny" / "a"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed_everything: 0\n")
    return path


def kept(run):
    return [line for line in (run / LOG).read_text().splitlines() if not line.startswith("---")]


def test_lines_are_kept_and_bars_and_colours_are_not(run, capsys):
    with kept_console(run):
        say("step 5: val/loss 1.5")
        note("a note")
        sys.stdout.write("\r\x1b[2Ktrain 3/9 \x1b[35m━━━━\x1b[0m 33 %\n")
        sys.stdout.write("\r\x1b[2Kstep 10: ")
        sys.stdout.write("\x1b[1mval/loss\x1b[0m 1.2\n")
        Terminal(file=sys.stdout).print("a table")
    assert kept(run) == [
        "step 5: val/loss 1.5",
        "mmlight: a note",
        "step 10: val/loss 1.2",
        "a table",
    ]
    said = capsys.readouterr()
    assert "33 %" in said.out and said.err == "mmlight: a note\n"
    say("afterwards")
    assert main(["logs", "tiny/a", "--root", str(run.parents[1])]) == 0
    assert "step 10: val/loss 1.2\na table\n" in capsys.readouterr().out
    assert "afterwards" not in kept(run)


def test_error_that_ends_a_run_is_its_last_line(run):
    before = sys.stdout
    with pytest.raises(ValueError), kept_console(run):
        raise ValueError("too\x1b[2J much")
    assert kept(run) == ["ValueError: too much"]
    assert sys.stdout is before


def test_size_is_bounded_and_a_removed_folder_ends_nothing(run, monkeypatch, capsys):
    monkeypatch.setattr(logs, "_MOST_BYTES", 1000)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with kept_console(run):
        for number in range(500):
            say(f"line {number}")
        assert (run / LOG).stat().st_size + (run / OLDER).stat().st_size < 2100
        assert kept(run)[-1] == "line 499"
        for path in run.iterdir():
            path.unlink()
        run.rmdir()
        say("gone")
    assert not run.exists()
