"""A run: its folder, ``runs/<name>/<id>/``, and what lies in it, read when it is asked for.

One folder per run, shared by all its ranks and restarts. Whatever a run's files hold, the other
runs are shown: what cannot be read is named, once, and is as if it were not there.
"""

import json
import os
import re
import secrets
import shlex
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlight.files import json_objects, warn_once, write_text
from mmlight.runs.run.attempts import ATTEMPTS, Attempts, attempts_in
from mmlight.runs.run.config_text import look_up
from mmlight.runs.run.files import RunFiles
from mmlight.runs.run.heartbeats import Beat, read_beats
from mmlight.runs.run.ids import agree_on, checked, choose_id
from mmlight.runs.run.metrics_log import LogTail, final_values, read_rows
from mmlight.runs.run.submission import CANCELLED, FILE, Submission
from mmlight.scores import main_metric, value_of
from mmlight.text_file import read_regular

_STEP = re.compile(r"-(\d+)(?:-v\d+)?\.ckpt$")
_VERSION = re.compile(r"-v\d+\.ckpt$")
_JOB = re.compile(r"\d+(_\d+)?")
# A run's folder holds one of these.
_SIGNS = frozenset((FILE, "summary.json", "metrics.jsonl", "config.yaml"))
# Of a file that is read whole.
_LARGEST = 1 << 24
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Run(RunFiles):
    """A run: where everything of it lies, and what its files say.

    A path (`summary_json`) may lead nowhere yet. What a file says (`summary`) is read once: who
    waits for something new asks a new `Run`.

    Attributes:
        of: for an evaluation that lies below a run (see `below`), that run.
    """

    of: "Run | None" = None

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        name: str,
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> "Run":
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
        run = cls(folder / checked("id", run_id or choose_id(folder, config)))
        run.path.mkdir(parents=True, exist_ok=True)
        agree_on(run.id)
        return run

    def below(self, verb: str) -> "Run":
        """Make a folder below this run for an evaluation of it, which then overwrites nothing."""
        folder = Run(self.path / verb, of=self)
        folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def id(self) -> str:
        """The run's id."""
        return f"{self.of.id}-{self.path.name}" if self.of else self.path.name

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.of.name if self.of else self.path.parent.name

    @property
    def label(self) -> str:
        """What people call it: ``NAME/ID``."""
        return f"{self.name}/{self.id}"

    @property
    def resume_command(self) -> str:
        """The command that goes on with it, as it is typed here."""
        root = self.path.parents[1]
        words = ["mmlight", "resume", self.label]
        return shlex.join(words if root == Path("runs") else [*words, "--root", str(root)])

    def own_patch(self, number: int, *, first: bool = False) -> Path:
        """Return what a repository of the user's own had uncommitted.

        Args:
            number: which of those that `provenance.json` lists.
            first: that of the first start, where other code has gone on with the run since.
        """
        return self.path / f"git-own-{number}{'-first' if first else ''}.patch"

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

    @cached_property
    def config_text(self) -> str:
        """The configuration that it ran with, or will; empty where there is none."""
        found = self._text("config.yaml")
        return (self._text("submitted.yaml") if found is None else found) or ""

    def setting(self, key: str) -> Any:
        """Return a value of its configuration by its key (see `look_up`); None without any."""
        return look_up(self.config_text, key)

    @cached_property
    def summary(self) -> Mapping[str, Any] | None:
        """What came out (`summary.json`); None where there is none, or half of one."""
        return self._object("summary.json", self._summary_text)

    @cached_property
    def provenance(self) -> Mapping[str, Any] | None:
        """Of what it was made (`provenance.json`); None where there is none, or half of one."""
        return self._object("provenance.json", self._text("provenance.json"))

    @cached_property
    def status(self) -> str | None:
        """How it ended, as the summary has it."""
        found = self._part_of_summary("status")
        return str(found) if found else None

    @cached_property
    def submission(self) -> Submission | None:
        """How it was given to SLURM; None where it was not, or where that cannot be read."""
        values = self._object(FILE, self._text(FILE))
        try:
            return None if values is None else Submission.parse(values)
        except (ValueError, TypeError, KeyError):
            self._left_out(FILE)
            return None

    @cached_property
    def attempts(self) -> Attempts:
        """How its processes began and ended."""
        return attempts_in(self._text(ATTEMPTS) or "")

    @cached_property
    def monitor(self) -> str | None:
        """What its best checkpoint is chosen by (`checkpoint.monitor`)."""
        if (text := self._summary_text) is not None:
            # Those of earlier versions lack it: 10,000 configurations would take seconds to read.
            found = self._part_of_summary("monitor") if '"monitor"' in text else None
        elif self.submission is not None:
            found = self.submission.monitor
        else:
            found = self.setting("checkpoint.monitor")
        return found if isinstance(found, str) else None

    @cached_property
    def user(self) -> str | None:
        """Whose it is: who submitted it, else the folder's owner; None where that has no name."""
        if self.submission is not None:
            return self.submission.user
        with suppress(KeyError, OSError):
            return self.path.owner()
        return None

    @property
    def wandb_url(self) -> str | None:
        """Its address at W&B; None where it never got through."""
        return (self._text("wandb-url") or "").strip() or None

    @property
    def jobs(self) -> list[str]:
        """Its jobs, the newest last: those submitted, and those that a job submitted after it."""
        events = self.attempts.events
        later = [str(e["job"]) for e in events if e["event"] == "resubmitted" and "job" in e]
        first = self.submission.jobs if self.submission else ()
        jobs = {job for job in (*first, *later) if _JOB.fullmatch(job)}
        # Job ids rise; a task of an array stands by its array's.
        return sorted(jobs, key=lambda job: [int(part) for part in job.split("_")])

    @cached_property
    def log(self) -> LogTail:
        """The last rows of the log of metrics."""
        return LogTail(lambda most: self._read("metrics.jsonl", tail=most))

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of the log of metrics, one for each step."""
        if self.metrics_jsonl.exists() and not self.metrics_jsonl.is_file():
            self._left_out("metrics.jsonl")
            return []
        return read_rows(self.metrics_jsonl)

    @cached_property
    def final(self) -> dict[str, float]:
        """The last value of each metric; of a run that still goes on, as of now."""
        known = self._part_of_summary("final")
        final = _numbers(known) if isinstance(known, dict) else {}
        # A run that goes on logs rows after its summary.
        return final if self.logged_at <= self.ended_at + 1 else final | final_values(self.log.rows)

    @property
    def main_metric(self) -> str | None:
        """The score that a run of its kind is known by."""
        return main_metric(self.final, monitor=self.monitor)

    def value(self, metric: str) -> float | None:
        """Return the last value of a metric; None where it has none."""
        return value_of(metric, self.final)

    @property
    def step(self) -> int:
        """Optimiser steps made, as far as is logged."""
        last = self.attempts.events[-1] if self.attempts.events else {}
        if last.get("event") == "end" and self.attempts.step is not None:
            return self.attempts.step  # no row is of a later one
        return max(int(self.log.last_row.get("step", 0)), self.attempts.step or 0)

    @property
    def planned_steps(self) -> int | None:
        """How many optimiser steps it will make in all; None where it is not known yet.

        Its training process notes it when it starts; before that, the configuration may say it.
        """
        for event in reversed(self.attempts.events):
            if isinstance(event.get("max_steps"), int):
                return int(event["max_steps"])
        return self.submission.max_steps if self.submission else None

    @property
    def seconds_left(self) -> float | None:
        """How long the rest of its steps will take; None where it cannot be told."""
        speed = self.log.steps_per_s
        if self.planned_steps is None or speed is None:
            return None
        return max(0, self.planned_steps - self.step) / speed

    @cached_property
    def was_cancelled(self) -> bool:
        """Whether `mmlight cancel` has ended it."""
        return os.path.lexists(f"{self.path}/{CANCELLED}")

    @cached_property
    def logged_at(self) -> float:
        """When a row was last logged, seconds since 1970; 0 where there is none."""
        return self._mtime("metrics.jsonl")

    @cached_property
    def touched_at(self) -> float:
        """When something was last logged, seconds since 1970."""
        return max(self.logged_at, self._mtime(ATTEMPTS)) or self._mtime("")

    @cached_property
    def ended_at(self) -> float:
        """When the summary was written, seconds since 1970; 0 where there is none."""
        return self._mtime("summary.json")

    def beats(self, *, since: float | None = None) -> list[Beat]:
        """Return the last signs of life of its ranks, without those that an earlier start left.

        Args:
            since: when its job began, seconds since 1970; None: as far as its attempts tell.
        """
        if since is None:
            starts = [e.get("time", 0.0) for e in self.attempts.events if e["event"] == "start"]
            since = max(starts, default=0.0)
        return read_beats(self.path, since=since)

    def is_run(self) -> bool:
        """Return whether the folder is that of a run."""
        with suppress(OSError):
            return not _SIGNS.isdisjoint(os.listdir(self.path))
        return False

    @cached_property
    def _summary_text(self) -> str | None:
        return self._text("summary.json")

    def _part_of_summary(self, key: str) -> Any:
        """Return one of its values; parsing the packages and all else takes five times as long."""
        text = self._summary_text or ""
        mark = f'\n  "{key}": '  # as `write_json` indents what lies at the top
        try:
            return _DECODER.raw_decode(text, text.index(mark) + len(mark))[0]
        except (ValueError, RecursionError):
            return (self.summary or {}).get(key)

    def _read(self, name: str, *, tail: int | None = None) -> bytes | None:
        """Return a file's bytes, or the last of them; None where there is none to be read."""
        try:
            data = read_regular(
                f"{self.path}/{name}", most=tail or _LARGEST + 1, end=tail is not None
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            data = None
        if data is None or len(data) > _LARGEST:
            self._left_out(name)
            return None
        return data

    def _text(self, name: str) -> str | None:
        data = self._read(name)
        return None if data is None else data.decode(errors="replace")

    def _object(self, name: str, text: str | None) -> dict[str, Any] | None:
        found = json_objects([] if text is None else [text])
        if text is not None and not found:
            self._left_out(name)
        return found[0] if found else None

    def _left_out(self, name: str) -> None:
        warn_once(f"{self.path}/{name}: cannot be read, and is left out")

    def _mtime(self, name: str) -> float:
        with suppress(OSError):
            return os.stat(f"{self.path}/{name}").st_mtime
        return 0.0


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end."""
    # In one file it is a zip archive, whose directory stands at its end; one in parts is a folder,
    # which is named when it is whole.
    return checkpoint.is_dir() or zipfile.is_zipfile(checkpoint)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's name tells; 0 where it tells none."""
    found = _STEP.search(checkpoint.name)
    return int(found[1]) if found else 0


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those that are numbers, or a number's text (nan, inf)."""
    found = {}
    for name, value in values.items():
        with suppress(TypeError, ValueError, OverflowError):
            found[name] = float(value)
    return found
