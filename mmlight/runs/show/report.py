"""A run on one page: `report.html`, which opens anywhere and needs no network."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmlight.files import json_objects, read_json, write_text
from mmlight.runs.run.folder import Run
from mmlight.runs.run.stage_rows import read_stage_rows
from mmlight.runs.show.final_scores import (
    explanations_grid,
    others_grid,
    retrieval_grid,
)
from mmlight.runs.show.grid import Column, Grid
from mmlight.runs.show.page import Figure, data_url, figure, render
from mmlight.runs.show.sounds import Sounds
from mmlight.scores import format_value, is_headline

_ORDER = (
    *("curves", "robustness", "confusion", "reliability", "detections", "mistakes", "explain"),
    *("samples", "reconstructions", "codebook"),
    *("retrieval", "joint_space", "similarity", "spectrograms"),
)
_WIDE = (
    *("curves", "robustness", "spectrograms", "explain", "mistakes", "detections"),
    "reconstructions",
)
_SAMPLE = ("image", "spectrogram", "sound", "text")
_SHOWN_BAD = 3


def write_report(run: Run | Path) -> Path:
    """Write `report.html` of a run folder from what lies in it, and return its path.

    Args:
        run: the folder; it must hold `summary.json`.
    """
    run = run if isinstance(run, Run) else Run(run)
    summary: dict[str, Any] = json.loads(run.summary_json.read_text())
    final = {name: float(value) for name, value in summary["final"].items()}
    robustness = read_json(run.robustness)
    sounds = Sounds(run.path)
    page = render(
        "report.html",
        title=f"{summary['name']} / {summary['id']}",
        summary=summary,
        status=f"{summary['verb']}, {summary['status']}, ended {summary['ended']}",
        glance=_glance(run, summary),
        robustness=_robustness(robustness["table"]) if robustness else None,
        remarks=robustness["remarks"] if robustness else (),
        retrieval=retrieval_grid(final),
        explanations=explanations_grid(final),
        others=others_grid(final),
        figures=_figures(run, sounds),
        **_mistakes(run, sounds),
        run_facts=_run_facts(summary, url=run.wandb_url),
        provenance=_provenance_facts(summary),
        packages=_lines(summary.get("packages") or {}),
        config=run.config_yaml.read_text() if run.config_yaml.exists() else None,
    )
    write_text(run.report, page)
    return run.report


def _robustness(table: list[list[str]]) -> Grid:
    heads, *rows = table
    columns = (Column(heads[0]), *(Column(head, align="right") for head in heads[1:]))
    return Grid(columns, tuple(map(tuple, rows)))


def _figures(run: Run, sounds: Sounds) -> list[Figure]:
    def place(path: Path) -> tuple[int, str]:
        kinds = [number for number, kind in enumerate(_ORDER) if kind in path.stem]
        return (kinds[0] if kinds else len(_ORDER), path.stem)

    return [
        figure(path, wide=any(kind in path.stem for kind in _WIDE), sounds=sounds.of(path))
        for path in sorted(run.plots.glob("*.png"), key=place)
    ]


def _mistakes(run: Run, sounds: Sounds) -> dict[str, Any]:
    """Return what a classifier got wrong: the kinds that samples have, and a row of each."""
    rows = read_stage_rows(run.mistakes_jsonl)
    kinds = [kind for kind in _SAMPLE if any(row[kind] for row in rows)]

    def shown(kind: str, value: str | None) -> str | None:
        if value is None or kind == "text":
            return value
        path = run.path / value
        return sounds.source(path) if kind == "sound" else data_url(path, "image/png")

    mistakes = [
        {
            "sample": {kind: shown(kind, row[kind]) for kind in kinds},
            "cells": (
                *(row["label"], row["prediction"]),
                *(f"{float(row[name]):.3f}" for name in ("confidence", "label_probability")),
                *(f"{float(row['loss']):.3g}", row["confidence_rank"]),
                f"{row['stage']}: {row['key']}",
            ),
        }
        for row in rows
    ]
    return {"kinds": kinds, "mistakes": mistakes}


def _glance(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model, the data, what was left out, time and checkpoints."""
    memory = summary.get("peak_memory_mb") or {}
    speed, wall_s = summary.get("samples_per_s"), summary.get("wall_s")
    checkpoints = summary.get("checkpoints") or {}
    return {
        "parameters": _parameters(summary),
        **_samples(summary),
        "bad samples": _bad_samples(run.bad_samples),
        "steps": f"{summary['steps']:,}",
        "samples seen": f"{summary['samples_seen']:,}",
        "time": f"{wall_s / 60:.1f} minutes" if wall_s is not None else None,
        "training speed": f"{speed:,.0f} samples/s" if speed else None,
        "peak memory": ", ".join(f"{name} {mb:,.0f} MB" for name, mb in memory.items()),
        "best checkpoint": _checkpoint(run.path, checkpoints.get("best")),
        "last checkpoint": _checkpoint(run.path, checkpoints.get("last")),
    }


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
        parts = f": {', '.join(kinds)}" if kinds else ""
        lines[f"samples of {split}"] = f"{counts['samples']:,}{parts}"
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


def _run_facts(summary: Mapping[str, Any], *, url: str | None) -> dict[str, Any]:
    return {
        "notes": summary.get("notes"),
        "W&B": url,
        "seed": summary.get("seed"),
        "best": _lines(
            {
                name: f"{format_value(name, float(best['value']))} at step {best['step']:,}"
                for name, best in (summary.get("best") or {}).items()
                if is_headline(name)
            },
            separator=": ",
        ),
    }


def _provenance_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    git = summary.get("git")
    code = "not in git"
    if git:
        code = f"{git['commit']} ({git['branch']})"
        code += ", with uncommitted changes (git.patch)" if git["dirty"] else ""
    for own in summary.get("own_code") or ():
        code += f"; {own['folder']}: {own.get('commit') or 'not in git'}"
    prints = (summary.get("data") or {}).get("fingerprint") or {}
    return {
        "code": code,
        "command": summary.get("command"),
        "data": _lines({k: str(v)[:16] for k, v in prints.items()}, separator=": "),
        "devices": f"{summary.get('num_devices', 1)} x {', '.join(summary.get('devices') or [])}",
        "precision": summary.get("precision"),
        "host": summary.get("host"),
        "system": summary.get("platform"),
        "Python": summary.get("python"),
    }


def _lines(values: Mapping[str, Any] | Iterable[tuple[str, Any]], separator: str = "==") -> str:
    return "\n".join(f"{name}{separator}{value}" for name, value in dict(values).items())
