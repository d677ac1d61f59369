"""The figures, files, table and picture of a robustness report."""

import csv
import json
import math

import numpy as np
import pytest
from rich.console import Console

from mmlight.runs.plan.pictures import plot_robustness
from mmlight.runs.plan.robustness_report import (
    GroupScores,
    Measured,
    Robustness,
    format_robustness,
    write_robustness,
)
from mmlight.runs.plots.labelled import ReliabilityPanel, plot_reliability
from mmlight.runs.run.folder import Run
from mmlight.runs.show.report import write_report


def scores(accuracy, ece=0.1):
    return {
        "accuracy": accuracy,
        "calibration_error": ece,
        "loss": 1.0,
        "calibration_error_scaled": ece / 2,
        "loss_scaled": 0.9,
    }


def report(**changes):
    given = dict(
        stage="test",
        metric="accuracy",
        direction="max",
        measured=[
            Measured("clean", 0, None, scores(0.9)),
            Measured("image noise", 1, 0.08, scores(0.8, 0.2)),
            Measured("image noise", 5, 0.38, scores(0.4, 0.4)),
            Measured("image blur", 1, 0.005, scores(0.9)),
            Measured("image blur", 5, 0.03, scores(0.7)),
        ],
        chance=0.25,
        temperature=1.5,
        group_field="speaker",
        groups=[
            GroupScores("ann", 30, scores(0.95), True),
            GroupScores("bob", 10, scores(0.6), False),
        ],
    )
    return Robustness(**(given | changes))


def test_each_corruption_counts_alike():
    found = report()
    assert found.mean_of("image noise") == pytest.approx(0.6)
    assert found.mean_of() == pytest.approx((0.6 + 0.8) / 2)
    assert found.relative_drop() == pytest.approx(0.2 / 0.9)
    assert found.relative_drop("image blur") == pytest.approx(0.1 / 0.9)
    assert found.mean_of("image noise", "calibration_error") == pytest.approx(0.3)


def test_error_rates_drop_by_rising():
    measured = [
        Measured("clean", 0, None, {"wer": 0.2}),
        Measured("audio noise", 1, 20, {"wer": 0.3}),
    ]
    found = report(metric="wer", direction="min", measured=measured, groups=[], temperature=None)
    assert found.relative_drop() == pytest.approx(0.5)
    assert math.isnan(
        report(
            metric="wer", measured=[Measured("clean", 0, None, {"wer": 0.0}), measured[1]]
        ).relative_drop()
    )


def test_worst_group_and_gap():
    found = report()
    assert found.worst_group().name == "bob"
    assert found.group_gap() == pytest.approx(0.35)
    assert report(metric="loss", direction="min").worst_group().name == "ann"  # the first of equals
    assert report(groups=[]).worst_group() is None


def test_summary_holds_the_figures_for_the_log():
    values = report().summary()
    assert values["robustness/clean/accuracy"] == 0.9
    assert values["robustness/mean/accuracy"] == pytest.approx(0.7)
    assert values["robustness/mean/calibration_error_scaled"] == pytest.approx(0.1)
    assert values["robustness/image_noise/accuracy"] == pytest.approx(0.6)
    assert values["robustness/relative_drop"] == pytest.approx(0.2 / 0.9)
    assert values["robustness/temperature"] == 1.5
    assert values["robustness/worst_group/accuracy"] == 0.6


def printed(found, width=90):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    console.print(format_robustness(found))
    return console.export_text()


def test_table_fits_a_terminal_and_says_what_it_means():
    text = printed(report(), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "image noise 80.0 40.0 60.0 33.3 30.0 15.0" in " ".join(text.split())
    assert "all corruptions" in text
    assert "speaker bob* (10)" in text
    assert "temperature of 1.5" in text
    assert "worst speaker: bob with 60.0 %; best to worst: 35.0 %" in text
    assert "not in training; mean of those in training: 95.0 %, not: 60.0 %" in text


def test_table_without_corruptions_groups_or_temperature():
    clean = report().measured[:1]
    text = printed(report(measured=clean, groups=[], temperature=None, note="there is no val"))
    assert "clean" in text and "there is no val" in text
    assert "scaled" not in text


def test_files_hold_every_evaluation_and_group(tmp_path):
    run = Run(tmp_path)
    write_robustness(report(), run)
    with (tmp_path / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["corruption"] for row in rows] == [
        *("clean", "image noise", "image noise", "image blur", "image blur"),
        *("clean", "clean"),
    ]
    assert [row["group"] for row in rows[-2:]] == ["speaker=ann", "speaker=bob"]
    assert float(rows[2]["amount"]) == 0.38
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert found["groups"]["worst"] == "bob"
    assert found["evaluations"][2]["accuracy"] == 0.4
    assert found["summary"]["robustness/relative_drop"] == pytest.approx(0.2 / 0.9)


def test_table_and_picture_are_in_the_page(tmp_path):
    run = Run(tmp_path / "tiny" / "one")
    write_robustness(report(), run)
    plot_robustness(report(), run.plots / "robustness.png")
    summary = {
        **{"name": "tiny", "id": "one", "verb": "test", "status": "finished", "error": None},
        **{"final": report().summary(), "best": {}, "steps": 0, "samples_seen": 0},
        **{"ended": "now", "checkpoints": {}, "samples_per_s": None, "wall_s": None},
    }
    run.summary_json.write_text(json.dumps(summary))
    page = write_report(run).read_text()
    assert "<h2>Robustness</h2>" in page
    assert "speaker bob* (10)" in page
    assert "robustness/clean" not in page
    assert page.count("data:image/png") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"groups": []},
        {"measured": report().measured[:1]},
        {"chance": None, "metric": "loss", "direction": "min"},
    ],
)
def test_picture_is_drawn_of_what_there_is(tmp_path, changes):
    path = plot_robustness(report(**changes), tmp_path / "robustness.png")
    assert path.stat().st_size > 4000


def test_nothing_is_drawn_of_clean_data_alone(tmp_path):
    alone = report(measured=report().measured[:1], groups=[])
    assert plot_robustness(alone, tmp_path / "robustness.png") is None


def test_reliability_panels_are_drawn_side_by_side(tmp_path):
    nan = float("nan")
    panel = ReliabilityPanel(
        np.array([0, 3, 5]), np.array([nan, 0.5, 0.9]), np.array([nan, 0.4, 1.0]), 0.1
    )
    sizes = [
        plot_reliability([panel] * count, tmp_path / f"{count}.png").stat().st_size
        for count in (1, 4)
    ]
    assert sizes[1] > sizes[0] > 4000
