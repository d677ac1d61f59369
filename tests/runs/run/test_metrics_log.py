import csv
import json

import pytest

from mmlight.runs.run.metrics_log import MetricsLog, read_rows


def open_log(folder):
    return MetricsLog(folder / "metrics.jsonl", csv_path=folder / "metrics.csv")


def table(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def log_steps(log, steps, name="train/loss"):
    for step in steps:
        log.append({name: step / 10}, {"step": step, "epoch": 0, "samples": 8 * step})


def test_row_is_on_disk_before_append_returns(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, [1, 2])
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [e["step"] for e in entries] == [1, 2]
    assert entries[1]["samples"] == 16 and entries[1]["train/loss"] == 0.2


def test_entries_of_a_step_share_a_line_and_new_metrics_get_a_column(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, [1, 2])
    log.append({"val/loss": 3.0}, {"step": 2, "epoch": 0, "samples": 16})
    log.close()
    lines = table(tmp_path)
    assert [line["step"] for line in lines] == ["1", "2"]
    assert lines[0]["val/loss"] == "" and lines[1]["val/loss"] == "3.0"
    assert lines[1]["train/loss"] == "0.2"


def test_resumed_log_keeps_every_step_once_and_drops_what_is_done_again(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, range(1, 8))
    log.close()
    resumed = open_log(tmp_path)
    resumed.rewind(4)
    log_steps(resumed, range(5, 9), name="train/other")
    resumed.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert "train/loss" not in rows[4] and rows[4]["train/other"] == 0.5
    assert [line["step"] for line in table(tmp_path)] == [str(s) for s in range(1, 9)]


def test_training_from_the_start_empties_the_log(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, [0, 1, 2])
    log.rewind(0)
    assert log.rows() == [] and read_rows(tmp_path / "metrics.jsonl") == []


def test_row_cut_short_by_a_kill_is_forgotten(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "epoch"')
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
    resumed = open_log(tmp_path)
    log_steps(resumed, [3])
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_nan_survives_in_strict_json(tmp_path):
    log = open_log(tmp_path)
    log.append({"train/loss": float("nan")}, {"step": 1, "epoch": 0, "samples": 8})

    def refuse(constant):
        raise AssertionError(constant)

    entry = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert str(float(entry["train/loss"])) == "nan"


def test_wall_time_goes_on_after_a_restart(tmp_path):
    log = open_log(tmp_path)
    log._wall_before_s = 100.0
    log_steps(log, [1])
    log._wall_before_s = 200.0
    log_steps(log, [2])
    resumed = open_log(tmp_path)
    assert 200 <= resumed.wall_s < 201
    resumed.rewind(1)
    assert 100 <= resumed.wall_s < 101


BROKEN = [
    '{"step": 3, "epoch": 0, "samp',
    "\0" * 600,
    "[" * 100_000,
    "[]",
    "7",
    '{"train/loss": 0.5}',
    '{"step": "three"}',
    '{"step": null}',
    '{"step": -1}',
    '{"step": 1e400}',
    '{"step": true, "train/loss": {}}',
    '{"step": 3, "wall_s": NaN}',
    '{"step": 3, "samples": "x"}',
    '{"step": 3, "train/loss": "x"}',
    f'{{"step": 3, "train/loss": {10**400}}}',
    "\udcff\udcfe",
]


@pytest.mark.parametrize("broken", BROKEN, ids=range(len(BROKEN)))
def test_line_that_cannot_be_read_is_named_and_the_others_are_kept(tmp_path, capsys, broken):
    log = open_log(tmp_path)
    log_steps(log, [1, 2])
    log.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(broken.encode(errors="surrogateescape") + b"\n")
    resumed = open_log(tmp_path)
    assert f"{tmp_path / 'metrics.jsonl'}: line 3 cannot be read" in capsys.readouterr().err
    resumed.rewind(2)
    log_steps(resumed, [3])
    resumed.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3
    assert capsys.readouterr().err == ""


def test_removed_log_is_said_and_not_written_on_in_secret(tmp_path):
    log = open_log(tmp_path)
    log_steps(log, [1])
    log.sync()
    (tmp_path / "metrics.jsonl").unlink()
    for write in (log.sync, log.write_csv, log.close):
        with pytest.raises(FileNotFoundError, match="removed while the run went on"):
            write()
        log_steps(log, [2])
