"""Run folders are read quickly, and whatever state a killed process left them in."""

import json
import time

import pytest

from mmlight.runs.run.find import all_runs
from mmlight.runs.run.submission import Submission


def log(folder, rows, *, tail=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)


def rows(steps):
    return [
        {"step": s, "epoch": 0, "samples": 8 * s, "wall_s": s / 10, "train/loss": 1 / s}
        for s in range(1, steps + 1)
    ]


def test_only_runs_are_found(tmp_path):
    log(tmp_path / "a/1", rows(2))
    (tmp_path / "a/plots").mkdir()
    (tmp_path / "a/sweep.json").touch()
    log(tmp_path / ".snapshots/1", rows(1))
    assert [run.label for run in list(all_runs(tmp_path))] == ["a/1"]
    assert list(all_runs(tmp_path / "none")) == []
    assert [r.label for r in list(all_runs(tmp_path, name="b"))] == []


def test_torn_last_row_is_passed_over(tmp_path):
    log(tmp_path / "a/1", rows(5), tail='{"step": 6, "train/lo')
    (run,) = list(all_runs(tmp_path))
    assert run.step == 5
    assert run.value("train/loss") == pytest.approx(0.2)
    assert list(run.final) == ["train/loss"]


def test_long_log_is_read_from_its_end(tmp_path):
    log(tmp_path / "a/1", rows(20_000))
    (run,) = list(all_runs(tmp_path))
    assert run.step == 20_000
    assert run.log.rows[0]["step"] > 18_000
    assert [r["step"] for r in run.log.rows] == list(range(run.log.rows[0]["step"], 20_001))


def test_broken_files_are_as_missing_ones(tmp_path):
    log(tmp_path / "a/1", [])
    for name in ("summary.json", "submission.json", "attempts.jsonl"):
        (tmp_path / "a/1" / name).write_text('{"step"')
    (run,) = list(all_runs(tmp_path))
    assert (run.summary, run.submission, run.step) == (None, None, 0)
    assert run.attempts.events == ()


def test_submission_comes_back_as_it_was_written(tmp_path):
    run = tmp_path / "a/1"
    run.mkdir(parents=True)
    given = Submission("1", "a", "x.yaml", ("12", "13_4"), 1.5, "me", 2, 0, 1, "c.yaml", "s")
    given.write(run)
    assert next(all_runs(tmp_path)).submission == given
    assert given.with_job("14").jobs == ("12", "13_4", "14")
    assert given.with_job("12") is given


def test_a_thousand_runs_are_read_within_two_seconds(tmp_path):
    summary = json.dumps({"status": "finished", "final": {f"val/{i}": i for i in range(60)}})
    for number in range(1000):
        folder = tmp_path / f"exp{number % 10}" / f"{number:04d}"
        log(folder, rows(100))
        (folder / "summary.json").write_text(summary)
    began = time.process_time()  # what else runs on the machine does not count
    found = list(all_runs(tmp_path))
    assert len([(run.summary, run.submission, run.attempts, run.step) for run in found]) == 1000
    assert time.process_time() - began < 2


@pytest.mark.parametrize("step", ['"x"', "null", "[]", "1e400", "NaN", "-3", "{}"])
def test_row_with_a_bad_step_is_passed_over(tmp_path, step):
    """One such row in one run ended the listing of all."""
    log(tmp_path / "a/1", rows(5), tail=f'{{"step": {step}, "train/loss": 9, "val/f1": "x"}}\n')
    attempts = tmp_path / "a/1/attempts.jsonl"
    attempts.write_text(f'{{"event": "start", "time": 1, "step": {step}}}\n')
    (run,) = list(all_runs(tmp_path))
    assert run.step == 5
    assert run.value("train/loss") == pytest.approx(0.2)
    assert run.value("val/f1") is None
    assert list(run.final) == ["train/loss"]


def test_parts_of_a_summary_are_those_of_the_whole(tmp_path):
    values = {"a": {"status": 1, "final": {"x": 9}}, "status": "failed", "final": {"y": "nan"}}
    for number, text in enumerate((json.dumps(values, indent=2), json.dumps(values))):
        folder = tmp_path / "a" / str(number)
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(text)
        (run,) = [run for run in list(all_runs(tmp_path)) if run.path == folder]
        assert run.status == "failed" and str(run.final) == "{'y': nan}"
