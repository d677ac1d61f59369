"""Sweep files, what they try, and what their results look like."""

import json
from pathlib import Path

import pytest
import yaml

from mmlight import compose
from mmlight.errors import UserError
from mmlight.runs.plan.configs import wandb_config
from mmlight.runs.plan.pictures import plot_sweep
from mmlight.runs.plan.results import (
    Result,
    SweepFolder,
    best,
    format_results,
    read_run,
    short_names,
    write_results,
)
from mmlight.runs.plan.sweep import TrialRun, load, trial_runs

LR = "model.init_args.optimizer.lr"
GIVEN = {
    "experiment": "tiny.yaml",
    "parameters": {LR: {"log_uniform": ["1e-5", 1.0e-3]}, "depth": {"int": [1, 3]}},
    "metric": "val/accuracy",
    "trials": 6,
}


def read(folder, **changes):
    (folder / "tiny.yaml").write_text("{}\n")
    given = {k: v for k, v in (GIVEN | changes).items() if v is not None}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    return load(folder / "sweep.yaml")


def test_grid_is_every_combination(tmp_path):
    parameters = {"a": [1, 2], "b": ["x", None], "c": {"int": [3, 4]}}
    sweep = read(tmp_path, searcher="grid", parameters=parameters, trials=None)
    found = sweep.combinations()
    assert len(found) == 8
    assert found[0] == {"a": 1, "b": "x", "c": 3}
    assert found[-1] == {"a": 2, "b": None, "c": 4}


def test_random_values_are_in_their_ranges_and_the_same_in_each_process(tmp_path):
    sweep = read(tmp_path, trials=200)
    found = sweep.combinations()
    assert found == read(tmp_path, trials=300).combinations()[:200]
    assert all(1e-5 <= values[LR] <= 1e-3 for values in found)
    assert 60 < sum(values[LR] < 1e-4 for values in found) < 140  # half of the logarithms
    assert {values["depth"] for values in found} == {1, 2, 3}
    assert all(values[LR] == float(f"{values[LR]:.4g}") for values in found)
    assert read(tmp_path, seed=1).combinations() != found[:6]


def test_a_parameter_with_one_value_is_a_setting_of_every_run(tmp_path):
    sweep = read(tmp_path, parameters={"a": [1], "b": [1, 2]})
    assert sweep.varied == ["b"]
    assert sweep.drawn(0)["a"] == 1
    assert read(tmp_path, parameters={"a": [1]}).varied == ["a"]


def test_each_combination_runs_with_each_seed(tmp_path):
    sweep = read(tmp_path, seeds=[3, 4])
    runs = trial_runs(sweep, 7, {"a": 1})
    assert [run.id for run in runs] == ["trial-007-seed3", "trial-007-seed4"]
    assert runs[0].overrides() == ["--a=1", "--seed_everything=3", "--data.init_args.seed=3"]


def test_values_reach_the_command_line_as_yaml(tmp_path):
    values = {"a": None, "b": True, "c": [1, 2], "d": {"e": 1}, "f": "text", "g": 1e-05}
    texts = TrialRun(0, values).overrides()
    read_back = {t[2:].partition("=")[0]: yaml.safe_load(t.partition("=")[2]) for t in texts}
    assert read_back == values | {"g": "1e-05"}  # the command line's own parser knows 1e-05


def test_direction_comes_from_the_metric(tmp_path):
    assert read(tmp_path).direction == "max"
    assert read(tmp_path, metric="val/loss").direction == "min"
    assert read(tmp_path, metric="val/loss", direction="max").direction == "max"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": "x"}, r"unknown key `metrics` \(did you mean 'metric'"),
        ({"metric": None}, "`metric` is not set"),
        ({"metric": "accuracy"}, "write val/accuracy"),
        ({"experiment": "no.yaml"}, "there is no file .*no.yaml"),
        ({"searcher": "tpe"}, "'tpe' must be one of grid, random, optuna"),
        ({"direction": "up"}, "'up' must be one of min, max"),
        ({"trials": None}, "trials: None must be a whole number"),
        ({"searcher": "grid", "trials": None}, "a grid needs a list of values"),
        ({"searcher": "grid", "parameters": {"a": [1]}}, "trials: has no effect on a grid"),
        ({"prune": True}, "prune: true has an effect only with `searcher: optuna`"),
        ({"prune": True, "searcher": "optuna", "seeds": [0, 1]}, "prune: true needs one seed"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"parameters": {"a": []}}, "parameters.a: has no values"),
        ({"parameters": {"a": 3}}, "parameters.a: must be a list of values or one of"),
        ({"parameters": {"a": {"uniform": [1, "x"]}}}, "must be two numbers"),
        ({"parameters": {"a": {"uniform": [2, 1]}}}, "first must be below the second"),
        ({"parameters": {"a": {"log_uniform": [0, 1]}}}, "both must be above 0"),
        ({"parameters": {"a": {"int": [0.5, 1]}}}, "must be whole numbers"),
    ],
)
def test_mistakes_are_told_by_key(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, **changes)


def finish(folder, run, *, final, best=None, status="finished", error=None):
    path = folder.run_path(run)
    path.mkdir(parents=True)
    summary = {
        "status": status,
        "error": error,
        "final": final,
        "best": {name: {"value": v, "step": 1} for name, v in (best or final).items()},
        "wall_s": 30,
    }
    (path / "summary.json").write_text(json.dumps(summary))


def test_a_run_counts_by_its_final_or_its_best_value(tmp_path):
    folder, run = SweepFolder(tmp_path, "s"), TrialRun(0, {"a": 1})
    assert read_run(folder, run, read(tmp_path)).state == "new"
    finish(folder, run, final={"val/accuracy": 0.5}, best={"val/accuracy": 0.7})
    assert read_run(folder, run, read(tmp_path)).scores == (0.5,)
    assert read_run(folder, run, read(tmp_path, value="best")).scores == (0.7,)
    with pytest.raises(UserError, match=r"no metric 'val/acuracy' \(did you mean 'val/accuracy'"):
        read_run(folder, run, read(tmp_path, metric="val/acuracy", direction="max"))


def test_failed_and_diverged_runs_have_no_score(tmp_path):
    sweep, folder = read(tmp_path), SweepFolder(tmp_path, "s")
    runs = [TrialRun(number, {}) for number in range(3)]
    finish(folder, runs[0], final={}, status="failed", error="RuntimeError: no")
    finish(folder, runs[1], final={"val/accuracy": float("nan")})
    finish(folder, runs[2], final={}, status="interrupted")
    found = [read_run(folder, run, sweep) for run in runs]
    assert [(r.state, r.score) for r in found] == [
        ("failed", None),
        ("failed", None),
        ("stopped", None),
    ]
    assert found[0].error == "RuntimeError: no"


RESULTS = [
    Result(0, {LR: 1e-5, "depth": 1}, "finished", (0.5, 0.7), wall_s=60),
    Result(1, {LR: 1e-3, "depth": 3}, "failed", error="RuntimeError: no"),
    Result(2, {LR: 1e-4, "depth": 2}, "finished", (0.8, 0.9)),
]


def test_best_file_runs_the_experiment_with_the_best_values(tmp_path):
    sweep, folder = read(tmp_path), SweepFolder(tmp_path / "runs", "s")
    folder.open(sweep)
    write_results(folder, RESULTS, sweep)
    assert best(RESULTS, sweep).number == 2
    layers = compose.expand(folder.best_yaml)
    assert [layer.path.name for layer in layers] == ["tiny.yaml", "best.yaml"]
    assert layers[-1].values == {
        "model": {"init_args": {"optimizer": {"lr": 1e-4}}},
        "depth": 2,
    }
    table = (folder.path / "results.csv").read_text().splitlines()
    assert table[0] == f"trial,state,{LR},depth,val/accuracy,std,minutes,error"
    assert table[1].startswith("0,finished,1e-05,1,0.6,0.14142")
    assert table[2] == "1,failed,0.001,3,,,0.0,RuntimeError: no"


def test_smallest_is_best_where_less_is_better(tmp_path):
    assert best(RESULTS, read(tmp_path, metric="val/loss")).number == 0
    assert best(RESULTS[1:2], read(tmp_path)) is None


def test_table_is_sorted_and_shows_the_spread_over_seeds(tmp_path):
    table = format_results(RESULTS, read(tmp_path, seeds=[0, 1]))
    cells = list(zip(*table.texts, strict=True))
    assert table.headings[:3] == ["trial", "lr", "depth"]
    assert cells[0] == ("2", "0", "1")
    assert list(cells[3]) == ["85.0 % ± 7.1 %", "60.0 % ± 14.1 %", "failed"]


def test_folder_of_other_settings_is_refused_but_more_trials_are_not(tmp_path):
    folder = SweepFolder(tmp_path / "runs", "s")
    folder.open(read(tmp_path))
    folder.open(read(tmp_path, trials=60))
    with pytest.raises(UserError, match=r"of a sweep with seed: None, now it is 2.*--name"):
        folder.open(read(tmp_path, seed=2))


def test_short_names_tell_keys_apart():
    keys = [
        "model.init_args.towers.image.lr",
        "model.init_args.towers.text.lr",
        "data.init_args.seed",
    ]
    assert short_names(keys) == ["image.lr", "text.lr", "seed"]


def test_picture_has_a_panel_per_parameter(tmp_path):
    path = plot_sweep(RESULTS, read(tmp_path), tmp_path / "sweep.png")
    assert path.stat().st_size > 5000
    assert plot_sweep(RESULTS[1:2], read(tmp_path), tmp_path / "none.png") is None


def test_wandb_config_holds_what_its_schema_asks_for(tmp_path):
    parameters = GIVEN["parameters"] | {"batch": [8, 16], "p": {"uniform": [0, 1]}}
    sweep = read(tmp_path, searcher="optuna", parameters=parameters, prune=True, seeds=[3])
    config = wandb_config(sweep, name="s", root="runs")
    assert config["method"] == "bayes"
    assert config["metric"] == {"name": "val/accuracy", "goal": "maximize"}
    assert config["parameters"] == {
        LR: {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "depth": {"min": 1, "max": 3},
        "batch": {"values": [8, 16]},
        "p": {"distribution": "uniform", "min": 0.0, "max": 1.0},
    }
    assert config["run_cap"] == 6
    assert config["command"][:4] == ["${env}", "${program}", "fit", "-c"]
    assert config["command"][-1] == "${args}"
    assert "--data.init_args.seed=3" in config["command"]


def test_wandb_agents_fill_in_arguments_that_the_command_line_reads(tmp_path):
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    values = {LR: 0.00013, "flag": True, "name": "x"}
    made = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    assert made["args"] == [f"--{LR}=0.00013", "--flag=True", "--name=x"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [0, 1]}, "no mean over seeds"),
        ({"value": "best"}, "compare the value that a run ends with"),
        ({"parameters": {"a": [[1, 2]]}}, "parameters.a: W&B's agents"),
    ],
)
def test_what_wandb_has_not_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        wandb_config(read(tmp_path, **changes), name="s", root="runs")


EXAMPLES = sorted((Path(__file__).parents[3] / "experiments" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_can_be_read(path):
    assert load(path).parameters


@pytest.mark.parametrize(
    "summary",
    [
        *(b"[1]", b"{", b"\0" * 9, b"{}", b'{"status": "finished", "error": null}'),
        *(
            b'{"status": [], "error": 7, "wall_s": "x"}',
            b'{"status": 1, "error": null, "wall_s": []}',
        ),
        b'{"status": "finished", "error": null, "final": 7}',
        b'{"status": "finished", "error": null, "final": {"val/accuracy": {}}}',
    ],
)
def test_a_damaged_summary_stops_no_sweep(tmp_path, summary):
    folder, sweep = SweepFolder(tmp_path / "runs", "s"), read(tmp_path)
    run = trial_runs(sweep, 0, sweep.combinations()[0])[0]
    folder.run_path(run).mkdir(parents=True)
    (folder.run_path(run) / "summary.json").write_bytes(summary)
    assert read_run(folder, run, sweep).state in ("failed", "stopped", "running")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 3}, "seeds: 3 must be a list of whole numbers, such as [0, 1, 2]"),
        ({"seeds": "012"}, "seeds: '012' must be a list"),
        ({"seeds": {"a": 1}}, "must be a list"),
        ({"seeds": 0}, "seeds: 0 must be a list"),
        ({"seeds": [True]}, "must be whole numbers"),
        ({"parameters": {1: [2]}}, "parameters.1: must be a key of the configuration"),
    ],
)
def test_seeds_that_are_no_list_are_refused_in_one_line(tmp_path, changes, said):
    (tmp_path / "e.yaml").write_text("{}")
    given = {"experiment": "e.yaml", "parameters": {"a.b": [1]}, "metric": "val/loss"}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**given, "trials": 1, **changes}))
    with pytest.raises(UserError) as error:
        load(path)
    assert said in str(error.value)
