"""`mmlight predict` on plain files, with a config and with a checkpoint alone."""

import json
from pathlib import Path

import cli_data
import pyarrow.parquet as pq
import pytest
import weights_data
from interop import every_task

COLOURS = list(cli_data.COLOURS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An experiment's file, its run, and a folder of pictures without labels, one of them bad."""
    folder = tmp_path_factory.mktemp("predict")
    data = cli_data.write_data(folder / "data")
    values = weights_data.experiment(data, folder / "runs")
    run = weights_data.train(values, folder)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(5):
        (photos / f"{number}.png").write_bytes(cli_data.make_sample(number)["png"])
    (photos / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    return folder / "tiny.yaml", run, photos


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_are_predicted_with_the_config_and_with_the_checkpoint_alone(
    trained, capsys, monkeypatch
):
    path, run, photos = trained
    monkeypatch.chdir(photos.parent)
    given = ("--data.predict.files", "photos/0.png", "photos")
    code = cli_data.run_in_process("predict", "-c", path, "--ckpt_path", "last", *given)
    assert code == 0
    said = capsys.readouterr()
    assert "cannot read photos/3.png: " in said.err
    assert f"predictions: {run}/predict/predictions.jsonl" in said.out
    found = rows(run / "predict/predictions.jsonl")
    assert [row["key"] for row in found] == [f"photos/{n}.png" for n in range(5)]
    assert list(found[3]) == ["key", "index", "error"] and found[3]["error"].startswith("png: ")
    assert set(found[0]["probabilities"]) == set(COLOURS)
    assert found[0]["label"] in COLOURS
    told = [line for line in (run / "predict/bad_samples.jsonl").read_text().splitlines()]
    assert len(told) == 1 and "3.png" in told[0]

    path.rename(path.with_suffix(".away"))
    (photos.parent / "data").rename(photos.parent / "gone")
    try:
        code = cli_data.run_in_process(
            *("predict", "--ckpt_path", run, *given, "--run.id", "alone"),
            *("--run.root", photos.parent / "runs", "--predictions.format", "parquet"),
        )
    finally:
        path.with_suffix(".away").rename(path)
        (photos.parent / "gone").rename(photos.parent / "data")
    assert code == 0
    table = pq.read_table(photos.parent / "runs/tiny/alone/predictions.parquet").to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in table] == found


def test_shards_without_labels_are_predicted(trained, tmp_path):
    path, run, _ = trained
    cli_data.write_shard(tmp_path / "new/0.tar", range(3), without=("cls", "json", "txt", "flac"))
    code = cli_data.run_in_process(
        *("predict", "-c", path, "--ckpt_path", "last", "--data.predict.shards", tmp_path / "new")
    )
    assert code == 0
    found = rows(run / "predict/predictions.jsonl")
    assert [row["key"] for row in found] == ["0/0000", "0/0001", "0/0002"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path", "last", "--data.predict.files", "x"], "last needs -c CONFIG"),
        (["--ckpt_path", "{run}"], "predict needs something to read: --data.predict.files PATH"),
        (["--ckpt_path", "{run}", "--data.predict.files", "nope"], "no file or folder 'nope'"),
        (["--ckpt_path", "gone.ckpt"], "--ckpt_path: gone.ckpt: no such run folder"),
        (
            ["--ckpt_path", "{run}", "--data.predict.text", "hello"],
            "data.predict.text: this model takes image, not text",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_no_run(trained, tmp_path, capsys, arguments, message):
    _, run, _ = trained
    filled = [a.format(run=run) for a in arguments]
    code = cli_data.run_in_process("predict", *filled, "--run.root", tmp_path / "runs")
    assert code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and message in said[0]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.yaml"))


@pytest.mark.slow
def test_two_processes_write_what_one_does(trained, tmp_path):
    path, _, photos = trained
    checkpoint = next((trained[1] / "checkpoints").glob("*.ckpt"))
    found = []
    for devices in ("1", "2"):
        root = tmp_path / devices
        process = cli_data.start(
            *("predict", "-c", path, "--ckpt_path", checkpoint, "--data.predict.files", photos),
            *("--data.eval_batch_size", "2", "--trainer.devices", devices, "--run.root", root),
            *("--trainer.strategy", "ddp" if devices == "2" else "auto", "--run.id", "x"),
            cwd=tmp_path,
        )
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        found.append(rows(root / "tiny/x/predictions.jsonl"))
        assert [p.name for p in (root / "tiny/x").glob(".pred*")] == []
    assert [row["key"] for row in found[1]] == [row["key"] for row in found[0]]
    for one, two in zip(*found, strict=True):
        assert one.get("error") == two.get("error")
        assert one.get("probabilities") == pytest.approx(two.get("probabilities"), abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", every_task.OF_TOKENS)
def test_two_processes_say_what_one_does(name, tmp_path):
    task = every_task.make(name)
    path = every_task.save(task, tmp_path / "it.ckpt")
    endings = {"image": "png", "text": "txt", "audio": "wav"}
    kept = [endings[modality] for modality in task.tower_settings.given()]
    files = every_task.write_files(tmp_path / "files", count=5)
    for file in files.iterdir():
        if file.suffix[1:] not in kept:
            file.unlink()
    found = []
    for devices in ("1", "2"):
        process = cli_data.start(
            *("predict", "--ckpt_path", path, "--data.predict.files", files),
            *("--data.eval_batch_size", "2", "--trainer.devices", devices),
            *("--run.root", tmp_path / devices, "--run.name", "tiny", "--run.id", "x"),
            *("--trainer.strategy", "ddp" if devices == "2" else "auto"),
            cwd=tmp_path,
        )
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
        found.append(rows(tmp_path / devices / "tiny/x/predictions.jsonl"))
    assert len(found[0]) >= 5 and not any("error" in row for row in found[0])
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            same = pytest.approx(value, abs=1e-6) if isinstance(value, float | dict) else value
            assert two[key] == same, key
