"""Where everything of a run lies."""

from dataclasses import dataclass
from pathlib import Path

from mmlight.runs.run.attempts import ATTEMPTS
from mmlight.runs.run.submission import CANCELLED


class _Path:
    """A file or a folder of a run, there or not, by what it is called in the run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunFiles", owner: type) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunFiles:
    """The files and folders of a run, each of which may be missing.

    Attributes:
        path: the folder, ``root/name/id``.
    """

    path: Path

    # The resolved configuration, which runs again as it stands.
    config_yaml = _Path("config.yaml")
    # The same, of a run that was given to SLURM and has not begun.
    submitted_yaml = _Path("submitted.yaml")
    # The log of metrics, a line per entry, which all tables and plots are made of.
    metrics_jsonl = _Path("metrics.jsonl")
    # A table of it with one line per step.
    metrics_csv = _Path("metrics.csv")
    # What came out, and of what.
    summary_json = _Path("summary.json")
    # What ran: code, packages, machine, data; and what the code had uncommitted.
    provenance_json = _Path("provenance.json")
    patch = _Path("git.patch")
    # The same of what ran first, where other code has gone on with the run since.
    first_provenance = _Path("provenance-first.json")
    first_patch = _Path("git-first.patch")
    # The page that shows all of it.
    report = _Path("report.html")
    # What `mmlight robustness` found.
    robustness = _Path("robustness.json")
    checkpoints = _Path("checkpoints")
    # The folder of pictures.
    plots = _Path("plots")
    # What answers rest on, a line per sample and method.
    explanations = _Path("explanations.jsonl")
    # What a classifier got wrong, a line per sample; and their pictures and sounds.
    mistakes_jsonl = _Path("mistakes.jsonl")
    mistakes = _Path("mistakes")
    # The samples that were left out, a line each.
    bad_samples = _Path("bad_samples.jsonl")
    # Each start and end, and what the job made of it (`mmlight.runs.run.attempts`).
    attempts_jsonl = _Path(ATTEMPTS)
    # A marker: a user cancelled the run, and no job may bring it back.
    cancelled = _Path(CANCELLED)
    # Its address at W&B.
    wandb_url_file = _Path("wandb-url")
    # The folder of embeddings that `mmlight predict` writes.
    embeddings = _Path("embeddings")
