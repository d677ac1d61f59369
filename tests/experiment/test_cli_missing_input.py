"""Samples without the only input that the model reads: left out, counted, named."""

import json

import cli_data
import pytest
import weights_data

from mmlight.runs.run.metrics_log import read_rows

SCORES = ("val/accuracy", "val/loss", "val/num_left_out")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of an image classifier, whose second training shard has labels alone."""
    folder = tmp_path_factory.mktemp("missing")
    data = cli_data.write_data(folder / "data")
    cli_data.write_shard(data / "train/1.tar", range(20, 40), without=("png",))
    cli_data.write_shard(data / "test/0.tar", range(50, 58), without=("png",))
    return folder, weights_data.train(weights_data.experiment(data, folder / "runs"), folder)


def values(run, name: str) -> list[float]:
    return [row[name] for row in read_rows(run / "metrics.jsonl") if name in row]


def test_training_goes_on_and_names_them(trained):
    _, run = trained
    named = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in named} == {"no image"} and len(named) > 10
    assert all(row["key"] >= "0020" for row in named)
    # each was replaced by one that has an image
    assert all(row["replaced_by"].startswith("0/00") for row in named)
    assert sum(values(run, "train/num_left_out")) >= len(named)
    assert not values(run, "val/num_left_out")


def test_scores_are_of_the_others(trained, capsys):
    folder, run = trained
    data, given = folder / "data", ("validate", "-c", folder / "tiny.yaml", "--ckpt_path", "last")
    found = {}
    for name, shards in {"some": data / "val", "both": f"{data}/{{val,test}}/0.tar"}.items():
        assert cli_data.run_in_process(*given, "--data.val.shards", shards) == 0
        found[name] = {n: values(run / "validate", n) for n in SCORES}
    assert "has no image, which is all that the model reads" in capsys.readouterr().err
    assert len(found["some"]["val/loss"]) == 1 and not found["some"]["val/num_left_out"]
    for score in ("val/accuracy", "val/loss"):
        assert found["both"][score][-1:] == pytest.approx(found["some"][score])
    assert found["both"]["val/num_left_out"] == [8]


def test_a_prediction_says_that_there_is_nothing_to_look_at(trained, capsys):
    folder, run = trained
    given = ("predict", "-c", folder / "tiny.yaml", "--ckpt_path", "last")
    shards = ("--data.predict.shards", f"{folder}/data/{{val,test}}/0.tar")
    assert cli_data.run_in_process(*given, *shards) == 0
    assert "no answer for 0050: no image" in capsys.readouterr().err
    lines = (run / "predict/predictions.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [row.get("error") for row in answers] == [None] * 10 + ["no image"] * 8
    assert not [row for row in answers if "error" in row and "label" in row]
