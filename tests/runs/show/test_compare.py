"""Three settings of four seeds each, against numbers worked out by hand."""

import csv
import io
import json
from statistics import stdev

import git_data
import pytest
from compare_data import ACCURACY, rows_of, twelve, write_run

from mmlight.errors import UserError
from mmlight.runs.code.git import read_git
from mmlight.runs.run.find import find_all
from mmlight.runs.run.folder import Run
from mmlight.runs.show.compare.curves import curve_of
from mmlight.runs.show.compare.grids import (
    runs_digits,
    settings_digits,
    settings_grid,
)
from mmlight.runs.show.compare.run import read_run
from mmlight.runs.show.compare.settings import group, ordered, resolve_metrics


def read(path):
    return read_run(Run(path))


def selected(references, **root):
    return [run.path for run in find_all(references, **root)]


@pytest.fixture
def settings(tmp_path):
    return group([read(path) for path in twelve(tmp_path)])


def test_runs_that_differ_only_in_seed_are_one_setting(settings):
    assert [(s.differs, len(s.runs)) for s in settings] == [
        ({"lr": 0.1}, 4),
        ({"lr": 0.01}, 4),
        ({"lr": 0.001}, 4),
    ]


def test_table_holds_what_was_worked_out_by_hand(settings):
    grid = settings_grid(ordered(settings, "val/accuracy"), ["val/accuracy", "val/loss"])
    rows = [dict(zip(grid.headings, row, strict=True)) for row in grid.rows]
    # Final: .7 .8 .7 .8 -> mean .75, deviations of .05 each: sd sqrt(4 * .0025 / 3) = .0577.
    # Best: .7 .8 .7 .9 -> mean .775, sd sqrt((2 * .005625 + .000625 + .015625) / 3) = .0957.
    assert rows[0]["val/accuracy"] == "75.0 ± 5.8 %"
    assert rows[0]["best val/accuracy"] == "77.5 ± 9.6 %"
    assert rows[0]["val/loss"] == "0.25 ± 0.058"
    assert rows[0]["best val/loss"] == "0.225 ± 0.096"
    assert rows[1]["val/accuracy"] == "50.0 ± 0.0 %"
    # Final .3 .2 .3 .2 -> .25; best .4 .5 .6 .5 -> .5, sd sqrt(2 * .01 / 3) = .0816.
    assert rows[2]["val/accuracy"] == "25.0 ± 5.8 %"
    assert rows[2]["best val/accuracy"] == "50.0 ± 8.2 %"
    for row in rows:
        assert row["runs"] == "4" and row["code"] == "aaaaaaaa"
        assert row["samples"] == "240"
        # 30 steps of 60, 66, 72 and 78 s on two devices: 69 s * 30 * 2 / 3600 h.
        assert row["GPU-h"] == "1.15"
        assert row["samples/s"] == "115"
    assert [row["lr"] for row in rows] == ["0.1", "0.01", "0.001"]


def test_csv_has_all_digits(settings):
    lines = list(csv.DictReader(io.StringIO(settings_digits(settings, ["val/accuracy"]).csv())))
    assert float(lines[0]["val/accuracy final mean"]) == pytest.approx(0.75, abs=1e-12)
    assert float(lines[0]["val/accuracy final sd"]) == pytest.approx(0.05 * (4 / 3) ** 0.5)
    assert float(lines[2]["val/accuracy best mean"]) == pytest.approx(0.5)
    assert float(lines[0]["device_hours"]) == pytest.approx(1.15)
    runs = list(csv.DictReader(io.StringIO(runs_digits(settings, ["val/accuracy"]).csv())))
    assert len(runs) == 12 and [r["seed"] for r in runs[:4]] == ["0", "1", "2", "3"]
    assert float(runs[3]["val/accuracy best"]) == 0.9


def test_markdown_has_a_line_for_each_setting(settings):
    lines = settings_grid(settings, ["val/accuracy"]).markdown().splitlines()
    assert len(lines) == 5 and all(line.count("|") == lines[0].count("|") for line in lines)
    assert "| 75.0 ± 5.8 % |" in lines[2]


def test_curve_is_the_mean_over_seeds(settings):
    curve = curve_of(settings[0], "val/accuracy")
    assert curve.steps == (10, 20, 30)
    assert curve.samples == (80, 160, 240)
    assert curve.hours == pytest.approx([690 / 3600, 1380 / 3600, 2070 / 3600])
    assert curve.means == pytest.approx([0.5, 0.7, 0.75])
    columns = list(zip(*ACCURACY[0.1], strict=True))
    assert curve.deviations == pytest.approx([stdev(column) for column in columns])


def test_a_curve_has_the_steps_that_all_seeds_have(tmp_path):
    paths = twelve(tmp_path)[:2]
    lines = (paths[0] / "metrics.jsonl").read_text().splitlines()
    (paths[0] / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    (setting,) = group([read(path) for path in paths])
    assert curve_of(setting, "val/accuracy").steps == (10, 20)


def test_an_unfinished_run_is_not_in_the_means(tmp_path):
    paths = twelve(tmp_path)[:4]
    config = {
        "model": {"init_args": {"optimizer": {"lr": 0.1}}},
        "data": {"init_args": {"seed": 9, "global_batch_size": 8}},
    }
    rows = rows_of((0.0, 0.0, 0.0), speed=1, seconds=1)
    broken = write_run(
        tmp_path / "grid" / "broken", config=config, rows=rows, seed=9, status="failed"
    )
    (setting,) = group([read(path) for path in (*paths, broken)])
    assert setting.spread(lambda run: run.final("val/accuracy")).mean == pytest.approx(0.75)
    grid = settings_grid([setting], ["val/accuracy"])
    assert dict(zip(grid.headings, grid.rows[0], strict=True))["runs"] == "4 of 5"


def test_other_code_or_data_is_another_setting(tmp_path):
    config = {"model": {"width": 1}}
    rows = rows_of((0.1, 0.2, 0.3), speed=1, seconds=1)
    runs = [
        read(write_run(tmp_path / "x" / name, config=config, rows=rows, commit=name * 40))
        for name in ("a", "b")
    ]
    assert [s.differs for s in group(runs)] == [{"code": "aaaaaaaa"}, {"code": "bbbbbbbb"}]
    assert len(group(runs, ignore=["code"])) == 1


def test_only_code_that_a_run_can_import_makes_another_setting(tmp_path):
    top = git_data.make_repository(
        tmp_path / "lab",
        {"mmlight/__init__.py": "", "mmlight/a.py": "1\n", "experiments/x.yaml": "a: 1\n"},
    )

    def run(number):
        rows = rows_of((0.1, 0.2, 0.3), speed=1, seconds=1)
        path = write_run(tmp_path / f"runs/x/{number}", config={}, rows=rows, seed=number)
        told = json.loads((path / "summary.json").read_text())
        told["git"] = read_git(top / "mmlight").described()
        (path / "summary.json").write_text(json.dumps(told))
        return read(path)

    runs = [run(0)]
    (top / "experiments/x.yaml").write_text("a: 2\n")
    (top / "experiments/new.yaml").write_text("a: 3\n")
    (top / "mmlight/tests").mkdir()
    (top / "mmlight/tests/test_a.py").write_text("")
    runs.append(run(1))
    git_data.git(top, "add", "--all")
    git_data.git(top, "commit", "-m", "experiments")
    runs.append(run(2))
    assert len({one.exact_code for one in runs}) == 3
    assert len(group(runs)) == 1
    (top / "mmlight/a.py").write_text("2\n")
    runs.append(run(3))
    first, second = group(runs)
    assert len(first.runs) == 3 and second.differs["code"] == runs[3].exact_code
    # The same, committed.
    git_data.git(top, "commit", "-am", "a")
    runs.append(run(4))
    assert [len(setting.runs) for setting in group(runs)] == [3, 2]
    (top / "mmlight/b.py").write_text("")
    assert len(group([*runs, run(5)])) == 3
    (top / "mmlight/b.py").unlink()
    (top / "mmlight/a.py").unlink()
    assert len(group([*runs, run(6)])) == 3


def test_nan_is_neither_best_nor_in_a_mean(tmp_path):
    rows = rows_of((0.5, 0.4, 0.3), speed=1, seconds=1)
    rows[-1]["val/loss"] = "nan"
    run = read(write_run(tmp_path / "x" / "one", config={}, rows=rows))
    assert run.best("val/loss") == pytest.approx(0.5)
    (setting,) = group([run])
    assert setting.spread(lambda r: r.final("val/loss")).mean is None


def test_a_score_of_pairs_is_their_mean(tmp_path):
    rows = [
        {
            **{"step": 1, "epoch": 0, "samples": 8, "wall_s": 1.0},
            **{"val/image_to_text/recall_at_1": 0.5, "val/text_to_image/recall_at_1": 0.3},
        }
    ]
    run = read(write_run(tmp_path / "x" / "one", config={}, rows=rows))
    assert run.final("val/recall_at_1") == pytest.approx(0.4)
    assert run.final("val/image_to_text/recall_at_1") == 0.5
    assert resolve_metrics([run], []) == ["val/recall_at_1"]


def test_an_unknown_metric_is_refused_with_those_there_are(settings):
    runs = [run for s in settings for run in s.runs]
    with pytest.raises(UserError, match=r"--metric val/acuracy: no run has it \(did you mean"):
        resolve_metrics(runs, ["val/acuracy"])


def test_runs_are_selected_by_name_pattern_and_folder(tmp_path, monkeypatch):
    paths = twelve(tmp_path / "runs")
    assert selected(["grid"], root=tmp_path / "runs") == sorted(paths)
    monkeypatch.chdir(tmp_path)
    assert selected(["grid/lr0.1-*", "runs/grid"]) == [*paths[:4], *sorted(paths[4:])]
    assert selected([str(paths[5]), "lr0.1-seed2"]) == [paths[5], paths[2]]
    with pytest.raises(UserError, match="no run in runs is named like 'x\\*'"):
        find_all(["x*"])


def test_repeated_seeds_are_told(tmp_path):
    rows = rows_of((0.1, 0.2, 0.3), speed=1, seconds=1)
    runs = [
        read(write_run(tmp_path / "x" / str(n), config={}, rows=rows, seed=n % 2)) for n in range(4)
    ]
    grid = settings_grid(group(runs), ["val/accuracy"])
    assert dict(zip(grid.headings, grid.rows[0], strict=True))["runs"] == "4, 2 seeds"


def test_evaluations_below_a_run_do_not_take_its_place(tmp_path):
    run = write_run(
        tmp_path / "tiny" / "a", config={}, rows=rows_of((0.1,) * 3, speed=1, seconds=1)
    )
    write_run(run / "test", config={}, rows=rows_of((0.9,) * 3, speed=1, seconds=1))
    for reference in ("tiny/a", str(run), "a", "tiny"):
        assert selected([reference], root=tmp_path) == [run.resolve()]


def test_table_tells_run_metric_and_what_differs_first_and_a_schedule_in_one_column(tmp_path):
    shards = "/data/of/a/very/long/folder/name/train-{}/{{000..100}}.tar"
    schedules = ({0: "head", 500: "last 2 blocks"}, {0: "head", 900: "all"}, None)
    runs = []
    for number, (schedule, name) in enumerate(zip(schedules, ("x", "y", "y"), strict=True)):
        config = {
            "model": {"init_args": {"tuning": {"unfreeze": schedule}}},
            "data": {"init_args": {"train": {"shards": shards.format(name)}}},
        }
        rows = rows_of((0.1 * number,) * 3, speed=1, seconds=1)
        runs.append(read(write_run(tmp_path / "e" / str(number), config=config, rows=rows)))
    grid = settings_grid(group(runs), ["val/accuracy", "val/loss"])
    assert grid.headings[:6] == ["", "run", "val/accuracy", "unfreeze", "shards", "val/loss"]
    assert [row[1:5] for row in grid.rows] == [
        ("e/0", "0.0 %", "0: head, 500: last 2 blocks", "…train-x…"),
        ("e/1", "10.0 %", "0: head, 900: all", "…train-y…"),
        ("e/2", "20.0 %", "-", "…train-y…"),
    ]
