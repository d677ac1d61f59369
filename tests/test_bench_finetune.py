import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "bench" / "finetune_sst2.py"


@pytest.mark.slow
def test_the_last_line_of_the_finetuning_benchmark_holds_its_figures(shared_data):
    pytest.importorskip("accelerate")
    if not (ROOT / "data" / "minilm").is_dir():
        pytest.skip("no weights in data/minilm (experiments/towers/text_minilm.yaml)")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["trainer_cpu_ratio"] == 1
    for side in ("trainer", "mmlight", "mmlight_buckets"):
        ours, theirs = figures[f"{side}_cpu_s_per_epoch"], figures["trainer_cpu_s_per_epoch"]
        assert figures[f"{side}_cpu_ratio"] == pytest.approx(ours / theirs, rel=0.02)
