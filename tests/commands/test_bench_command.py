"""`mmlight bench` and `mmlight cost` on tiny real data."""

import json

import cli_data
import pytest

from mmlight.costs.step_parts import PARTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench")
    data = cli_data.write_data(path / "data")
    values = cli_data.changed(
        cli_data.experiment(data, path / "runs"),
        {"trainer.max_steps": None, "trainer.max_epochs": 4, "run.test": True},
    )
    cli_data.write_yaml(path / "tiny.yaml", values)
    return path


def test_bench_leaves_figures_and_nothing_else(folder, capsys):
    arguments = ("--steps", "3", "--warmup", "2", "--json", "--check")
    assert cli_data.run_in_process("bench", "-c", folder / "tiny.yaml", *arguments) == 0
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    run = cli_data.only_run(folder / "runs")
    assert run.name.startswith("bench-")
    assert [p.name for p in run.iterdir()] == ["bench.json"]
    figures = json.loads((run / "bench.json").read_text())
    assert figures == said
    assert figures["steps"] == 3
    assert set(figures["part_ms"]) == set(PARTS)
    assert all(figures["part_ms"][p] > 0 for p in ("data", "forward", "loss", "backward"))
    assert figures["part_ms"]["optimiser"] > 0 and figures["part_ms"]["communication"] == 0
    assert figures["sent_bytes_per_step"] == {}
    assert 0 < figures["roofline_share"] and 0 < figures["data_wait_share"] < 1
    assert figures["peak_memory_mb"] >= figures["base_memory_mb"] > 0
    assert figures["check"]["foretold_ms"] > 0 and figures["check"]["foretold_mb"] > 0


def test_cost_counts_what_bench_counts(folder, capsys):
    assert cli_data.run_in_process("cost", "-c", folder / "tiny.yaml", "--json") == 0
    out = capsys.readouterr().out
    cost = json.loads(out.strip().splitlines()[-1])
    arguments = ("--steps", "3", "--warmup", "2", "--json")
    cli_data.run_in_process("bench", "-c", folder / "tiny.yaml", *arguments)
    bench = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    # Captions differ in length from batch to batch.
    assert cost["flops_per_sample"] / 1e9 == pytest.approx(bench["gflop_per_sample"], rel=0.1)
    steps = 4 * 5
    assert cost["total_flops"] == pytest.approx(steps * 8 * cost["flops_per_sample"])
    assert cost["hours"] == pytest.approx(steps * cost["step_s"] / 3600)
    assert "ms a step" in out


def test_cost_on_devices_that_are_not_here(folder, capsys):
    arguments = ("--device", "h200", "--devices", "4", "--json", "--samples", "8000")
    arguments += ("--data.train.shards=nowhere/at/all.tar",)
    assert cli_data.run_in_process("cost", "-c", folder / "tiny.yaml", *arguments) == 0
    out = capsys.readouterr().out
    cost = json.loads(out.strip().splitlines()[-1])
    assert cost["device_hours"] == pytest.approx(4 * cost["hours"])
    assert cost["memory_fsdp"]["optimiser"] * 4 == pytest.approx(cost["memory_ddp"]["optimiser"])
    assert cost["sent_bytes"] > 0 and cost["kwh"] > 0
    assert "FSDP" in out and "nowhere" in out


def test_cost_on_more_devices_than_the_order_has_lanes(folder, capsys):
    arguments = ("--device", "h200", "--devices", "64", "--data.global_batch_size=64")
    arguments += ("--data.train.shards=nowhere/at/all.tar", "--samples", "8000")
    assert cli_data.run_in_process("cost", "-c", folder / "tiny.yaml", *arguments) == 0
    assert "needs --data.num_lanes 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--steps", "1"], "3 steps or more"),
        (["bench", "--ckpt_path", "last"], "starts as the experiment does"),
        (["cost", "--device", "h300"], "did you mean 'h200'"),
        (["cost", "--efficiency", "2"], "1 at most"),
        (["cost", "--devices", "3"], "cannot be divided"),
    ],
)
def test_cost_mistakes_are_told_in_a_line(folder, capsys, arguments, said):
    verb, *rest = arguments
    assert cli_data.run_in_process(verb, "-c", folder / "tiny.yaml", *rest) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
