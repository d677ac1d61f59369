import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "bench" / "loader.py"


@pytest.mark.slow
def test_the_last_line_of_the_loader_benchmark_holds_its_figures():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--repeats", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for workers in (0, 1):
        ours = figures[f"mmlight_images_per_cpu_s_{workers}_workers"]
        usual = figures[f"usual_images_per_cpu_s_{workers}_workers"]
        assert ours > 0 and usual > 0
        assert figures[f"ratio_{workers}_workers"] == pytest.approx(ours / usual, rel=0.02)
    # not faster by being wrong
    assert figures["max_pixel_difference"] <= 2
    assert figures["psnr_min_db"] > 50
