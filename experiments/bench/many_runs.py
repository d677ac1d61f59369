"""How long `mmlight runs` and `mmlight ps` take where there are 10,000 run folders.

Purpose
    Wall and CPU seconds of the commands by which people look at their runs. The goal is at most
    2 s each with 10,000 run folders.

Command
    python experiments/bench/many_runs.py            # two minutes, most of them for the folders
    python experiments/bench/many_runs.py --quick    # 300 folders, some seconds

Hardware
    Any CPU with a local disk. The folders are in the memory of the system (a warm cache): a shared
    file system answers slower.

What is measured
    Folders as runs leave them: config.yaml (about 150 lines), metrics.jsonl (100 rows),
    attempts.jsonl, summary.json, provenance.json; 50 experiments; every tenth run was given to
    SLURM (submission.json; there is no SLURM here to ask), every twentieth failed, every fiftieth
    still goes on. All have ended within a day: `ps` asks for the state of each, and shows the last
    200 of them.

    Each command runs as people run it, in a process of its own with its imports and output;
    `nothing` is `mmlight --version`. The commands take turns. Given are medians and, in brackets,
    the extremes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from mmlight.runs.run.submission import Submission

COMMANDS = {
    "nothing": ["--version"],
    "runs": ["runs"],
    "runs --where setting": ["runs", "--where", "optimizer.lr=0.001"],
    "runs --where score": ["runs", "--where", "val/accuracy>0.8"],
    "runs --where, none": ["runs", "--where", "optimizer.lr=7"],
    "runs --all": ["runs", "--all"],
    "ps": ["ps"],
    "ps --all": ["ps", "--all"],
}
TOWER = {
    "class_path": "mmlight.encoders.timm_image.TimmImage",
    "init_args": {"model": "vit_tiny_patch16_224", "pretrained": False, "image_size": 64}
    | {f"setting_{n}": 0.1 * n for n in range(16)},
}


def config(number: int) -> dict:
    tower = {"encoder": TOWER, "locked": False, "pool": "mean", "changes": None}
    return {
        "seed_everything": number % 5,
        "trainer": {"max_steps": 1000, "accelerator": "cpu", "devices": 1}
        | {f"option_{n}": None for n in range(24)},
        "model": {
            "class_path": "mmlight.tasks.contrastive.Contrastive",
            "init_args": {
                "towers": {name: tower for name in ("image", "text")},
                "objective": {"class_path": "mmlight.objectives.clip.Clip", "init_args": {}},
                "optimizer": {"lr": 10.0 ** -(1 + number % 4), "betas": [0.9, 0.98]},
                "schedule": {"name": "cosine", "warmup_steps": 100, "min_lr": 0.0},
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {"train": "data/{000..009}.tar", "val": ["data/val.tar"], "seed": number}
            | {f"option_{n}": [1, 2, 3] if n % 5 == 0 else n for n in range(20)},
        },
        "checkpoint": {"keep": 2, "monitor": "val/accuracy", "every_n_minutes": 30},
        "run": {"root": "runs", "name": None, "id": None, "tags": ["paper", f"t{number % 7}"]},
    }


def rows(number: int) -> str:
    lines = []
    for n in range(1, 101):
        row = {"step": 10 * n, "epoch": 0, "samples": 640 * n, "wall_s": round(1.7 * n, 3)}
        row |= {"train/loss": 5.0 / n, "train/lr": 0.001, "train/samples_per_s": 371.2}
        row |= {"train/data_wait_share": 0.02, "train/grad_norm": 0.731}
        if n % 10 == 0:
            row |= {"val/loss": 4.0 / n, "val/accuracy": (n + number % 10) / 110}
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)


def write_run(path: Path, number: int) -> None:
    path.mkdir(parents=True)
    text = yaml.dump(config(number), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    (path / "config.yaml").write_text(text)
    (path / "metrics.jsonl").write_text(rows(number))
    now = time.time()
    facts = {
        "git": {"commit": "a" * 40, "branch": "main", "dirty": False, "patch_sha256": None},
        "devices": ["cpu"],
        "num_devices": 1,
        "packages": {f"package{n}": "1.2.3" for n in range(18)},
        "data": {"fingerprint": {"train": "f" * 64, "val": "e" * 64}},
    }
    (path / "provenance.json").write_text(json.dumps(facts, indent=2))
    status, reason = ("failed", "failed: ValueError: no") if number % 20 == 1 else ("finished",) * 2
    events = [{"event": "start", "time": now, "step": 0, "max_steps": 1000}]
    if number % 50 != 2:
        final = {f"val/score_{n}": n / 20 for n in range(10)}
        final |= {"val/accuracy": (100 + number % 10) / 110, "train/loss": 0.05}
        summary = {"name": path.parent.name, "id": path.name, "status": status, "error": None}
        summary |= {"final": final, "best": {k: {"value": v, "step": 9} for k, v in final.items()}}
        (path / "summary.json").write_text(json.dumps(summary | facts, indent=2))
        events.append({"event": "end", "time": now, "step": 1000, "reason": reason})
    (path / "attempts.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if number % 10 == 3:
        given = Submission(
            *(path.name, path.parent.name, "site.yaml", (str(100_000 + number),), now, "me"),
            *(1, 0, 1, str(path / "submitted.yaml"), "."),
            max_steps=1000,
            monitor="val/accuracy",
        )
        (path / "submission.json").write_text(json.dumps(asdict(given), indent=2))


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", "mmlight", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall = time.monotonic() - began
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def told(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time mmlight runs and ps on many run folders.")
    parser.add_argument("--quick", action="store_true", help="300 folders")
    parser.add_argument("--runs", type=int, help="how many folders (10,000; quick 300)")
    parser.add_argument("--repeats", type=int, help="of each command (5; quick 2)")
    parser.add_argument("--keep", type=Path, help="make the folders here, or use those there")
    options = parser.parse_args()
    count = options.runs or (300 if options.quick else 10_000)
    repeats = options.repeats or (2 if options.quick else 5)
    os.environ.setdefault("COLUMNS", "120")
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        for number in range(count):
            path = folder / "runs" / f"experiment{number % 50:02d}" / f"20260101-{number:06d}-ab12"
            if not path.exists():
                write_run(path, number)
            # A run is over with the end of its last attempt, some moments after its summary.
            os.utime(path / "attempts.jsonl")
        for _ in range(repeats):
            for name, arguments in COMMANDS.items():
                seconds, busy = measure(arguments, folder)
                wall[name].append(seconds)
                cpu[name].append(busy)
    table = Table("", "wall s", "CPU s", title=f"{count:,} run folders")
    for name in COMMANDS:
        table.add_row(name, told(wall[name]), told(cpu[name]))
    Console().print(table)
    figures: dict[str, object] = {"runs": count, "repeats": repeats}
    for name in COMMANDS:
        figures[f"{name} wall_s"] = round(statistics.median(wall[name]), 3)
        figures[f"{name} cpu_s"] = round(statistics.median(cpu[name]), 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
