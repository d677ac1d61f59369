"""One run folder with broken files stops no command for the others; what is left out is named."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

from compare_data import rows_of, write_run

from mmlight import files
from mmlight.__main__ import main
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.submission import Submission

CONFIG = {"model": {"init_args": {"optimizer": {"lr": 0.5}}}}
FILES = ("config.yaml", "metrics.jsonl", "attempts.jsonl", "summary.json", "submission.json")
DAMAGES = {
    "empty": b"",
    "torn": b'{"step": 1, "fin',
    "nul": b"\0" * 4096 + b"\n",
    "not utf-8": b"\xff\xfe\x80\n",
    "no object": b'[1, "a", null]\n7\n',
    "deep": b"[" * 100_000 + b"\n",
    "long": b'{"step": 1, "x": "' + b"y" * 200_000 + b'"}\n',
    "yaml": b"a: [\nb: *c\n\t-",
    "bomb": b"a: &a [1]\nlr: [*a, *a]\noptimizer: {lr: *z}\n",
    "types": json.dumps(
        {"step": [1], "epoch": "x", "wall_s": {}, "train/loss": "x", "val/loss": None}
        | {"status": 7, "error": {}, "final": [1], "name": 1, "id": None, "best": "x"}
        | {"event": "end", "time": "now", "reason": 5, "max_steps": "x", "job": "../../x"}
        | {"jobs": "12", "user": None, "cluster": 5, "changes": 3, "git": "x", "devices": 5}
    ).encode()
    + b"\n",
    "huge numbers": json.dumps(
        {"step": 10**30, "wall_s": 1e308, "train/loss": 10**400, "final": {"train/loss": 10**400}}
        | {
            "event": "start",
            "time": 1,
            "status": "finished",
            "jobs": ["x", "1_2_3"],
            "num_devices": "x",
        }
    ).encode()
    + b"\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A whole run, and one for each damage of each file."""
    root = tmp_path_factory.mktemp("damaged") / "runs"
    rows = rows_of((0.1, 0.2, 0.9), speed=10, seconds=1)

    def whole(path):
        write_run(path, config=CONFIG, rows=rows)
        append_event(path, "start", step=0, max_steps=30)
        append_event(path, "end", step=30, reason="finished")
        given = Submission(path.name, "x", "c.yaml", ("12",), time.time(), "me", 1, 0, 1, "c", ".")
        given.write(path)
        (path.parent / f"{path.name}.log").write_text("hello\n")
        return path

    whole(root / "good" / "one")
    for file in FILES:
        for number, damage in enumerate(DAMAGES.values()):
            (whole(root / "bad" / f"{file}-{number}") / file).write_bytes(damage)
        odd = whole(root / "bad" / f"{file}-folder") / file
        odd.unlink()
        odd.mkdir()
        odd = whole(root / "bad" / f"{file}-pipe") / file
        odd.unlink()
        os.mkfifo(odd)
        odd = whole(root / "bad" / f"{file}-link") / file
        odd.unlink()
        odd.symlink_to("/dev/zero")
    return root


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path, root):
    files.warn_once.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    monkeypatch.chdir(tmp_path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "command",
    [
        ["ps", "--all"],
        ["ps", "--metric", "val/loss"],
        ["runs", "--all"],
        ["runs", "--all", "--where", "optimizer.lr=0.5"],
        ["runs", "--all", "--where", "val/accuracy>0.8"],
        ["runs", "--csv", "--show", "optimizer.lr"],
        ["runs", "--status", "finished", "--metric", "val/accuracy", "--all"],
    ],
    ids=" ".join,
)
def test_lists_show_the_others_and_name_what_is_left_out(root, capsys, command):
    assert main([*command, "--root", str(root)]) == 0
    said = capsys.readouterr()
    assert "good/one" in said.out
    named = [line for line in said.err.splitlines() if "left out" in line]
    assert len(named) == len(set(named)) and all(line.startswith("mmlight: ") for line in named)
    if "optimizer.lr" in " ".join(command):
        assert any(f"{root}/bad/config.yaml-pipe/config.yaml: cannot" in line for line in named)
    if command[0] == "ps":
        for file in ("submission.json", "attempts.jsonl"):
            assert any(f"{root}/bad/{file}-pipe/{file}: cannot" in line for line in named)
        assert any(f"{root}/bad/submission.json-1/submission.json" in line for line in named)


@pytest.mark.timeout(120)
def test_compare_leaves_damaged_runs_out(root, capsys):
    names = [str(path) for path in sorted((root / "bad").iterdir()) if path.is_dir()]
    command = ["compare", "good/one", *names, "--root", str(root), "--metric", "val/accuracy"]
    assert main([*command, "--out", "out"]) == 0
    said = capsys.readouterr()
    assert "90.0" in said.out
    assert "bad/config.yaml-pipe" in said.err and "left out" in said.err
    assert main(["compare", str(root / "bad/config.yaml-1"), "--root", str(root)]) == 2


def test_logs_cancel_and_resume_say_it_in_a_line(root, capsys):
    assert main(["logs", "good/one", "--root", str(root)]) == 0
    for path in sorted((root / "bad").glob("*/")):
        assert main(["logs", str(path), "--root", str(root)]) in (0, 2)
        for verb in ("cancel", "resume"):
            capsys.readouterr()
            assert main([verb, str(path), "--root", str(root)]) == 2
            last = capsys.readouterr().err.splitlines()[-1]
            assert last.startswith("mmlight: ") and "Traceback" not in last
