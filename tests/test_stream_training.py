"""``mmlight fit`` in the README's stream mode, on two processes."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import cli_data
import pytest
import yaml

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def settings(**changes):
    """Return what the README says of a stream."""
    (block,) = re.findall(r"```yaml\n(data:\n  init_args:\n    mode: stream\n.*?)```", README, re.S)
    given = yaml.safe_load(block)["data"]["init_args"]
    assert given["train"]["shards"].endswith(".tar.gz")
    return given | {"samples_per_epoch": 40, "num_workers": 1} | changes


def train(folder, given):
    """Train 6 steps; a machine that is busy takes minutes to start two processes."""
    values = cli_data.experiment(folder / "data", folder / "runs")
    values = cli_data.changed(
        values, {f"data.init_args.{key}": value for key, value in given.items()}
    )
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    more = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    process = cli_data.start(
        *("fit", "-c", path, *more), cwd=folder, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1"
    )
    try:
        said, error = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert (said + error).count("data.mode: stream: ") == 1
    assert sorted(cli_data.losses(cli_data.only_run(folder / "runs"))) == list(range(1, 7))


@pytest.fixture
def folder(tmp_path):
    cli_data.write_data(tmp_path / "data")
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "data/train").glob("*.tar"):
        (tmp_path / "there" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_train_on_compressed_shards_of_a_plain_server(folder):
    """Python's own server, which knows no ranges."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, cwd=folder / "there", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())[1]
            shards = f"http://127.0.0.1:{port}/{{0..1}}.tar.gz"
            train(folder, settings(train={"shards": shards}))
        finally:
            server.kill()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_train_on_pipes(folder):
    pipes = [folder / f"{rank}.pipe" for rank in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)
    # Each rank takes 24 samples; shards are written as long as somebody reads.
    shell = "while cat data/train/{}.tar data/train/{}.tar; do :; done > {}.pipe"
    writers = [
        subprocess.Popen(["sh", "-c", shell.format(n, 1 - n, n)], cwd=folder, stderr=-3)
        for n in range(2)
    ]
    try:
        train(folder, settings(train={"shards": [str(pipe) for pipe in pipes]}))
        for writer in writers:
            writer.wait(60)  # the end of training ends them
    finally:
        for writer in writers:
            writer.kill()
