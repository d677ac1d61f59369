"""The model card of an export: what the model is, how good, how it was made, how to load it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml import YAMLError

from mmlight import yaml_text
from mmlight.class_names import shown_names
from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.saved.locate import Found
from mmlight.scores import is_beside
from mmlight.tasks.task import Task

# What of a run's configuration decides what comes out; the whole of it is in the run's folder.
_TRAINER = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")


@dataclass(frozen=True)
class RunRecord:
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


@dataclass(frozen=True)
class Card:
    """What stands in a model card.

    Attributes:
        task: the model.
        run: where it comes from.
        num_parameters: number of its parameters.
        num_merged: number of adapters that were merged into the weights.
        lines: what became of each file.
        graphs: the inputs with their axes, and the outputs, of each file.
        limits: smallest and largest sizes of named axes.
        meanings: what each input and output is.
    """

    task: Task
    run: RunRecord
    num_parameters: int
    num_merged: int
    lines: list[str]
    graphs: dict[str, tuple[dict[str, list[str | int]], list[str]]]
    limits: dict[str, tuple[int, int | None]]
    meanings: dict[str, str]


def read_run(found: Found) -> RunRecord:
    """Read the folder of the run that a checkpoint lies in; empty where it lies in none.

    Raises:
        UserError: what lies there is not what a run writes.
    """
    if found.run is None:
        return RunRecord({}, {}, {})
    with _as_a_run_writes():
        return _read_run(found.run.path, found.path)


@contextmanager
def _as_a_run_writes() -> Iterator[None]:
    """Say in one line that a run's files, which may be anyone's, are not what they should be."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the run's summary.json or config.yaml is damaged ({said}); to export without them, "
            "copy the checkpoint elsewhere"
        ) from error


def _read_run(folder: Path, source: Path) -> RunRecord:
    summary = _read(folder / "summary.json")
    final: dict[str, Any] = {}
    for found in (
        summary,
        _read(folder / "validate/summary.json"),
        _read(folder / "test/summary.json"),
    ):
        final |= found.get("final", {})
    for stage in ("test", "val"):
        scores = {n: float(v) for n, v in final.items() if n.startswith(f"{stage}/")}
        if scores:
            break
    config = _read(folder / "config.yaml")
    kept = {n: v for n, v in scores.items() if not is_beside(n)}
    scored = Path((summary.get("checkpoints") or {}).get("last") or source.name).name
    return RunRecord(summary, kept, config, "" if scored == source.name else source.name)


def write_card(path: Path, card: Card) -> None:
    """Write the card as Markdown."""
    with _as_a_run_writes():
        parts = [
            _head(card),
            _scores(card.run),
            _inputs(card),
            _use(card),
            _training(card),
            _limits(card),
        ]
    write_text(path, "\n".join(part for part in parts if part))


def _head(card: Card) -> str:
    task, summary = card.task, card.run.summary
    names = list((task.preprocessing or {}).get("class_names") or [])
    name = f"{summary['name']} / {summary['id']}" if summary else type(task).__name__
    lines = [f"# {name}", ""]
    lines.append(f"A `{type(task).__name__}` model of {card.num_parameters:,} parameters.")
    for modality in task.tower_settings.given():
        encoder = task.tower(modality).encoder
        count = sum(parameter.numel() for parameter in encoder.parameters())
        lines.append(f"- {modality} tower: `{type(encoder).__name__}`, {count:,} parameters")
    if names:
        lines.append(
            f"- classes of its data, in the order of their numbers: {', '.join(shown_names(names))}"
        )
    if card.num_merged:
        lines.append(f"- {card.num_merged} low-rank adapters were merged into the weights")
    return "\n".join([*lines, ""])


def _scores(run: RunRecord) -> str:
    if not run.scores:
        return "## Scores\n\nNone are recorded beside the checkpoint.\n"
    rows = [f"| {name} | {value:.4g} |" for name, value in run.scores.items()]
    note = []
    if run.other_file:
        note = [f"Of the run's last weights; this export is of `{run.other_file}`.", ""]
    return "\n".join(["## Scores", "", *note, "| metric | value |", "|---|---|", *rows, ""])


def _inputs(card: Card) -> str:
    prepared = card.task.preprocessing or {}
    lines = ["## How inputs are prepared", ""]
    for name in ("image", "text", "audio"):
        settings = prepared.get(name)
        if settings:
            told = {k: v for k, v in settings.items() if k != "tokenizer"}
            lines.append(f"- {name}: `{json.dumps(told)}`")
    lines += [
        "",
        "`preprocessing.json` has all of it, the tokenizer included. Pixels are normalised, and "
        "spectrograms computed, inside the model.",
        "",
    ]
    return "\n".join(lines)


def _use(card: Card) -> str:
    is_rows = "features" not in {name for _, outputs in card.graphs.values() for name in outputs}
    lines = ["## Use", "", "```python"]
    if is_rows:
        call = (
            "texts([...])" if list(card.task.tower_settings.given()) == ["text"] else "files([...])"
        )
        lines += [
            "from mmlight.interop.predictor import Predictor",
            "",
            f'rows = Predictor.load("FOLDER").{call}',
        ]
    else:
        lines += [
            "from mmlight.interop.embedder import Embedder",
            "",
            'embedder = Embedder.load("FOLDER")',
        ]
    lines += ["```", "", "A tower for another task: `--model.towers.MODALITY.from_run FOLDER`.", ""]
    for file, (inputs, outputs) in card.graphs.items():
        lines += [f"### {file}", ""]
        if file.endswith(".onnx"):
            lines += [
                "```python",
                "import onnxruntime",
                "",
                f'session = onnxruntime.InferenceSession("FOLDER/{file}")',
                f"{', '.join(outputs)}{',' if len(outputs) == 1 else ''} = session.run(None, "
                "{" + ", ".join(f'"{name}": {name}' for name in inputs) + "})",
                "```",
            ]
        else:
            lines += [
                "```python",
                "import torch",
                "",
                f'model = torch.export.load("FOLDER/{file}").module()',
                f"{', '.join(outputs)}{',' if len(outputs) == 1 else ''} = "
                f"model({', '.join(inputs)})",
                "```",
            ]
        lines += ["", "| tensor | axes | meaning |", "|---|---|---|"]
        for name, axes in inputs.items():
            lines.append(f"| {name} (in) | {' x '.join(map(str, axes))} | {card.meanings[name]} |")
        lines += [f"| {name} (out) | | {card.meanings[name]} |" for name in outputs]
        lines.append("")
    return "\n".join(lines)


def _training(card: Card) -> str:
    summary, config = card.run.summary, card.run.config
    if not summary:
        return ""
    lines = ["## Training", ""]
    if summary.get("command"):
        lines.append(f"- command: `{summary['command']}`")
    told = {
        "optimiser steps": summary.get("steps"),
        "epochs": summary.get("epoch"),
        "samples seen": summary.get("samples_seen"),
        "seconds": summary.get("wall_s"),
        "seed": summary.get("seed"),
        "devices": ", ".join(summary.get("devices") or []),
        "commit": (summary.get("git") or {}).get("commit"),
    }
    lines += [f"- {name}: {value}" for name, value in told.items() if value not in (None, "")]
    for split, fingerprint in ((summary.get("data") or {}).get("fingerprint") or {}).items():
        lines.append(f"- {split} data: SHA-256 {fingerprint}")
    packages = summary.get("packages") or {}
    versions = [
        f"{n} {packages[n]}" for n in ("mmlight", "torch", "transformers", "timm") if n in packages
    ]
    if versions:
        lines.append(f"- {', '.join(versions)}")
    if config:
        model = {
            k: v
            for k, v in ((config.get("model") or {}).get("init_args") or {}).items()
            if k != "towers"
        }
        trainer = {k: v for k, v in (config.get("trainer") or {}).items() if k in _TRAINER}
        shown = yaml_text.dump({"trainer": trainer, "model": model})
        lines += ["", "```yaml", shown.rstrip(), "```"]
    return "\n".join([*lines, ""])


def _limits(card: Card) -> str:
    lines = ["## Files", "", *(f"- {line}" for line in card.lines), "", "## Limits", ""]
    if not card.lines:
        lines = lines[3:]
    for axis, (low, high) in card.limits.items():
        if low > 1 or high is not None:
            most = f" to {high}" if high is not None else " or more"
            lines.append(f"- programs take {low}{most} {axis}; pad shorter inputs")
    lines += [
        "- Not in the programs: decoding files, resizing and cropping pixels, resampling sound, "
        "tokenising text, and what makes rows of outputs (softmax, CTC decoding, removal of "
        "overlapping boxes). `mmlight.interop.predictor` does all of it.",
        "- The scores hold for the data named here; nothing is known of other data.",
        "",
    ]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return found if isinstance(found, dict) else {}
