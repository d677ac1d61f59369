"""`mmlight soup` and `mmlight wise-ft` on short real runs."""

import csv
import json

import cli_data
import pytest
import torch
import weights_data

from mmlight.saved.checkpoint import read_saved
from mmlight.tasks.load import load_task

pytestmark = pytest.mark.slow  # three trainings, and a dozen starts of the command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The experiment's file, a run, a second of it by another seed, and an untrained one."""
    folder = tmp_path_factory.mktemp("weights")
    data = cli_data.write_data(folder / "data")
    values = weights_data.experiment(data, folder / "runs")
    first = weights_data.train(values, folder)
    second = weights_data.train(values, folder, "--seed_everything", "1")
    fresh = weights_data.train(values, folder, "--trainer.max_steps", "1")
    return folder / "tiny.yaml", first, second, fresh


def newest(run, kind):
    (folder,) = (path for path in run.parent.iterdir() if path.name.startswith(kind))
    return folder


def test_greedy_soup_is_no_worse_than_its_best_and_is_a_checkpoint(runs, capsys):
    path, first, second, fresh = runs
    given = [str(run) for run in (fresh, first, second)]
    assert cli_data.run_in_process("soup", *given, "-c", path, "--run.id", "g") == 0
    folder = newest(first, "soup-g")
    told = json.loads((folder / "soup.json").read_text())
    alone = [one["scores"]["accuracy"] for one in told["ingredients"]]
    assert told["metric"] == "accuracy" and told["batch_norm"] == "averaged"
    assert told["scores"]["val"]["accuracy"] >= max(alone)
    assert "soup of" in capsys.readouterr().out
    kept = [one for one in told["ingredients"] if one["kept"]]
    models = [read_saved(next((run / "checkpoints").glob("*.ckpt"))) for run in runs[1:]]
    by_path = dict(zip([str(run) for run in runs[1:]], models, strict=True))
    soup = read_saved(folder / "soup.ckpt").tensors
    name = "towers.image.encoder.model.conv1.0.weight"
    wanted = torch.stack([by_path[one["name"]].tensors[name] for one in kept]).double().mean(0)
    torch.testing.assert_close(soup[name], wanted.float(), rtol=0, atol=0)
    counter = next(name for name in soup if name.endswith("num_batches_tracked"))
    assert soup[counter].dtype == torch.int64
    # Every verb takes it, as any checkpoint.
    code = cli_data.run_in_process(
        *("test", "-c", path, "--ckpt_path", folder / "soup.ckpt", "--run.id", "t")
    )
    assert code == 0
    tested = json.loads((first.parent / "t/summary.json").read_text())["final"]
    assert tested["test/accuracy"] == pytest.approx(told["scores"]["test"]["accuracy"])
    assert len(load_task(folder / "soup.ckpt").class_names) == 4


def test_uniform_soup_can_take_new_statistics_of_batch_norms(runs):
    path, first, second, _ = runs
    arguments = ("soup", str(first), str(second), "-c", path, "--kind", "uniform")
    assert cli_data.run_in_process(*arguments, "--run.id", "u") == 0
    code = cli_data.run_in_process(*arguments, "--recompute-batch-norm", "5", "--run.id", "r")
    assert code == 0
    plain, renewed = (
        read_saved(newest(first, f"soup-{kind}") / "soup.ckpt").tensors for kind in "ur"
    )
    for name, tensor in plain.items():
        is_statistic = "running_" in name or "num_batches" in name
        assert torch.equal(tensor, renewed[name]) != is_statistic, name
    norms = json.loads((newest(first, "soup-r") / "soup.json").read_text())["batch_norm"]
    assert norms == "recomputed on 5 batches"


def test_wise_ft_walks_from_one_model_to_the_other(runs):
    path, tuned, _, fresh = runs
    code = cli_data.run_in_process(
        *("wise-ft", "--pretrained", fresh, "--finetuned", tuned, "-c", path, "--points", "3"),
        *("--corruption", "image:noise:2", "--run.id", "w"),
    )
    assert code == 0
    folder = newest(tuned, "wise-ft-w")
    told = json.loads((folder / "wise_ft.json").read_text())
    assert [point["alpha"] for point in told["points"]] == [0.0, 0.5, 1.0]
    assert set(told["points"][0]["scores"]) == {"val", "test", "second"}
    best = max(point["scores"]["val"]["accuracy"] for point in told["points"])
    chosen = next(p for p in told["points"] if p["alpha"] == told["alpha"])
    assert chosen["scores"]["val"]["accuracy"] == best
    rows = list(csv.DictReader((folder / "wise_ft.csv").open()))
    assert float(rows[1]["test/loss"]) == pytest.approx(told["points"][1]["scores"]["test"]["loss"])
    assert (folder / "wise_ft.png").read_bytes().startswith(b"\x89PNG")
    ours = read_saved(folder / "wise_ft.ckpt").tensors
    ends = [
        read_saved(next((run / "checkpoints").glob("*.ckpt"))).tensors for run in (fresh, tuned)
    ]
    name = "towers.image.encoder.model.conv1.0.weight"
    wanted = (1 - told["alpha"]) * ends[0][name].double() + told["alpha"] * ends[1][name].double()
    torch.testing.assert_close(ours[name], wanted.float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["soup", "{first}", "-c", "{yaml}"], "name two checkpoints or more"),
        (["soup", "{first}", "{second}"], "needs -c CONFIG"),
        (
            ["soup", "{first}", "{second}", "-c", "{yaml}", "--data.val", "null"],
            "chooses by data.val, which is not set",
        ),
        (
            ["soup", "{first}", "{second}", "-c", "{yaml}", "--metric", "acuracy"],
            r"no metric 'acuracy' (did you mean 'accuracy'?)",
        ),
        (
            ["wise-ft", "--pretrained", "{first}", "--finetuned", "{second}", "-c", "{yaml}",
             "--corruption", "image:noise:9"],
            "the severity is 1 to 5",
        ),
        (
            ["wise-ft", "--pretrained", "{first}", "--finetuned", "nothing", "-c", "{yaml}"],
            "--finetuned: nothing: no such run folder",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(runs, capsys, arguments, message):
    path, first, second, _ = runs
    filled = [a.format(first=first, second=second, yaml=path) for a in arguments]
    before = set(first.parent.iterdir())
    assert cli_data.run_in_process(*filled) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert set(first.parent.iterdir()) == before
