"""Runs in the form that wandb's API gives them (the service itself is not here)."""

from types import SimpleNamespace

import pytest

from mmlight.runs.compare.settings import group
from mmlight.runs.wandb_api import compared


def api_run(seed):
    """Return what `wandb.Api().runs` gives for a run that `WandbRun` logged."""
    history = [
        {
            "_step": row,
            "trainer/global_step": step,
            "samples": 8 * step,
            "wall_s": 2.0 * step,
            "epoch": 0,
            **values,
        }
        for row, (step, values) in enumerate(
            [
                (1, {"train/loss": 2.0}),
                (2, {"train/loss": "NaN"}),
                (2, {"val/accuracy": 0.5 + 0.1 * seed, "pictures/curves": {"_type": "images"}}),
            ]
        )
    ]
    return SimpleNamespace(
        id=f"s{seed}",
        name=f"tiny/s{seed}",
        group="tiny",
        state="crashed" if seed == 2 else "finished",
        config={
            "seed_everything": seed,
            "model": {"width": 8},
            "provenance": {"git": {"commit": "a" * 40}, "devices": ["H200"], "num_devices": 4},
        },
        scan_history=lambda: iter([*history, {"_step": 9, "system": 1}]),
    )


def test_runs_of_w_and_b_are_compared_like_folders():
    runs = [compared(api_run(seed)) for seed in range(3)]
    (setting,) = group(runs)
    assert [run.label for run in runs] == ["tiny/s0", "tiny/s1", "tiny/s2"]
    assert [run.state for run in runs] == ["finished", "finished", "failed"]
    found = setting.spread(lambda run: run.final("val/accuracy"))
    assert found.mean == pytest.approx(0.55) and found.sd == pytest.approx(0.005**0.5)
    assert runs[0].metrics == ["train/loss", "val/accuracy"]
    assert runs[0].samples == 16 and runs[0].device_hours == pytest.approx(4 * 4 / 3600)
    assert runs[0].config == {"seed_everything": 0, "model.width": 8}
    assert runs[0].best("train/loss") == 2.0
