import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "bench" / "contrastive_loss.py"


@pytest.mark.slow
def test_the_last_line_of_the_loss_benchmark_holds_its_figures():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--only", "clip"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    name = "CLIP_B1024_naive_peak_MB"
    (theirs,), (ours,) = figures[f"{name}_other"], figures[f"{name}_mmlight"]
    assert 0 < ours < theirs
    assert figures[f"{name}_ratio"] == pytest.approx(ours / theirs, rel=0.01)
