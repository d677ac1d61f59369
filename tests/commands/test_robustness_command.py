"""`mmlight robustness` on a tiny classifier: its files, figures and refusals."""

import csv
import json

import cli_data
import pytest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier of colours by image and sound, which knows nothing of the place "sea"."""
    folder = tmp_path_factory.mktemp("robustness")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs")
    towers = values["model"]["init_args"]["towers"]
    values["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {
            "optimizer": {"lr": 3.0e-3},
            "schedule": {"warmup_steps": 2, "kind": "constant"},
            "towers": {"image": towers["image"], "audio": towers["audio"]},
        },
    }
    values = cli_data.changed(
        values,
        {
            "trainer.max_steps": 30,
            "trainer.max_epochs": -1,
            "data.init_args.members.text": None,
            "data.init_args.text": None,
            "data.init_args.train.without": {"json:place": "sea"},
            "data.init_args.test.shards": [str(data / "test"), str(data / "val")],
            "ema": {"decay": 0.5},
        },
    )
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path


def report(path, *arguments):
    return cli_data.run_in_process("robustness", "-c", path, "--ckpt_path", "last", *arguments)


def test_all_of_it_is_in_one_folder_beside_the_run(trained, capsys):
    run = cli_data.only_run(trained.parent / "runs")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert report(trained, "--severities", "1,5", "--group", "json:place") == 0
    folder = run / "robustness"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sorted(p.name for p in (folder / "plots").iterdir()) == [
        "robustness.png",
        "robustness_reliability.png",
    ]
    with (folder / "robustness.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = [f"image {k}" for k in ("noise", "blur", "jpeg", "occlusion")]
    kinds += ["audio noise", "audio tempo"]
    assert [(row["corruption"], int(row["severity"])) for row in rows] == [
        ("clean", 0),
        *((kind, severity) for kind in kinds for severity in (1, 5)),
        *[("clean", 0)] * 2,
    ]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    assert len({row["loss"] for row in rows}) > 8  # each corruption does something
    found = json.loads((folder / "robustness.json").read_text())
    assert 0.01 <= found["temperature"] <= 100
    groups = {row["group"]: row for row in found["groups"]["rows"]}
    assert {name: row["is_trained"] for name, row in groups.items()} == {"hill": True, "sea": False}
    assert sum(row["num_samples"] for row in groups.values()) == 18
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["final"]["robustness/clean/accuracy"] == float(rows[0]["accuracy"])
    page = (folder / "report.html").read_text()
    assert "<h2>Robustness</h2>" in page and "place sea* (6)" in page
    out = capsys.readouterr().out
    assert "image occlusion 5: accuracy" in out
    assert "not in training; mean" in out


def test_clean_scores_are_those_of_the_test_verb(trained):
    run = cli_data.only_run(trained.parent / "runs")
    assert cli_data.run_in_process("test", "-c", trained, "--ckpt_path", "last") == 0
    tested = json.loads((run / "test/summary.json").read_text())["final"]
    assert report(trained, "--corruptions", "none", "--group", "json:place") == 0
    clean = json.loads((run / "robustness/robustness.json").read_text())["evaluations"]
    assert len(clean) == 1
    for name in ("accuracy", "loss", "calibration_error", "image/accuracy"):
        assert clean[0][name] == tested[f"test/{name}"]


def test_metric_and_corruptions_are_chosen(trained, capsys):
    arguments = ("--corruptions", "audio:tempo", "--severities=2", "--metric", "loss")
    assert report(trained, *arguments) == 0
    out = capsys.readouterr().out
    assert "audio tempo 2: loss" in out and "image" not in out.partition("run:")[0]


def test_clean_data_alone_has_scores_and_no_curves(trained, capsys):
    assert report(trained, "--corruptions", "none") == 0
    folder = cli_data.only_run(trained.parent / "runs") / "robustness"
    assert "clean" in (folder / "robustness.csv").read_text()
    assert str(folder / "report.html") in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "<h2>Robustness</h2>" in page and ">robustness<" not in page
    assert "samples of test" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--severities", "1,6"], "--severities 1,6: name some of 1,2,3,4,5"),
        (["--corruptions", "image:blurr"], "did you mean 'image:blur'"),
        (["--corruptions", "text:typos"], "no effect on a model of image, audio"),
        (["--metric", "acuracy", "--corruptions", "none"], "did you mean 'accuracy'"),
        (["--group", "json:speaker", "--corruptions", "none"], "speaker"),
        (["--groups", "x"], "unknown key `groups`"),
    ],
)
def test_mistakes_are_told_in_a_line(trained, capsys, arguments, said):
    assert report(trained, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_checkpoint_is_needed(trained, capsys):
    assert cli_data.run_in_process("robustness", "-c", trained) == 2
    assert "needs trained weights" in capsys.readouterr().err
