"""Run folders made by hand, with numbers that can be checked on paper."""

import json
from pathlib import Path
from typing import Any

import yaml

STEPS = (10, 20, 30)
# By learning rate: for each of four seeds, val/accuracy at the three steps.
ACCURACY = {
    0.1: ((0.5, 0.6, 0.7), (0.5, 0.7, 0.8), (0.4, 0.6, 0.7), (0.6, 0.9, 0.8)),
    0.01: ((0.3, 0.4, 0.5), (0.3, 0.4, 0.5), (0.3, 0.4, 0.5), (0.3, 0.4, 0.5)),
    0.001: ((0.2, 0.4, 0.3), (0.1, 0.5, 0.2), (0.2, 0.6, 0.3), (0.1, 0.5, 0.2)),
}


def write_run(
    path: Path,
    *,
    config: dict[str, Any],
    rows: list[dict[str, Any]],
    seed: int = 0,
    status: str | None = "finished",
    commit: str = "a" * 40,
    num_devices: int = 1,
    devices: tuple[str, ...] = ("NVIDIA H200",),
) -> Path:
    path.mkdir(parents=True)
    whole = {"seed_everything": seed, "run": {"id": path.name}, **config}
    (path / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {
        "git": {"commit": commit, "branch": "main", "dirty": False},
        "devices": list(devices),
        "num_devices": num_devices,
        "data": {"fingerprint": {"train": "f" * 64}},
        "seed": seed,
    }
    (path / "provenance.json").write_text(json.dumps(facts))
    if status is not None:
        final = {k: v for row in rows for k, v in row.items() if "/" in k}
        summary = {"name": path.parent.name, "id": path.name, "status": status, "error": None}
        summary["monitor"] = config.get("checkpoint", {}).get("monitor")
        summary |= {"final": final, "ended": "2026-01-01T00:00:00+00:00", **facts}
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def rows_of(values: tuple[float, ...], *, speed: float, seconds: float) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": 0,
            "samples": 8 * step,
            "wall_s": seconds * step,
            "train/samples_per_s": speed,
            "train/loss": 1 / step,
            "val/accuracy": value,
            "val/loss": 1 - value,
        }
        for step, value in zip(STEPS, values, strict=True)
    ]


def twelve(root: Path) -> list[Path]:
    """Three settings of four seeds each; seed s trains at 100 + 10 s samples/s on two devices."""
    paths = []
    for rate, seeds in ACCURACY.items():
        for seed, values in enumerate(seeds):
            config = {
                "model": {"init_args": {"optimizer": {"lr": rate}}},
                "data": {"init_args": {"seed": seed, "global_batch_size": 8}},
            }
            rows = rows_of(values, speed=100 + 10 * seed, seconds=60 + 6 * seed)
            path = root / "grid" / f"lr{rate}-seed{seed}"
            paths.append(write_run(path, config=config, rows=rows, seed=seed, num_devices=2))
    return paths
