"""A run's folder, ``runs/<name>/<id>/``: one per run, shared by all its ranks and restarts."""

import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from mmlight.errors import UserError
from mmlight.files import write_text
from mmlight.runs.run.attempts import ATTEMPTS
from mmlight.runs.run.signature import signature
from mmlight.runs.slurm.job import job_name

RUN_ID = "MMLIGHT_RUN_ID"
_OWNER = "MMLIGHT_RUN_OWNER"
_STEP = re.compile(r"-(\d+)(?:-v\d+)?\.ckpt$")
_VERSION = re.compile(r"-v\d+\.ckpt$")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one run lies.

    Attributes:
        path: the folder, ``root/name/id``.
        of: for an evaluation that lies below a run (see `below`), that run.
    """

    path: Path
    of: "RunFolder | None" = None

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        name: str,
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Make the folder of this run, or open it where this run has one already.

        The id is, first come first served: `run_id`; the environment's ``MMLIGHT_RUN_ID``;
        SLURM's array id and task id, or its job id; torchrun's ``--rdzv-id``; a fresh
        ``YYYYMMDD-HHMMSS-xxxx``. It is exported as ``MMLIGHT_RUN_ID``, so that the ranks this
        process starts agree with it. The second run of one SLURM job is ``JOB-2``, and so on.

        Args:
            root: the folder of all runs.
            name: the experiment's name; letters, digits, dots, dashes and underscores.
            run_id: the id, where the caller knows it.
            config: the resolved configuration, which tells runs of one SLURM job apart.

        Raises:
            UserError: `name` or the id is unfit for a folder, or several processes were started
                without anything to agree on.
        """
        folder = Path(root) / checked("name", name)
        known = run_id or agreed_id(os.environ)
        if known is None:
            if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise UserError(
                    f"{os.environ['WORLD_SIZE']} processes were started without a common run id; "
                    f"set {RUN_ID} to the same value for all of them, or start torchrun with "
                    "--rdzv-id"
                )
            known = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        if config is not None and run_id is None and known == job_name(os.environ):
            known = next(path.name for path in runs_of_job(folder, known) if _is_of(path, config))
        run = cls(folder / checked("id", known))
        run.path.mkdir(parents=True, exist_ok=True)
        agree_on(run.id)
        return run

    @property
    def id(self) -> str:
        """The run's id."""
        return f"{self.of.id}-{self.path.name}" if self.of else self.path.name

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.of.name if self.of else self.path.parent.name

    def below(self, verb: str) -> "RunFolder":
        """Make a folder below this run for an evaluation of it, which then overwrites nothing.

        Args:
            verb: ``validate``, ``test`` or ``predict``.
        """
        folder = RunFolder(self.path / verb, of=self)
        folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def config(self) -> Path:
        """The resolved configuration, which runs again as it stands."""
        return self.path / "config.yaml"

    @property
    def metrics_csv(self) -> Path:
        """A table with one line per step."""
        return self.path / "metrics.csv"

    @property
    def metrics_jsonl(self) -> Path:
        """The log of metrics, a line per entry: what all tables and plots are made of."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """What came out, and of what."""
        return self.path / "summary.json"

    @property
    def provenance(self) -> Path:
        """What ran: code, packages, machine, data."""
        return self.path / "provenance.json"

    @property
    def patch(self) -> Path:
        """What the code had uncommitted."""
        return self.path / "git.patch"

    @property
    def first_provenance(self) -> Path:
        """What ran first, where other code has gone on with the run since."""
        return self.path / "provenance-first.json"

    @property
    def first_patch(self) -> Path:
        """What that code had uncommitted."""
        return self.path / "git-first.patch"

    def own_patch(self, number: int, *, first: bool = False) -> Path:
        """Return what a repository of the user's own had uncommitted.

        Args:
            number: which of those that `provenance.json` lists.
            first: that of the first start, where other code has gone on with the run since.
        """
        return self.path / f"git-own-{number}{'-first' if first else ''}.patch"

    @property
    def report(self) -> Path:
        """The page that shows all of it."""
        return self.path / "report.html"

    @property
    def robustness(self) -> Path:
        """What `mmlight robustness` found."""
        return self.path / "robustness.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / "plots"

    @property
    def explanations(self) -> Path:
        """What answers rest on, a line per sample and method."""
        return self.path / "explanations.jsonl"

    @property
    def mistakes_jsonl(self) -> Path:
        """What a classifier got wrong, a line per sample."""
        return self.path / "mistakes.jsonl"

    @property
    def mistakes(self) -> Path:
        """The folder of those samples' pictures and sounds."""
        return self.path / "mistakes"

    @property
    def bad_samples(self) -> Path:
        """The samples that were left out, a line each."""
        return self.path / "bad_samples.jsonl"

    @property
    def attempts(self) -> Path:
        """Each start and end, and what the job made of it (`mmlight.runs.run.attempts`)."""
        return self.path / ATTEMPTS

    @property
    def cancelled(self) -> Path:
        """A marker: a user cancelled the run, and no job may bring it back."""
        return self.path / "cancelled"

    @property
    def embeddings(self) -> Path:
        """The folder of embeddings that `mmlight predict` writes."""
        return self.path / "embeddings"

    def wandb_id(self) -> str:
        """Return the run's id in W&B, which this folder has alone; it is drawn at the first call.

        Runs of one experiment may have the same id in the folders of two people, or in two sweeps;
        a project of W&B is shared by all of them. All ranks may ask at once.
        """
        file = self.path / "wandb-id"
        if not file.exists():
            # An agent of a sweep of W&B's own waits for the run that it announced.
            of_agent = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
            drawn = file.with_name(f".id.{secrets.token_hex(8)}")
            write_text(drawn, of_agent or secrets.token_hex(8))
            with suppress(FileExistsError):  # another rank was first
                os.link(drawn, file)
            drawn.unlink()
        return file.read_text().strip()

    def checkpoints_newest_first(self) -> list[Path]:
        """Return what bears a checkpoint's name, that of the last step first, damaged ones too.

        Periodic checkpoints (``step-*.ckpt``) come before the best ones, which were written in the
        middle of a validation. Clocks are not asked: one that was ahead once would have every
        later start go back.
        """
        found = (
            (path.name.startswith("step-"), step_of(path), _VERSION.search(path.name) is None, path)
            for path in self.checkpoints.glob("*.ckpt")
        )
        return [path for *_, path in sorted(found, reverse=True)]

    def newest_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint of this run; one cut short by a kill is passed."""
        return next(filter(is_complete, self.checkpoints_newest_first()), None)

    def checkpoint_step(self) -> int:
        """Return the step of the newest complete checkpoint; 0 where there is none."""
        newest = self.newest_checkpoint()
        return step_of(newest) if newest is not None else 0


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end.

    Args:
        checkpoint: a file, or a folder.
    """
    # In one file it is a zip archive, whose directory stands at its end; one in parts is a folder,
    # which is named when it is whole.
    return checkpoint.is_dir() or zipfile.is_zipfile(checkpoint)


def runs_of_job(folder: Path, job: str) -> Iterator[Path]:
    """Yield the folders of all runs that one job may have, there or not.

    Args:
        folder: of the experiment's runs.
        job: the job's name.
    """
    yield folder / job
    for number in count(2):
        yield folder / f"{job}-{number}"


def _is_of(path: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a job's folder is free, or that of this run.

    It is another's where it has other settings, or has finished; but a job that SLURM starts again
    comes by what it has finished before.
    """
    run = RunFolder(path)
    if not run.config.exists():
        return True
    try:
        status = json.loads(run.summary.read_text()).get("status")
    except (OSError, ValueError):
        status = None
    if status == "finished" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return False
    return signature(yaml.safe_load(run.config.read_text())) == signature(config)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name tells; 0 where it tells none.

    Args:
        checkpoint: a file, or a folder, of a run.
    """
    found = _STEP.search(checkpoint.name)
    return int(found[1]) if found else 0


def agreed_id(environ: Mapping[str, str]) -> str | None:
    """Return the id that all ranks and restarts of this run know, or None.

    Args:
        environ: the environment variables.
    """
    ours = environ.get(_OWNER) == str(os.getpid())  # exported by this process for its children
    if environ.get(RUN_ID) and not ours:
        return environ[RUN_ID]
    if job := job_name(environ):
        return job
    if environ.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return environ["TORCHELASTIC_RUN_ID"]
    return None


def agree_on(run_id: str) -> None:
    """Export a run's id, so that the ranks which this process starts agree with it.

    Args:
        run_id: the id.
    """
    if os.environ.get(RUN_ID) == run_id:
        return
    os.environ[RUN_ID] = run_id
    os.environ[_OWNER] = str(os.getpid())


def checked(what: str, value: str) -> str:
    """Return a name or an id, refusing one that cannot name a folder.

    Args:
        what: ``name`` or ``id``.
        value: it.

    Raises:
        UserError: it holds other characters, or begins with one that a folder's should not.
    """
    if not _NAME.fullmatch(value):
        raise UserError(
            f"run {what} {value!r} cannot name a folder; use letters, digits, '.', '-' and '_', "
            "beginning with a letter or a digit"
        )
    return value
