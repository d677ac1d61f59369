"""The first screen of a report: the model, the data, what was left out, time and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmlight.files import json_objects
from mmlight.runs.run.folder import RunFolder
from mmlight.runs.show.page import facts

_SHOWN_BAD = 3


def at_a_glance(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """Return the table that a report begins with.

    Args:
        folder: the run's.
        summary: its `summary.json`.
    """
    memory = summary.get("peak_memory_mb") or {}
    speed, wall_s = summary.get("samples_per_s"), summary.get("wall_s")
    checkpoints = summary.get("checkpoints") or {}
    return facts(
        "At a glance",
        {
            "parameters": _parameters(summary),
            **_samples(summary),
            "bad samples": _bad_samples(folder.bad_samples),
            "steps": f"{summary['steps']:,}",
            "samples seen": f"{summary['samples_seen']:,}",
            "time": f"{wall_s / 60:.1f} minutes" if wall_s is not None else None,
            "training speed": f"{speed:,.0f} samples/s" if speed else None,
            "peak memory": ", ".join(f"{name} {mb:,.0f} MB" for name, mb in memory.items()),
            "best checkpoint": _checkpoint(folder.path, checkpoints.get("best")),
            "last checkpoint": _checkpoint(folder.path, checkpoints.get("last")),
        },
    )


def _parameters(summary: Mapping[str, Any]) -> str | None:
    counts = summary.get("parameters")
    if not counts or not counts["total"]:
        return None
    total, trained = counts["total"], counts["trained"]
    if summary["verb"] != "fit":
        return f"{total:,}"
    return f"{total:,}, of which {trained:,} are trained ({trained / total:.1%})"


def _samples(summary: Mapping[str, Any]) -> dict[str, str]:
    splits = (summary.get("data") or {}).get("samples") or {}
    lines = {}
    for split, counts in splits.items():
        kinds = [f"{count:,} {kind}" for kind, count in counts.items() if kind != "samples"]
        told = f": {', '.join(kinds)}" if kinds else ""
        lines[f"samples of {split}"] = f"{counts['samples']:,}{told}"
    return lines


def _bad_samples(path: Path) -> str:
    """Count what a run left out, with the first few and why."""
    rows = []
    if path.exists():
        rows = json_objects(path.read_text(encoding="utf-8", errors="replace").splitlines())
    if not rows:
        return "none"
    lines = [f"{len(rows):,}, all in {path.name}"]
    for row in rows[:_SHOWN_BAD]:
        shard = Path(str(row.get("shard", ""))).name
        member = f" ({row['member']})" if row.get("member") else ""
        lines.append(f"{shard}/{row.get('key', '')}{member}: {row.get('reason', '')}")
    return "\n".join(lines)


def _checkpoint(folder: Path, name: str | None) -> str | None:
    """Name a checkpoint, with its size; one of several devices is a folder."""
    if not name:
        return None
    path = folder / name
    if not path.exists():
        return f"{name}, no longer there"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{name}, {sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"
