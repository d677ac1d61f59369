"""The model card of an export: what the model is, how good, how it was made, how to load it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from yaml import YAMLError

from mmlight import yaml_text
from mmlight.class_names import shown_names
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.interop.export_formats import Written
from mmlight.modality import MODALITIES
from mmlight.saved.locate import Found
from mmlight.scores import is_beside
from mmlight.tasks.task import Task

# What of a run's configuration decides what comes out; the whole of it is in the run's folder.
_TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")


@dataclass(frozen=True)
class _Run:
    """What a run's folder says of it; empty where there is none.

    Attributes:
        summary: of its training.
        scores: its last scores, by name: of test where there are any, else of val.
        config: its resolved configuration.
        other_file: the checkpoint's name, where it is not the one that was scored.
    """

    summary: dict[str, Any]
    scores: dict[str, float]
    config: dict[str, Any]
    other_file: str = ""


def write_card(
    path: Path,
    task: Task,
    found: Found,
    written: Sequence[Written],
    *,
    num_merged: int,
    meanings: Mapping[str, str],
) -> None:
    """Write the card as Markdown.

    Args:
        path: the file.
        task: the model.
        found: where it comes from; what its run wrote is told, if it lies in one.
        written: what became of each file.
        num_merged: number of adapters that were merged into the weights.
        meanings: what each input and output is.

    Raises:
        UserError: what lies in the run's folder is not what a run writes.
    """
    try:
        run = _Run({}, {}, {}) if found.run is None else _read_run(found.run.path, found.path)
        lines = [
            *_head(task, run, num_merged),
            *_scores(run),
            *_inputs(task),
            *_use(task, [one for one in written if not one.problem], meanings),
            *(_training(run) if run.summary else ()),
            *_limits(written),
        ]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the run's summary.json or config.yaml is damaged ({said}); to export without them, "
            "copy the checkpoint elsewhere"
        ) from error
    write_text(path, "\n".join(lines))


def _read_run(folder: Path, source: Path) -> _Run:
    summary = _read(folder / "summary.json")
    final = dict(summary.get("final", {}))
    for verb in ("validate", "test"):
        final |= _read(folder / verb / "summary.json").get("final", {})
    for stage in ("test", "val"):
        scores = {n: float(v) for n, v in final.items() if n.startswith(f"{stage}/")}
        if scores:
            break
    config = _read(folder / "config.yaml")
    kept = {n: v for n, v in scores.items() if not is_beside(n)}
    scored = Path((summary.get("checkpoints") or {}).get("last") or source.name).name
    return _Run(summary, kept, config, "" if scored == source.name else source.name)


def _head(task: Task, run: _Run, num_merged: int) -> list[str]:
    summary = run.summary
    names = list((task.preprocessing or {}).get("class_names") or [])
    name = f"{summary['name']} / {summary['id']}" if summary else type(task).__name__
    lines = [f"# {name}", ""]
    lines.append(f"A `{type(task).__name__}` model of {_count(task):,} parameters.")
    for modality in task.tower_settings.given():
        encoder = task.tower(modality).encoder
        kind = type(encoder).__name__
        lines.append(f"- {modality} tower: `{kind}`, {_count(encoder):,} parameters")
    if names:
        listed = ", ".join(shown_names(names))
        lines.append(f"- classes of its data, in the order of their numbers: {listed}")
    if num_merged:
        lines.append(f"- {num_merged} low-rank adapters were merged into the weights")
    return [*lines, ""]


def _scores(run: _Run) -> list[str]:
    if not run.scores:
        return ["## Scores", "", "None are recorded beside the checkpoint.", ""]
    rows = [f"| {name} | {value:.4g} |" for name, value in run.scores.items()]
    note = []
    if run.other_file:
        note = [f"Of the run's last weights; this export is of `{run.other_file}`.", ""]
    return ["## Scores", "", *note, "| metric | value |", "|---|---|", *rows, ""]


def _inputs(task: Task) -> list[str]:
    lines = ["## How inputs are prepared", ""]
    for name in MODALITIES:
        if settings := (task.preprocessing or {}).get(name):
            plain = {k: v for k, v in settings.items() if k != "tokenizer"}
            lines.append(f"- {name}: `{json.dumps(plain)}`")
    return [
        *lines,
        "",
        "`preprocessing.json` has all of it, the tokenizer included. Pixels are normalised, and "
        "spectrograms computed, inside the model.",
        "",
    ]


def _use(task: Task, written: Sequence[Written], meanings: Mapping[str, str]) -> list[str]:
    if task.predicts == "features":
        kind, call = "Embedder", 'embedder = Embedder.load("FOLDER")'
    else:
        takes = "texts" if list(task.tower_settings.given()) == ["text"] else "files"
        kind, call = "Predictor", f'rows = Predictor.load("FOLDER").{takes}([...])'
    imported = f"from mmlight.interop.{kind.lower()} import {kind}"
    lines = ["## Use", "", "```python", imported, "", call, "```", ""]
    lines += ["A tower for another task: `--model.towers.MODALITY.from_run FOLDER`.", ""]
    for one in written:
        got = ", ".join(one.outputs) + "," * (len(one.outputs) == 1)
        if one.file.endswith(".onnx"):
            fed = ", ".join(f'"{name}": {name}' for name in one.inputs)
            library = "onnxruntime"
            loaded = f'session = onnxruntime.InferenceSession("FOLDER/{one.file}")'
            called = f"session.run(None, {{{fed}}})"
        else:
            library = "torch"
            loaded = f'model = torch.export.load("FOLDER/{one.file}").module()'
            called = f"model({', '.join(one.inputs)})"
        lines += [f"### {one.file}", "", "```python", f"import {library}", "", loaded]
        lines += [f"{got} = {called}", "```", "", "| tensor | axes | meaning |", "|---|---|---|"]
        for name, axes in one.inputs.items():
            lines.append(f"| {name} (in) | {' x '.join(map(str, axes))} | {meanings[name]} |")
        lines += [f"| {name} (out) | | {meanings[name]} |" for name in one.outputs]
        lines.append("")
    return lines


def _training(run: _Run) -> list[str]:
    summary, config = run.summary, run.config
    lines = ["## Training", ""]
    if summary.get("command"):
        lines.append(f"- command: `{summary['command']}`")
    facts = {
        "optimiser steps": summary.get("steps"),
        "epochs": summary.get("epoch"),
        "samples seen": summary.get("samples_seen"),
        "seconds": summary.get("wall_s"),
        "seed": summary.get("seed"),
        "devices": ", ".join(summary.get("devices") or []),
        "commit": (summary.get("git") or {}).get("commit"),
    }
    lines += [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    for split, fingerprint in ((summary.get("data") or {}).get("fingerprint") or {}).items():
        lines.append(f"- {split} data: SHA-256 {fingerprint}")
    packages = summary.get("packages") or {}
    named = [n for n in ("mmlight", "torch", "transformers", "timm") if n in packages]
    if named:
        lines.append(f"- {', '.join(f'{n} {packages[n]}' for n in named)}")
    if config:
        model = dict((config.get("model") or {}).get("init_args") or {})
        model.pop("towers", None)
        trainer = {k: v for k, v in (config.get("trainer") or {}).items() if k in _TRAINER}
        shown = yaml_text.dump({"trainer": trainer, "model": model})
        lines += ["", "```yaml", shown.rstrip(), "```"]
    return [*lines, ""]


def _limits(written: Sequence[Written]) -> list[str]:
    lines = ["## Files", "", *(f"- {one}" for one in written), ""] if written else []
    lines += ["## Limits", ""]
    limits = {axis: limit for one in written for axis, limit in one.limits.items()}
    for axis, (low, high) in limits.items():
        if low > 1 or high is not None:
            most = f" to {high}" if high is not None else " or more"
            lines.append(f"- programs take {low}{most} {axis}; pad shorter inputs")
    return [
        *lines,
        "- Not in the programs: decoding files, resizing and cropping pixels, resampling sound, "
        "tokenising text, and what makes rows of outputs (softmax, CTC decoding, removal of "
        "overlapping boxes). `mmlight.interop.predictor` does all of it.",
        "- The scores hold for the data named here; nothing is known of other data.",
        "",
    ]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return found if isinstance(found, dict) else {}
