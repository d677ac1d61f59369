"""W&B for one run folder: one run over all restarts, in which every row is once."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight import signals
from mmlight.files import plain, write_text
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import AXES
from mmlight.runs.wandb.file import count_rows, mark_sent, mend
from mmlight.runs.wandb.sent_rows import SentRows
from mmlight.terminal import note
from mmlight.trainer.axes import axes_of
from mmlight.trainer.run_logger import own_log

JobType = Literal["pretrain", "finetune", "eval"]
SentPatch = Literal["tracked", "all", "none"]
_STEP = "trainer/global_step"
# How long W&B may send at the end of a run. A job that is handed on has two minutes for all of it.
_FINISH_S = "60"


class WandbRun(WandbLogger):
    """W&B for one run folder: one run over all restarts, the config once and nested.

    Rows carry `trainer/global_step`, `samples`, `tokens` and `wall_s`. `metrics.jsonl` is the
    truth: what a kill kept from W&B is sent when the run resumes (`catch_up`), and values that W&B
    has are not sent again. Nothing that W&B cannot do ends a run: it is said once, and W&B is left
    alone from then on.

    Offline, each start of a run makes a folder ``wandb/offline-run-*`` of its own, all with the
    run's id in W&B; one ``wandb sync`` of them all gives one run. A run that cannot reach W&B when
    it starts goes on offline.

    Args:
        run: the folder; name and id together become the run's name. The run's id in W&B is the
            folder's own (`Run.wandb_id`). Its address there is kept in `wandb-url`.
        mode: ``online``, or ``offline`` to keep everything in the run folder.
        config: the resolved configuration, as nested dictionaries.
        project: the W&B project.
        job_type: ``pretrain``, ``finetune`` or ``eval``.
        tags: words to find the run by.
        group: what runs are gathered by; None: the experiment's name, which its seeds share.
        notes: a text about the run.
        entity: the W&B team or user; None for the user's default.
        patch: what W&B's config gets of uncommitted code: the changes of tracked files, those and
            new files, or nothing.

    Attributes:
        trainer: the trainer that logs here.
    """

    def __init__(
        self,
        run: Run,
        *,
        mode: Literal["online", "offline"],
        config: Mapping[str, Any],
        project: str = "mmlight",
        job_type: JobType = "pretrain",
        tags: Sequence[str] = (),
        group: str | None = None,
        notes: str | None = None,
        entity: str | None = None,
        patch: SentPatch = "tracked",
    ) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=f"{run.name}/{run.id}",
            save_dir=run.path,
            id=run.wandb_id(),
            project=project,
            group=group or run.name,
            notes=notes,
            job_type=job_type,
            tags=list(tags),
            entity=entity,
            config=dict(config),
            # Not `offline=True`, which would set WANDB_MODE for the whole process.
            mode=mode,
            # Offline there is nothing to resume, and wandb would warn that it ignores this.
            resume="allow" if mode == "online" else None,
        )
        self.run = run
        self.patch: SentPatch = patch
        self._own_id = run.wandb_id()
        self._mode = mode
        self._lost = False
        self.trainer: pl.Trainer | None = None
        self._sent = SentRows(run.path / "wandb" / "rows.jsonl")
        self._resumed = False
        self._next_row: int | None = None

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; the first access starts it."""
        if self._experiment is None:
            folder = self.run.path / "wandb"
            stored = count_rows(folder, run_id=self._own_id)
            # Files that are to be sent wait below the run's folder: HOME may be full, or read-only.
            for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
                os.environ.setdefault(name, str(folder))
            os.environ.setdefault("WANDB_FINISH_TIMEOUT", _FINISH_S)
            os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
            run = self._start(folder)
            for axis in ("samples", "tokens", "wall_s", "epoch"):
                run.define_metric(axis, step_metric=_STEP)
            if self._mode == "offline":
                # Here nobody tells wandb's SDK that the run has rows already.
                self._next_row = stored
            if self._mode == "online" and run.url:
                with suppress(OSError):
                    write_text(self.run.wandb_url_file, f"{run.url}\n")
            self._sent.keep(run.starting_step if self._next_row is None else stored)
        return self._experiment

    def _start(self, folder: Path) -> Any:
        """Start W&B's run; offline where W&B cannot be reached."""
        import wandb

        if self._mode == "online":
            try:
                return super().experiment
            except wandb.errors.AuthenticationError:
                raise
            except wandb.errors.CommError as error:
                note(f"W&B cannot be reached ({error}): the run goes on offline")
                self._mode = "offline"
                self._wandb_init |= {"mode": "offline", "resume": None}
                # Its own process still holds the id of the run that did not begin.
                wandb.teardown()
        mend(folder, run_id=self._own_id)
        return super().experiment

    @rank_zero_only
    def describe(self, provenance: Mapping[str, Any]) -> None:
        """Add what runs to the config: code, job, machine, data, as this process finds them."""
        described = {"provenance": plain(dict(provenance))}
        config = self.experiment.config
        self._try(lambda: config.update(described, allow_val_change=True))

    @rank_zero_only
    def catch_up(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Send what earlier processes of this run logged and W&B has not; then go on.

        Args:
            entries: of `metrics.jsonl`, without those that this training will log again.
        """
        self._resumed = True
        for entry in entries:
            values = {k: float(v) for k, v in entry.items() if k not in AXES}
            new = self._sent.missing(entry["step"], values)
            if new:
                axes = {name: entry[name] for name in AXES if name in entry and name != "step"}
                self._send({name: values[name] for name in new}, axes, step=entry["step"])
        if self._mode == "online" and not self._lost:
            # All of it is sent: a later `wandb sync` must not send it again, under other rows.
            mark_sent(self.run.path / "wandb", run_id=self._own_id)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row; its step is one axis among others, so that no row is dropped.

        Args:
            metrics: values by name.
            step: used only without a trainer.
        """
        axes: dict[str, float] = {**axes_of(self.trainer)} if self.trainer else {}
        step = int(axes.pop("step", step or 0))
        names = [name for name in metrics if name not in AXES]
        new = self._sent.missing(step, names) if self._resumed else names
        if not new:
            return
        if self.trainer and (log := own_log(self.trainer)):
            axes["wall_s"] = round(log.wall_s, 3)
        self._send({name: metrics[name] for name in new}, axes, step=step)

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config was given at the start; Lightning's copy would be flattened."""

    @rank_zero_only
    def refer_to(self, checkpoints: Mapping[str, Path]) -> None:
        """Log checkpoints as references: W&B notes where they are, and nothing is uploaded.

        Args:
            checkpoints: files or folders by alias, such as ``best`` and ``last``.
        """
        aliases: dict[Path, list[str]] = {}
        for alias, path in checkpoints.items():
            aliases.setdefault(path.resolve(), []).append(alias)
        for path, names in aliases.items():
            self._try(partial(self._refer, path, names))

    def _refer(self, path: Path, names: list[str]) -> None:
        import wandb

        artifact = wandb.Artifact(
            f"model-{self._own_id}", type="model", metadata={"path": str(path)}
        )
        # A checksum would read the whole file, of which W&B keeps nothing.
        artifact.add_reference(path.as_uri(), checksum=False)
        self.experiment.log_artifact(artifact, aliases=names)

    @rank_zero_only
    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set what the run is listed by, whatever the order of its rows; not once it is closed."""
        run = self._experiment
        if run is not None:
            self._try(lambda: run.summary.update(plain(dict(values))))

    @rank_zero_only
    def finish(self, *, how: Literal["finished", "failed", "preempted"] = "finished") -> None:
        """Flush and close the run. Call it when `fit` has returned, before any requeue.

        Args:
            how: ``preempted`` where another job takes over.
        """
        if self._experiment is None:
            return
        run, self._experiment = self._experiment, None
        # Also where W&B took nothing more: it may again by now, and else shows a run that crashed.
        if how == "preempted":
            self._try(run.mark_preempting, again=True)
        self._try(lambda: run.finish(exit_code=0 if how == "finished" else 1), again=True)
        if self._mode == "offline" or self._lost:
            segments = self.run.path.absolute() / "wandb" / "*run-*"
            note(f"what W&B has not got yet is sent by: wandb sync --no-skip-online {segments}")

    def _send(self, values: Mapping[str, Any], axes: Mapping[str, float], *, step: int) -> None:
        run = self.experiment
        self._sent.add(step, values)
        # W&B's own step is the number of the row. It is never the trainer's: a second row of a
        # step would be dropped.
        row = {**values, **axes, _STEP: step}
        self._try(lambda: run.log(row, step=self._next_row, commit=True))
        if self._next_row is not None:
            self._next_row += 1

    def _try(self, call: Callable[[], object], *, again: bool = False) -> None:
        """Tell W&B something; what it cannot take never ends a run.

        Its own process may be gone (SLURM sends TERM to every process of a job), the disk where it
        keeps its files full. What it has not got is sent when the run goes on.
        """
        if self._lost and not again:
            return
        try:
            call()
        except Exception as error:
            first, self._lost = not self._lost, True
            if first and not signals.noted():
                note(f"W&B takes nothing more ({error}); all rows are in metrics.jsonl")
