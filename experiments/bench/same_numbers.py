"""Whether a change of the code kept every number: losses, scores and predicted rows, bit for bit.

Purpose
    A change meant to keep numbers is shown to do so: `record` before it, `record` after it, then
    `compare`.

Command
    python experiments/bench/same_numbers.py record before.json        # 20 minutes of one core
    python experiments/bench/same_numbers.py record after.json trec_scratch bccd_dense
    python experiments/bench/same_numbers.py record two.json scenes --ranks 2 --steps 20
    python experiments/bench/same_numbers.py compare before.json after.json
    python experiments/bench/same_numbers.py record after.json --quick # 2 steps of the scenes

    Data and tokenizers must be there, as the head of each experiment says. `record` runs the
    mmlight of the Python that runs it, in the working directory.

Hardware
    Any CPU, one thread per process. Both records must come from one machine: another processor
    rounds differently.

What is recorded
    For each experiment: everything logged about a loss in each step of training, all scores of
    validation and test (four batches each) after the last step, and a checksum of the rows that
    `mmlight predict` writes with the run's checkpoint. Times and memory are left out.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

EXPERIMENTS = {
    "scenes": "pretrain/scenes",
    "spoken_digits": "pretrain/spoken_digits",
    "trec_scratch": "finetune/trec_scratch",
    "wnut17_minilm": "finetune/wnut17_minilm",
    "esc10_scratch": "finetune/esc10_scratch",
    "bccd_dense": "finetune/bccd_dense",
    "an4_ctc": "finetune/an4_ctc",
    "spoken_digits_fusion": "finetune/spoken_digits_fusion",
}
SCORES = ("val/", "test/", "ema/")
WRITTEN = ("predictions.jsonl", "embeddings/*")
BATCHES = 4

Numbers = dict[str, dict[str, dict[str, float]] | str]


def run_mmlight(*arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "mmlight", *arguments]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{' '.join(command)}\n{answer.stdout[-2000:]}{answer.stderr[-4000:]}")


def read_logged(run: Path) -> dict[str, dict[str, float]]:
    """Losses and scores by step, from a run's metrics.jsonl."""
    logged: dict[str, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if ("loss" in name and not name.endswith("_ms")) or name.startswith(SCORES):
                logged.setdefault(str(row["step"]), {})[name] = value
    return logged


def record(name: str, *, steps: int, ranks: int, folder: Path) -> Numbers:
    """Train `name` for `steps` on `ranks` processes, score it, and predict its validation set."""
    experiment = f"experiments/{EXPERIMENTS[name]}.yaml"
    place = ["--run.root", str(folder), "--run.name", name]
    limits = [x for s in ("val", "test") for x in (f"--trainer.limit_{s}_batches", str(BATCHES))]
    if ranks > 1:
        limits += ["--trainer.devices", str(ranks), "--trainer.strategy", "ddp"]
    run_mmlight(
        *("fit", "-c", experiment, *place, "--run.id", "fit", *limits),
        *("--trainer.max_steps", str(steps), "--trainer.log_every_n_steps", "1"),
    )
    config = yaml.safe_load((folder / name / "fit" / "config.yaml").read_text(encoding="utf-8"))
    data = config["data"]["init_args"]
    shards = next(data[split]["shards"] for split in ("val", "test", "train") if data.get(split))
    run_mmlight(
        *("predict", "-c", experiment, *place, "--run.id", "rows"),
        *("--data.predict", json.dumps({"shards": shards})),
        *("--ckpt_path", str(folder / name / "fit")),
        *("--trainer.limit_predict_batches", str(BATCHES)),
    )
    rows = hashlib.sha256()
    written = sorted(p for kind in WRITTEN for p in (folder / name / "rows").glob(kind))
    assert written, f"predict wrote no rows of {name}"
    for path in written:
        rows.update(path.read_bytes())
    return {"logged": read_logged(folder / name / "fit"), "rows": rows.hexdigest()}


def find_differences(before: dict[str, Numbers], after: dict[str, Numbers]) -> list[str]:
    """One line for each number that differs, or stands on one side only."""
    lines = []
    for name in before.keys() & after.keys():
        old, new = before[name]["logged"], after[name]["logged"]
        assert isinstance(old, dict) and isinstance(new, dict)
        for step in sorted(old.keys() | new.keys(), key=int):
            values, others = old.get(step, {}), new.get(step, {})
            for key in sorted(values.keys() | others.keys()):
                if values.get(key) != others.get(key):
                    lines.append(
                        f"{name}, step {step}, {key}: {values.get(key)} before, {others.get(key)}"
                    )
        if before[name]["rows"] != after[name]["rows"]:
            lines.append(f"{name}: the rows of predict differ")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    recorder = verbs.add_parser("record")
    recorder.add_argument("file", type=Path)
    recorder.add_argument("names", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all if none")
    recorder.add_argument("--steps", type=int, default=50)
    recorder.add_argument("--ranks", type=int, default=1)
    recorder.add_argument("--quick", action="store_true", help="two steps of the scenes")
    comparer = verbs.add_parser("compare")
    comparer.add_argument("before", type=Path)
    comparer.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.verb == "compare":
        before, after = (json.loads(p.read_text()) for p in (given.before, given.after))
        lines = find_differences(before, after)
        names = sorted(before.keys() & after.keys())
        print("\n".join(lines) or f"equal: {', '.join(names)}")
        print(json.dumps({"experiments": len(names), "differences": len(lines)}))
        sys.exit(1 if lines or not names else 0)
    names = ["scenes"] if given.quick else given.names or list(EXPERIMENTS)
    steps = 2 if given.quick else given.steps
    numbers = json.loads(given.file.read_text()) if given.file.exists() else {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            numbers[name] = record(name, steps=steps, ranks=given.ranks, folder=Path(folder))
        given.file.write_text(json.dumps(numbers, indent=1))
        print(f"{name}: {len(numbers[name]['logged'])} steps")
    print(json.dumps({"experiments": len(numbers)}))


if __name__ == "__main__":
    main()
