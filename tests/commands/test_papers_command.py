"""`mmlight papers` on a card whose recipe is trained here."""

import json
import subprocess
import sys

import cli_data
import pytest

from mmlight.runs.papers.card import read_card
from mmlight.runs.papers.figures import BEGIN, END, figures
from mmlight.runs.papers.results import compared, read_results

TARGETS = {
    "title": "A classifier of colours",
    "paper": "nobody, 2026",
    "experiments": [{"file": "tiny.yaml", "what": "four colours", "seeds": [0, 1]}],
    "data": [{"path": "{data}/train", "from": "tests draw it"}],
    "targets": [
        {
            "experiment": "tiny.yaml",
            "on": "squares",
            "metric": "test/accuracy",
            "value": 90.0,
            "unit": "%",
            "by": "paper",
            "source": "its table 1",
            "status": "read",
        },
        {
            "experiment": "tiny.yaml",
            "on": "squares",
            "metric": "test/accuracy",
            "value": 85,
            "unit": "%",
            "by": "rerun",
            "source": "somebody",
            "status": "recalled",
        },
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cli_data.write_data(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def papers(data, tmp_path):
    """A folder of cards with one in it."""
    values = cli_data.experiment(data, tmp_path / "runs")
    towers = values["model"]["init_args"]["towers"]
    values["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": {"image": towers["image"]}, "optimizer": {"lr": 1.0e-3}},
    }
    values = cli_data.changed(
        values,
        {
            "data.init_args.members": {"image": "png", "label": "cls"},
            "data.init_args.text": None,
            "data.init_args.audio": None,
        },
    )
    values["trainer"]["max_steps"] = 2
    folder = tmp_path / "papers" / "tiny"
    cli_data.write_yaml(folder / "tiny.yaml", values)
    (folder / "README.md").write_text(f"# Tiny\n\nBefore.\n\n{BEGIN}\n{END}\n\nAfter.\n")
    write_targets(folder, json.loads(json.dumps(TARGETS).replace("{data}", str(data))))
    return tmp_path / "papers"


def write_targets(folder, values):
    (folder / "targets.json").write_text(json.dumps(values))


def run(*arguments):
    return cli_data.run_in_process("papers", *arguments)


def test_runs_are_recorded_and_compared(papers, tmp_path, capsys):
    for seed in (0, 1):
        code = cli_data.run_in_process(
            *("fit", "-c", papers / "tiny/tiny.yaml", "--run.test", "true"),
            *("--run.name", "tiny-tiny", "--seed_everything", seed),
            *("--model.optimizer.lr", 0.01 if seed else 0.001),
        )
        assert code == 0
    capsys.readouterr()
    root = ("--root", tmp_path / "runs", "--papers", papers)
    assert run("record", "tiny-tiny", *root, "--kwh", 0.5, "--deviation", "squares") == 0
    assert "tiny.yaml" in capsys.readouterr().out
    card = read_card(papers / "tiny")
    (result,) = read_results(card)
    runs = sorted((tmp_path / "runs/tiny-tiny").iterdir())
    scores = [json.loads((r / "summary.json").read_text())["final"]["test/accuracy"] for r in runs]
    assert sorted(result.values) == pytest.approx(sorted(100 * s for s in scores), abs=1e-3)
    assert result.value == pytest.approx(50 * sum(scores), abs=1e-3)
    assert result.std == pytest.approx(abs(scores[0] - scores[1]) * 100 / 2**0.5, abs=1e-3)
    assert sorted(result.seeds) == [0, 1]
    assert result.kwh == 0.5
    assert result.hours > 0
    # One run was made with another rate, which nobody had to tell.
    changed = ("squares", "model.optimizer.lr: 0.01 in place of 0.001")
    assert result.deviations == changed
    (one,) = compared(card)
    assert one.nearest.value == min((90, 85), key=lambda value: abs(value - result.value))
    readme = (papers / "tiny/README.md").read_text()
    assert readme == f"# Tiny\n\nBefore.\n\n{figures(card)}\n\nAfter.\n"
    assert "85 % recalled" in readme
    assert run("--papers", papers, "--format", "csv") == 0
    assert f"{result.value:.2f} ± {result.std:.2f} %,2,{one.verdict}" in capsys.readouterr().out
    with_other = cli_data.run_in_process("papers", "record", runs[0], runs[0].name, *root)
    assert with_other == 0  # named twice, it counts once
    assert read_results(card)[0].std is None


@pytest.mark.slow
def test_folds_are_recorded_as_folds(papers, tmp_path):
    targets = json.loads((papers / "tiny/targets.json").read_text())
    targets["experiments"][0] |= {"seeds": [], "folds": ["--k", "2"]}
    write_targets(papers / "tiny", targets)
    code = cli_data.run_in_process(
        *("folds", "-c", papers / "tiny/tiny.yaml", "--k", "2", "--run.name", "tiny-tiny"),
        *("--run.id", "cv", "--data.init_args.val", "null", "--data.init_args.test", "null"),
    )
    assert code == 0
    folder = tmp_path / "runs/tiny-tiny/cv"
    assert run("record", folder, "--papers", papers, "--root", tmp_path / "runs") == 0
    (result,) = read_results(read_card(papers / "tiny"))
    about = json.loads((folder / "folds.json").read_text())
    assert result.folds == ("fold0", "fold1")
    assert result.seeds == ()
    assert result.value == pytest.approx(100 * about["metrics"]["test/accuracy"]["mean"], abs=1e-3)
    assert result.deviations == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"titles": "x"}, "unknown key `titles` (did you mean 'title'?)"),
        ({"title": None}, "`title` must be text, not null"),
        ({"targets": [{}]}, "targets[0]: `on` is missing; it is text"),
        ({"targets": {}}, "`targets` must be a list of objects, not an object"),
        ({"targets": [TARGETS["targets"][0] | {"value": "90"}]}, 'must be a number, not "90"'),
        ({"targets": [TARGETS["targets"][0] | {"status": "sure"}]}, '"read" or "recalled"'),
        (
            {"experiments": [{"file": "no.yaml", "what": "x", "seeds": [1]}], "targets": []},
            "no.yaml",
        ),
        ({"experiments": [{"file": "tiny.yaml", "what": "x"}]}, "needs seeds"),
        ({"data": [{"path": 3, "from": "x"}]}, "data[0]: `path` must be text, not 3"),
    ],
)
def test_a_card_that_is_wrong_is_told_in_a_line(change, told, papers, capsys):
    targets = json.loads((papers / "tiny/targets.json").read_text())
    write_targets(papers / "tiny", targets | change)
    assert run("--papers", papers) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tinny",), "no card 'tinny'"),
        (("record", "nothing"), "no run 'nothing'"),
        (("record", "x", "--as", "tiny"), "needs CARD/EXPERIMENT"),
        (("record", "x", "--kwh", "-1"), "must not be negative"),
    ],
)
def test_a_wrong_name_is_told_in_a_line(arguments, told, papers, tmp_path, capsys):
    more = ("--root", tmp_path / "runs") if arguments[0] == "record" else ()
    assert run(*arguments, *more, "--papers", papers) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_broken_files_of_a_card_are_named(papers, capsys):
    (papers / "tiny/results.json").write_text('{"results": [{"value": 1}]}')
    assert run("--papers", papers) == 2
    assert "results[0]: `experiment` is missing" in capsys.readouterr().err
    (papers / "tiny/targets.json").write_text("{\n,")
    assert run("--papers", papers) == 2
    assert "targets.json line 2: no JSON" in capsys.readouterr().err
    assert run("--papers", papers / "none") == 2
    assert "no cards in" in capsys.readouterr().err


def test_cards_are_listed_without_torch(papers):
    program = f"""
import sys
from mmlight.__main__ import main
assert main(["papers", "--papers", {str(papers)!r}]) == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not run" in done.stdout


def test_cards_of_the_installation_are_listed_and_those_of_a_folder_are_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("list", "kim2014", "--format", "csv", "--device", "cpu") == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.startswith("kim2014,trec_rand.yaml CNN-rand,TREC,test/accuracy")
    assert run("page", "kim2014") == 0
    assert "Kim's CNN on TREC" in (tmp_path / "papers.html").read_text().replace("&#39;", "'")
    for verb in (("readme",), ("run", "kim2014"), ("record", "some/run")):
        assert run(*verb) == 2
        said = capsys.readouterr().err
        assert "no cards here" in said and "`mmlight init .` makes it" in said
        assert said.count("\n") == 1
    assert run("list", "kim2014", "--papers", "nowhere") == 2
    assert "no cards in nowhere" in capsys.readouterr().err
    assert cli_data.run_in_process("init", ".") == 0
    assert (tmp_path / "experiments/papers/kim2014/results.json").is_file()
    targets = tmp_path / "experiments/papers/kim2014/targets.json"
    targets.write_text(targets.read_text().replace("91.2", "91.3"))
    capsys.readouterr()
    assert run("readme") == 0
    assert capsys.readouterr().out == "wrote experiments/papers/kim2014/README.md\n"
    assert run("list", "kim2014") == 0
    assert "91.3" in capsys.readouterr().out


@pytest.mark.slow
def test_run_trains_each_seed_and_records(papers, tmp_path, capsys):
    root = ("--root", tmp_path / "runs", "--papers", papers)
    assert run("run", "tiny/tiny", *root, "--trainer.max_steps", 1) == 0
    card = read_card(papers / "tiny")
    (result,) = read_results(card)
    assert result.seeds == (0, 1)
    assert result.deviations == ("trainer.max_steps: 1 in place of 2",)
    assert sorted(run.name for run in (tmp_path / "runs/tiny-tiny").iterdir()) == [
        label.partition("/")[2] for label in result.runs
    ]
    assert figures(card) in (papers / "tiny/README.md").read_text()


def test_run_says_which_data_is_not_here_and_where_it_comes_from(papers, capsys):
    targets = json.loads((papers / "tiny/targets.json").read_text())
    targets["data"] += [
        {"path": "nowhere/shards", "from": "a friend"},
        {"path": "nowhere/else", "from": "a foe", "experiments": ["other.yaml"]},
    ]
    write_targets(papers / "tiny", targets)
    assert run("run", "tiny", "--papers", papers) == 2
    said = capsys.readouterr().err
    assert "card tiny, tiny.yaml: not here: nowhere/shards (from: a friend)" in said
    assert "nowhere/else" not in said
    assert run("run", "tiny/tin", "--papers", papers) == 2
    assert "has no experiment 'tin' (did you mean 'tiny'?)" in capsys.readouterr().err


def test_costs_are_foretold_without_the_data(papers, data, capsys):
    targets = json.loads((papers / "tiny/targets.json").read_text())
    targets["experiments"][0]["samples"] = 1000
    compute = {"experiment": "tiny.yaml", "device": "a100", "devices": 2, "device_hours": 7}
    targets["compute"] = [compute | {"source": "nobody", "status": "recalled"}]
    write_targets(papers / "tiny", targets)
    text = (papers / "tiny/tiny.yaml").read_text().replace(f"{data}/train", "nowhere")
    (papers / "tiny/tiny.yaml").write_text(text)
    assert run("list", "--papers", papers, "--device", "h100", "--format", "csv") == 0
    head, row = capsys.readouterr().out.splitlines()[:2]
    cells = dict(zip(head.split(","), row.replace('"90 %", ', "").split(","), strict=False))
    assert head.endswith("stated device-h,foretold device-h,devices,kWh,GiB a device")
    assert float(cells["stated device-h"]) == 7
    assert float(cells["foretold device-h"]) > 0
    assert cells["devices"] == "2"
    assert run("--papers", papers, "--device", "h1000") == 2
    assert "h1000" in capsys.readouterr().err


def test_the_page_holds_everything_itself(papers, tmp_path):
    result = {
        "experiment": "tiny.yaml",
        "metric": "test/accuracy",
        "unit": "%",
        "value": 70.0,
        "std": 2.0,
        "values": [68, 72],
        "seeds": [0, 1],
        "folds": [],
        "deviations": ["<b>another rate</b>"],
        "hardware": "CPU",
        "hours": 0.1,
        "kwh": None,
        "commit": "abc",
        "uncommitted": False,
        "runs": ["tiny-tiny/a", "tiny-tiny/b"],
        "recorded": "2026-01-01",
        "why": "two steps are too few",
    }
    (papers / "tiny/results.json").write_text(json.dumps({"results": [result]}))
    page = tmp_path / "out.html"
    assert run("page", "--papers", papers, "--out", page) == 0
    text = page.read_text()
    assert "missed: -15.00 from 85 % recalled (rerun)" in text
    assert "two steps are too few" in text
    assert "data:image/png;base64," in text
    assert "Before." in text
    # A card's row leads to its part, and what is not run stands apart.
    assert '<a href="#tiny">tiny</a>' in text and '<h2 id="tiny">' in text
    assert "<h2>Run here</h2>" in text and "<h2>Not run here</h2>" not in text
    assert "<h2>Costs</h2>" not in text
    assert run("page", "--papers", papers, "--out", page, "--device", "cpu") == 0
    assert "<h2>Costs</h2>" in page.read_text()
    assert 'src="http' not in text
    assert "<link" not in text
    assert "<script" not in text
