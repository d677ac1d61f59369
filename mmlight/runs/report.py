"""A run on one page: `report.html`, which opens anywhere and needs no network."""

import base64
import html
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmlight.runs.files import write_text
from mmlight.runs.run import RunFolder
from mmlight.runs.stage_rows import read_stage_rows
from mmlight.runs.summary import ExplainScores, explain_scores, other_scores, retrieval_scores
from mmlight.runs.table import format_value, retrieval_cells

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5c6670; --line: #d8dde2;
  --page: #ffffff; --panel: #f5f7f9; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b0; --line: #39424b;
  --page: #14181c; --panel: #1d2329; --mark: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.failed { color: #c44e52; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { color: var(--soft); white-space: nowrap; vertical-align: top; }
td.main { font-weight: 600; color: var(--mark); }
table.samples td { text-align: left; vertical-align: middle; }
table.samples td > div { white-space: normal; min-width: 16rem; max-width: 34rem; }
table.samples img { width: auto; max-width: none; display: block; image-rendering: pixelated; }
table.samples audio { width: 12rem; height: 2rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 1.25rem; align-items: start; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px;
  background: white; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .2rem; }
details { margin-top: .75rem; } summary { cursor: pointer; }
pre { background: var(--panel); padding: 1rem; border-radius: 6px; overflow-x: auto;
  font-size: .82rem; line-height: 1.45; }
"""
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
    parts = [
        f"<h1>{_text(title)}</h1>",
        _status(summary),
        _robustness(folder),
        _scores(summary["final"]),
        _pictures(folder),
        _mistakes(folder),
        _facts("The run", _run_facts(summary)),
        _facts("Where it comes from", _provenance_facts(summary)),
        _listing("Package versions", _lines(summary.get("packages") or {})),
    ]
    if folder.config.exists():
        parts.append(_listing("Configuration (config.yaml)", folder.config.read_text()))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )
    write_text(folder.report, page)
    return folder.report


def _status(summary: Mapping[str, Any]) -> str:
    line = f"{summary['verb']}, {summary['status']}, ended {summary['ended']}"
    if summary["status"] == "finished":
        return f'<p class="soft">{_text(line)}</p>'
    return f'<p class="failed">{_text(line)}: {_text(summary["error"])}</p>'


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
            marked = f'<td class="main">{_text(cells[0])}</td>'
            rest = "".join(f"<td>{_text(cell)}</td>" for cell in cells[1:])
            name = f"{pair.stage}: {pair.query} → {pair.gallery}"
            rows.append(f"<tr><td>{_text(name)}</td>{marked}{rest}</tr>")
        head = "".join(f"<th>{_text(h)}</th>" for h in heads)
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
            f"<tr><td>{_text(name)}</td><td>{_text(format_value(name, value))}</td></tr>"
            for name, value in others.items()
        )
        parts.append(f'<h2>Other scores</h2><div class="scroll"><table>{table}</table></div>')
    return "\n".join(parts)


def _explanations(explained: list[ExplainScores]) -> str:
    heads = ["", "deletion", "insertion", "gap of the sum"]
    rows = "".join(
        f"<tr><td>{_text(f'{e.stage}: {e.modality}, {_spaced(e.method)}')}</td>"
        f"<td>{e.deletion_auc:.3f}</td><td>{e.insertion_auc:.3f}</td>"
        f"<td>{'' if e.gap is None else f'{100 * e.gap:.2f} %'}</td></tr>"
        for e in explained
    )
    head = "".join(f"<th>{_text(h)}</th>" for h in heads)
    return (
        "<h2>Are the explanations true to the model?</h2>"
        f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
        '<p class="soft">Areas under the curves of the model\'s confidence as the parts that a '
        "method finds most important are taken away (deletion, better low) or put back "
        "(insertion, better high). A method that does not beat random has found nothing.</p>"
    )


def _robustness(folder: RunFolder) -> str:
    if not folder.robustness.exists():
        return ""
    found = json.loads(folder.robustness.read_text())
    heads, *rows = found["table"]
    head = "".join(f"<th>{_text(h)}</th>" for h in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{_text(c)}</td>' for c in row)}</tr>" for row in rows)
    remarks = "".join(f'<p class="soft">{_text(remark)}.</p>' for remark in found["remarks"])
    return (
        "<h2>Robustness</h2>"
        f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>{remarks}'
    )


def _mistakes(folder: RunFolder) -> str:
    rows = read_stage_rows(folder.mistakes_jsonl)
    if not rows:
        return ""
    kinds = [k for k in ("image", "spectrogram", "sound", "text") if any(r[k] for r in rows)]
    heads = [*kinds, "is", "said", "confidence", "its own", "loss", "by confidence", "key"]
    lines = []
    for row in rows:
        cells = [_sample_cell(folder, kind, row[kind]) for kind in kinds]
        cells += [_text(row["label"]), _text(row["prediction"])]
        cells += [f"{float(row['confidence']):.3f}", f"{float(row['label_probability']):.3f}"]
        cells += [f"{float(row['loss']):.3g}", str(row["confidence_rank"])]
        cells += [_text(f"{row['stage']}: {row['key']}")]
        lines.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{_text(h)}</th>" for h in heads)
    return (
        "<h2>Worst mistakes</h2>"
        f'<div class="scroll"><table class="samples"><tr>{head}</tr>{"".join(lines)}</table></div>'
        '<p class="soft">By loss, with those that the model was most sure of. Its own: the '
        "probability of what the sample is.</p>"
    )


def _sample_cell(folder: RunFolder, kind: str, value: str | None) -> str:
    """Return a sample, or a part of it, as an element of its kind."""
    if value is None:
        return ""
    if kind == "text":
        return f"<div>{_text(value)}</div>"
    data = base64.b64encode((folder.path / value).read_bytes()).decode()
    if kind == "sound":
        return f'<audio controls src="data:audio/flac;base64,{data}"></audio>'
    return f'<img alt="{kind}" src="data:image/png;base64,{data}">'


def _pictures(folder: RunFolder) -> str:
    def place(path: Path) -> tuple[int, str]:
        kinds = [number for number, kind in enumerate(_ORDER) if kind in path.stem]
        return (kinds[0] if kinds else len(_ORDER), path.stem)

    figures = []
    for path in sorted(folder.plots.glob("*.png"), key=place):
        wide = ' class="wide"' if any(kind in path.stem for kind in _WIDE) else ""
        data = base64.b64encode(path.read_bytes()).decode()
        name = _text(path.stem.replace("_", " "))
        figures.append(
            f'<figure{wide}><img alt="{name}" src="data:image/png;base64,{data}">'
            f"<figcaption>{name}</figcaption></figure>"
        )
    if not figures:
        return ""
    return f'<h2>Pictures</h2>\n<div class="pictures">\n{"".join(figures)}\n</div>'


def _run_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    memory = summary.get("peak_memory_mb") or {}
    speed = summary.get("samples_per_s")
    wall_s = summary.get("wall_s")
    return {
        "steps": f"{summary['steps']:,}",
        "samples seen": f"{summary['samples_seen']:,}",
        "training speed": f"{speed:,.0f} samples/s" if speed else None,
        "time": f"{wall_s / 60:.1f} minutes" if wall_s is not None else None,
        "peak memory": ", ".join(f"{name} {mb:,.0f} MB" for name, mb in memory.items()),
        "seed": summary.get("seed"),
        "best": _lines(
            {
                name: f"{format_value(name, float(best['value']))} at step {best['step']:,}"
                for name, best in (summary.get("best") or {}).items()
                if name.endswith(("/loss", "/recall_at_1", "accuracy_at_1", "/ap50"))
            },
            separator=": ",
        ),
        "best checkpoint": summary["checkpoints"].get("best"),
        "last checkpoint": summary["checkpoints"].get("last"),
    }


def _provenance_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    git = summary.get("git")
    code = "not in git"
    if git:
        code = f"{git['commit']} ({git['branch']})"
        code += ", with uncommitted changes (git.patch)" if git["dirty"] else ""
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


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_text(value).replace(chr(10), '<br>')}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    return f'<h2>{_text(title)}</h2><table class="facts">{rows}</table>'


def _listing(title: str, text: str) -> str:
    return f"<details><summary>{_text(title)}</summary><pre>{_text(text)}</pre></details>"


def _lines(values: Mapping[str, Any] | Iterable[tuple[str, Any]], separator: str = "==") -> str:
    return "\n".join(f"{name}{separator}{value}" for name, value in dict(values).items())


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    return html.escape(str(value))
