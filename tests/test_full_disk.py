"""A full disk, folders that are read-only or gone: one line, not 0, nothing half written."""

import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import cli_data
import pytest

from mmlight.__main__ import main


def is_written(path):
    return path.exists() and (path.name == ".lock" or path.stat().st_size > 0)


@contextmanager
def files_of_at_most(size, *, after):
    """Let the system refuse what a file has beyond `size` bytes, as it does on a full disk.

    It begins when the file `after` has content; a lock, which stays empty, when it is there.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    done = threading.Event()

    def limit():
        while not is_written(after) and not done.is_set():
            time.sleep(0.001)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    thread = threading.Thread(target=limit)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = cli_data.write_data(tmp_path_factory.mktemp("full") / "data")
    splits = [str(folder / split) for split in ("train", "val", "test")]
    assert main(["shards", "index", *splits]) == 0
    return folder


@pytest.fixture
def fit(data, tmp_path):
    """Return a function that trains through the command line, in this process."""

    def run(changes, *more):
        values = cli_data.changed(cli_data.experiment(data, tmp_path / "runs"), changes)
        path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
        return cli_data.run_in_process("fit", "-c", path, "--run.id", "a", *more)

    return run


def assert_one_line(capsys, *words):
    told = [text for text in capsys.readouterr().err.splitlines() if text.strip()]
    # What a run may have said before: how many samples there are.
    (line,) = (text for text in told if not text.startswith("mmlight: train "))
    assert line.startswith("mmlight: ")
    for word in words:
        assert word in line


def half_written(folder):
    return [p for p in folder.rglob("*") if p.name.endswith((".part", ".partial"))]


# What does not fit, and from when on: each writer in turn.
@pytest.mark.parametrize(
    ("size", "after", "name", "in_background"),
    [
        (500, ".lock", "config.yaml", False),
        (100, "attempts.jsonl", "metrics.jsonl", False),
        (1_000, "provenance.json", "metrics", False),
        (50_000, "provenance.json", "step-00000002.ckpt", False),
        (50_000, "provenance.json", "step-00000002.ckpt", True),
    ],
)
def test_training_on_a_full_disk_ends_in_one_line(
    fit, tmp_path, capsys, size, after, name, in_background
):
    with files_of_at_most(size, after=tmp_path / "runs/tiny/a" / after):
        code = fit({"checkpoint": {"every_n_steps": 2, "asynchronous": in_background}})
    assert code == 1
    assert_one_line(capsys, name, "File too large")
    assert half_written(tmp_path) == []
    assert list(tmp_path.rglob("*.ckpt")) == []
    for rows in tmp_path.rglob("metrics.jsonl"):
        assert all(json.loads(line) for line in rows.read_text().splitlines()[:-1])


def test_run_goes_on_when_there_is_room_again(fit, tmp_path, capsys):
    with files_of_at_most(50_000, after=tmp_path / "runs/tiny/a/provenance.json"):
        assert fit({"checkpoint": {"every_n_steps": 2}}) == 1
    assert fit({"checkpoint": {"every_n_steps": 2}}, "--ckpt_path", "auto") == 0
    assert sorted(cli_data.losses(tmp_path / "runs/tiny/a")) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "blocked", ["runs", "runs/tiny/a/checkpoints", "runs/tiny/a/metrics.jsonl"]
)
def test_what_cannot_be_a_folder_or_a_file_ends_in_one_line(fit, tmp_path, capsys, blocked):
    path = tmp_path / blocked
    if path.suffix:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("in the way")
    assert fit({"checkpoint": {"every_n_steps": 2}}) == 1
    assert_one_line(capsys, blocked)


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="a folder that not even root may write to")
@pytest.mark.parametrize("verb", ["fit", "scenes"])
def test_folder_that_nobody_may_write_to_is_one_line(fit, capsys, verb):
    if verb == "fit":
        code = fit({}, "--run.root", "/sys/mmlight")
    else:
        code = main(["scenes", "/sys/mmlight/scenes"])
    assert code == 1
    assert_one_line(capsys, "/sys/mmlight")


@pytest.mark.parametrize("every", [3, 10_000])
def test_run_whose_folder_is_removed_does_not_end_well(fit, tmp_path, capsys, every):
    run = tmp_path / "runs/tiny/a"

    def remove():
        while not (run / "metrics.csv").exists():
            time.sleep(0.01)
        shutil.rmtree(run)

    thread = threading.Thread(target=remove)
    thread.start()
    code = fit({"checkpoint": {"every_n_steps": every}, "trainer.max_steps": 40})
    thread.join()
    assert code == 1
    assert_one_line(capsys, str(run), "removed while the run went on")
    assert not (run / "summary.json").exists()


def test_predictions_on_a_full_disk_leave_nothing_half_written(fit, tmp_path, capsys):
    run = tmp_path / "runs/tiny/a"
    assert fit({"checkpoint": {"every_n_steps": 6}}) == 0
    command = ("predict", "-c", tmp_path / "tiny.yaml", "--ckpt_path", "last")
    capsys.readouterr()
    with files_of_at_most(2_000, after=run / "predict/provenance.json"):
        assert cli_data.run_in_process(*command) == 1
    assert_one_line(capsys, "part-00000.parquet", "File too large")
    assert [path for path in (run / "predict").rglob("*part*")] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mmlight", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.strip() == "mmlight: No space left on device"


def tools(data, out):
    folder = data / "train"
    return {
        "pack": ("shards", "pack", data.parent / "pictures", out),
        "scenes": ("scenes", out, "--samples", "8", "--eval-samples", "4"),
        "tokenizer": ("tokenizer", "train", "--shards", folder, "--out", out, "--kind", "char"),
        "ngram": ("ngram", "--shards", folder, "--out", out),
    }


@pytest.mark.parametrize("tool", ["pack", "scenes", "tokenizer", "ngram"])
def test_tools_leave_nothing_half_written(data, tmp_path, capsys, tool):
    (data.parent / "pictures").mkdir(exist_ok=True)
    for number in range(3):
        picture = cli_data.make_sample(number)["png"]
        (data.parent / "pictures" / f"{number}.png").write_bytes(picture)
    command = tools(data, tmp_path / "out")[tool]
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        assert main([str(word) for word in command]) in (1, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_one_line(capsys, "File too large")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
