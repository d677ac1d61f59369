import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

from compare_data import rows_of, twelve, write_run

from mmlight.__main__ import main
from mmlight.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    twelve(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_table_files_and_page_are_written(root, capsys):
    assert main(["compare", "grid", "--metric", "val/accuracy", "--out", "out"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines() if "±" in line]
    assert [line[:3] + line[7:8] for line in lines] == [
        ["1", "grid/lr0.1-seed0", "+3", "0.1"],
        ["2", "grid/lr0.01-seed0", "+3", "0.01"],
        ["3", "grid/lr0.001-seed0", "+3", "0.001"],
    ]
    assert "75.0 ± 5.8 %" in said and "out/compare.html" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        *("compare.html", "settings.csv", "settings.md", "runs.csv"),
        *("val_accuracy_curves.png", "val_accuracy_bars.png"),
    }


def test_settings_are_printed_for_programs_and_nothing_beside_them(root, capsys):
    compare = ["compare", "grid", "--metric", "val/accuracy", "--out", "out", "--format"]
    assert main([*compare, "csv"]) == 0
    told = capsys.readouterr()
    assert told.out == Path("out/settings.csv").read_text() and "out/compare.html" in told.err
    assert main([*compare, "markdown"]) == 0
    assert capsys.readouterr().out == Path("out/settings.md").read_text()


def test_page_needs_no_network(root):
    main(["compare", "grid", "--out", "out"])
    page = Path("out/compare.html").read_text()
    assert not re.search(r"https?://|<script|<link", page)
    assert page.count("data:image/png;base64,") == 4  # curves and bars of two scores
    assert "12 runs, 3 settings" in page and "75.0 ± 5.8 %" in page


def test_a_sweep_over_two_values_gets_parallel_coordinates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        config = {
            "model": {
                "init_args": {"lr": 10.0 ** -(number % 3 + 1), "dropout": 0.1 * (number // 3)}
            }
        }
        rows = rows_of((0.1, 0.2, 0.1 * number), speed=10, seconds=1)
        write_run(tmp_path / "runs" / "sweep" / f"t{number}", config=config, rows=rows)
    assert main(["compare", "sweep", "--metric", "val/accuracy", "--out", "out"]) == 0
    assert (tmp_path / "out" / "val_accuracy_parallel.png").stat().st_size > 5000


def test_a_run_that_failed_is_named(root, capsys):
    rows = rows_of((0.1, 0.2, 0.3), speed=10, seconds=1)
    config = {"model": {"init_args": {"optimizer": {"lr": 5.0}}}}
    write_run(root / "grid" / "broken", config=config, rows=rows, status="failed")
    main(["compare", "grid", "--metric", "val/accuracy", "--out", "out"])
    assert "not finished: grid/broken (failed)" in capsys.readouterr().out


def test_mistakes_are_said_in_a_line(root, capsys):
    assert main(["compare", "grdi"]) == 2
    assert "no run 'grdi' in runs" in capsys.readouterr().err
    assert main(["compare", "grid", "--metric", "val/acuracy"]) == 2
    assert "did you mean 'val/accuracy'?" in capsys.readouterr().err
    assert main(["compare", "grid", "--wandb", "mmlight"]) == 2
    assert "name it as ENTITY/PROJECT" in capsys.readouterr().err


def test_an_experiment_that_has_logged_nothing_is_refused(tmp_path):
    from mmlight.runs.run.folder import Run
    from mmlight.runs.show.compare.run import read_run
    from mmlight.runs.show.compare.settings import resolve_metrics

    run = read_run(Run(write_run(tmp_path / "x" / "one", config={}, rows=[], status=None)))
    with pytest.raises(UserError, match="logged anything"):
        resolve_metrics([run], [])


def test_page_and_tables_show_what_strangers_wrote_and_obey_nothing(tmp_path, capsys):
    evil = "<script>alert(1)</script>\n| & \"' \x1b[2J"
    for number, name in enumerate(("a<b>", "a<img src=x>")):
        config = {evil: evil, "lr": f"{evil}{number}"}
        rows = [{**row, f"val/{evil}": 0.5} for row in rows_of((0.1,) * 3, speed=1, seconds=1)]
        write_run(tmp_path / "runs/x" / name, config=config, rows=rows, status="failed")
    out = tmp_path / "out"
    command = ["compare", "x", "--root", str(tmp_path / "runs"), "--out", str(out)]
    assert main([*command, "--metric", f"val/{evil}"]) == 0
    page = (out / "compare.html").read_text()
    assert "<script>" not in page and "<img src=x>" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    markdown = (out / "settings.md").read_text()
    assert len(markdown.splitlines()) == 4 and "\x1b" not in markdown
