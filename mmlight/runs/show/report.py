"""A run on one page: `report.html`, which opens anywhere and needs no network."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmlight.files import read_json, write_text
from mmlight.runs.run.folder import RunFolder
from mmlight.runs.run.scan import ScannedRun
from mmlight.runs.run.stage_rows import read_stage_rows
from mmlight.runs.run.summary import ExplainScores, explain_scores, other_scores, retrieval_scores
from mmlight.runs.show.glance import at_a_glance
from mmlight.runs.show.page import facts, figure, listing, text, whole_page
from mmlight.runs.show.sounds import Players
from mmlight.runs.show.table import retrieval_cells
from mmlight.scores import format_value, is_headline

_ORDER = (
    *("curves", "robustness", "confusion", "reliability", "detections", "mistakes", "explain"),
    *("retrieval", "joint_space", "similarity", "spectrograms"),
)
_WIDE = ("curves", "robustness", "spectrograms", "explain", "mistakes", "detections")


def write_report(run: RunFolder | Path) -> Path:
    """Write `report.html` of a run folder from what lies in it, and return its path.

    Args:
        run: the folder; it must hold `summary.json`.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    summary: dict[str, Any] = json.loads(folder.summary.read_text())
    title = f"{summary['name']} / {summary['id']}"
    players = Players(folder.path)
    parts = [
        f"<h1>{text(title)}</h1>",
        _status(summary),
        at_a_glance(folder, summary),
        _robustness(folder),
        _scores(summary["final"]),
        _pictures(folder, players),
        _mistakes(folder, players),
        facts("The run", _run_facts(summary, url=ScannedRun(folder.path).wandb_url)),
        facts("Where it comes from", _provenance_facts(summary)),
        listing("Package versions", _lines(summary.get("packages") or {})),
    ]
    if folder.config.exists():
        parts.append(listing("Configuration (config.yaml)", folder.config.read_text()))
    write_text(folder.report, whole_page(title, parts))
    return folder.report


def _status(summary: Mapping[str, Any]) -> str:
    line = f"{summary['verb']}, {summary['status']}, ended {summary['ended']}"
    if summary["status"] == "finished":
        return f'<p class="soft">{text(line)}</p>'
    return f'<p class="failed">{text(line)}: {text(summary["error"])}</p>'


def _scores(final: Mapping[str, Any]) -> str:
    values = {name: float(value) for name, value in final.items()}
    parts = []
    pairs = retrieval_scores(values)
    if pairs:
        has_classes = any("precision_at_1" in pair.scores for pair in pairs)
        heads = ["", "R@1", "R@5", "R@10", "median rank", "chance R@1", "R@1 / chance"]
        heads += ["class P@1"] if has_classes else []
        rows = []
        for pair in pairs:
            cells = retrieval_cells(pair, with_classes=has_classes)
            marked = f'<td class="main">{text(cells[0])}</td>'
            rest = "".join(f"<td>{text(cell)}</td>" for cell in cells[1:])
            name = f"{pair.stage}: {pair.query} → {pair.gallery}"
            rows.append(f"<tr><td>{text(name)}</td>{marked}{rest}</tr>")
        head = "".join(f"<th>{text(h)}</th>" for h in heads)
        parts.append(
            "<h2>Retrieval over the whole set</h2>"
            f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
            '<p class="soft">R@k: share of queries whose own sample is among the first k. '
            "Chance: the same for a random order. Class P@1: share of queries whose nearest row "
            "has their label.</p>"
        )
    explained = explain_scores(values)
    if explained:
        parts.append(_explanations(explained))
    others = other_scores(values)
    if others:
        table = "".join(
            f"<tr><td>{text(name)}</td><td>{text(format_value(name, value))}</td></tr>"
            for name, value in others.items()
        )
        parts.append(f'<h2>Other scores</h2><div class="scroll"><table>{table}</table></div>')
    return "\n".join(parts)


def _explanations(explained: list[ExplainScores]) -> str:
    heads = ["", "deletion", "insertion", "gap of the sum"]
    rows = "".join(
        f"<tr><td>{text(f'{e.stage}: {e.modality}, {_spaced(e.method)}')}</td>"
        f"<td>{e.deletion_auc:.3f}</td><td>{e.insertion_auc:.3f}</td>"
        f"<td>{'' if e.gap is None else f'{100 * e.gap:.2f} %'}</td></tr>"
        for e in explained
    )
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    return (
        "<h2>Are the explanations true to the model?</h2>"
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
        '<p class="soft">Areas under the curves of the model\'s confidence as the parts that a '
        "method finds most important are taken away (deletion, better low) or put back "
        "(insertion, better high). A method that does not beat random has found nothing.</p>"
    )


def _robustness(folder: RunFolder) -> str:
    found = read_json(folder.robustness)
    if found is None:
        return ""
    heads, *rows = found["table"]
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{text(c)}</td>' for c in row)}</tr>" for row in rows)
    remarks = "".join(f'<p class="soft">{text(remark)}.</p>' for remark in found["remarks"])
    return (
        "<h2>Robustness</h2>"
        f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>{remarks}'
    )


def _mistakes(folder: RunFolder, players: Players) -> str:
    rows = read_stage_rows(folder.mistakes_jsonl)
    if not rows:
        return ""
    kinds = [k for k in ("image", "spectrogram", "sound", "text") if any(r[k] for r in rows)]
    heads = [*kinds, "is", "said", "confidence", "its own", "loss", "by confidence", "key"]
    lines = []
    for row in rows:
        cells = [_sample_cell(folder, kind, row[kind], players) for kind in kinds]
        cells += [text(row["label"]), text(row["prediction"])]
        cells += [f"{float(row['confidence']):.3f}", f"{float(row['label_probability']):.3f}"]
        cells += [f"{float(row['loss']):.3g}", str(row["confidence_rank"])]
        cells += [text(f"{row['stage']}: {row['key']}")]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    return (
        "<h2>Worst mistakes</h2>"
        f'<div class="scroll"><table class="samples"><tr>{head}</tr>{"".join(lines)}</table></div>'
        '<p class="soft">By loss, with those that the model was most sure of. Its own: the '
        "probability of what the sample is.</p>"
    )


def _sample_cell(folder: RunFolder, kind: str, value: str | None, players: Players) -> str:
    """Return a sample, or a part of it, as an element of its kind."""
    if value is None:
        return ""
    if kind == "text":
        return f"<div>{text(value)}</div>"
    if kind == "sound":
        return players.player(folder.path / value)
    data = base64.b64encode((folder.path / value).read_bytes()).decode()
    return f'<img alt="{kind}" src="data:image/png;base64,{data}">'


def _pictures(folder: RunFolder, players: Players) -> str:
    def place(path: Path) -> tuple[int, str]:
        kinds = [number for number, kind in enumerate(_ORDER) if kind in path.stem]
        return (kinds[0] if kinds else len(_ORDER), path.stem)

    figures = [
        figure(path, wide=any(kind in path.stem for kind in _WIDE), below=players.below(path))
        for path in sorted(folder.plots.glob("*.png"), key=place)
    ]
    if not figures:
        return ""
    return f'<h2>Pictures</h2>\n<div class="pictures">\n{"".join(figures)}\n</div>'


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


def _spaced(name: str) -> str:
    return name.replace("_", " ")
