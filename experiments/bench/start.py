"""What a start costs beyond the import of torch and Lightning: help, the first step, a mistake.

Purpose
    CPU seconds that a user waits for before anything happens. The goals: `mmlight fit --help` at
    most 1.1 times a bare ``import torch, lightning.pytorch``; the first step of the smallest
    experiment (a network over tokens, without timm and transformers) at most 1.5 s after that
    import. The quickstart's experiment beside it imports both.

Command
    python experiments/bench/start.py            # 7 rounds, some minutes
    python experiments/bench/start.py --quick    # 2 rounds

Hardware
    Any CPU. Each command is a process of its own on one thread; bytecode and files are warm (a
    first round counts for nothing). The commands take turns, so that a busy machine slows all of
    them. Given are medians of CPU time, user and system.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT = "import torch, lightning.pytorch"
FIRST_STEP = """
{imports}
import sys
from mmlight.experiment.build import build
build("fit", sys.argv[1:]).run()
"""


def cpu_s(command: list[str], *, status: int = 0) -> float:
    """Return the CPU seconds of a process, its children's too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != status:
        raise RuntimeError(f"{command}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(folder: Path) -> dict[str, list[str]]:
    """Return what takes turns; data for the first step is made below a folder."""
    mmlight = [sys.executable, "-m", "mmlight"]
    small = ["--samples", "32", "--eval-samples", "8", "--workers", "1"]
    scenes = folder / "scenes"
    cpu_s([*mmlight, "scenes", str(scenes), *small])
    tokens = ["--text", "txt", "--kind", "word", "--out", str(scenes / "tokenizer")]
    cpu_s([*mmlight, "tokenizer", "train", "--shards", str(scenes / "train"), *tokens])
    step = [sys.executable, "-c", FIRST_STEP.format(imports=IMPORT)]
    settings = [
        *(f"--data.train.shards={scenes}/train", f"--data.val.shards={scenes}/val"),
        *(f"--data.text.tokenizer.path={scenes}/tokenizer", "--data.num_workers=0"),
        *("--data.global_batch_size=8", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"),
        *(f"--run.root={folder}/runs", "--run.test=false", "--checkpoint.monitor=null"),
    ]
    smallest = [
        *("-c", "experiments/finetune/trec_scratch.yaml", "--ema=null"),
        f"--data.class_names={scenes}/classnames.txt",
    ]
    quickstart = [
        *("-c", "experiments/pretrain/scenes.yaml", "--pictures=null", "--zero_shot=null"),
        f"--data.class_names={scenes}/classnames.txt",
    ]
    return {
        "bare": [sys.executable, "-c", IMPORT],
        "help": [*mmlight, "fit", "--help"],
        "first_step": [*step, *smallest, *settings],
        "quickstart_step": [*step, *quickstart, *settings],
        "mistake": [*mmlight, "fit", "-c", "experiments/pretrain/scene.yaml"],
    }


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return the medians, and what the goals are about."""
    given = commands(folder)
    times: dict[str, list[float]] = {name: [] for name in given}
    for number in range(rounds + 1):
        for name, command in given.items():
            seconds = cpu_s(command, status=2 if name == "mistake" else 0)
            if number:
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"{name}_cpu_s": round(value, 3) for name, value in median.items()},
        "help_ratio": round(median["help"] / median["bare"], 3),
        **{
            f"{name}_after_import_cpu_s": round(median[name] - median["bare"], 3)
            for name in ("first_step", "quickstart_step")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), 2 if options.quick else options.rounds)
    for name, value in found.items():
        print(f"{name:32} {value:.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
