"""W&B for one run folder: one run over all restarts, in which every row is once."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from mmlight import signals
from mmlight.callbacks.axes import Axes
from mmlight.runs.files import plain
from mmlight.runs.metrics_log import AXES
from mmlight.runs.run import RunFolder
from mmlight.runs.sent_rows import SentRows
from mmlight.runs.wandb_file import count_rows, mend

JobType = Literal["pretrain", "finetune", "eval"]
_STEP = "trainer/global_step"


class WandbRun(WandbLogger):
    """W&B for one run folder: the same id, files below the folder, the config once and nested.

    Rows carry `trainer/global_step`, `samples`, `tokens` and `wall_s`. `metrics.jsonl` is the
    truth: what a kill kept from W&B is sent when the run resumes (`catch_up`), and values that W&B
    has are not sent again.

    Offline, each start of a run makes a folder ``wandb/offline-run-*`` of its own, all with the
    run's id; one ``wandb sync`` of them all gives one run.

    Args:
        run: the folder; its name becomes the group, its id the run's id and name.
        mode: ``online``, or ``offline`` to keep everything in the run folder.
        config: the resolved configuration, as nested dictionaries.
        project: the W&B project.
        job_type: ``pretrain``, ``finetune`` or ``eval``.
        tags: words to find the run by.
        entity: the W&B team or user; None for the user's default.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        mode: Literal["online", "offline"],
        config: Mapping[str, Any],
        project: str = "mmlight",
        job_type: JobType = "pretrain",
        tags: Sequence[str] = (),
        entity: str | None = None,
    ) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=f"{run.name}/{run.id}",
            save_dir=run.path,
            id=run.id,
            project=project,
            group=run.name,
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
        self._mode = mode
        self._axes: Axes | None = None
        self._started = time.monotonic()
        self._wall_before_s = 0.0
        self._sent = SentRows(run.path / "wandb" / "rows.jsonl")
        self._resumed = False
        self._next_row: int | None = None

    def attach(self, trainer: pl.Trainer) -> None:
        """Take steps, samples and tokens from `trainer`.

        Args:
            trainer: the trainer that logs here.
        """
        self._axes = Axes(trainer)

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; the first access starts it."""
        if self._experiment is None:
            folder = self.run.path / "wandb"
            stored = count_rows(folder, run_id=self.run.id)
            if self._mode == "offline":
                mend(folder, run_id=self.run.id)
            run = super().experiment
            for axis in ("samples", "tokens", "wall_s", "epoch"):
                run.define_metric(axis, step_metric=_STEP)
            if self._mode == "offline":
                # Here nobody tells wandb's SDK that the run has rows already.
                self._next_row = stored
            self._sent.keep(run.starting_step if self._next_row is None else stored)
        return self._experiment

    @rank_zero_only
    def describe(self, provenance: Mapping[str, Any]) -> None:
        """Add what runs to the config: code, job, machine, data, as this process finds them.

        Args:
            provenance: plain values by name.
        """
        described = {"provenance": plain(dict(provenance))}
        self.experiment.config.update(described, allow_val_change=True)

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
        self._wall_before_s = max((float(e["wall_s"]) for e in entries), default=0.0)
        self._started = time.monotonic()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log a row; its step is one axis among others, so that no row is dropped.

        Args:
            metrics: values by name.
            step: used only before a trainer is attached.
        """
        at = self._axes
        step = at.step if at else step or 0
        names = [name for name in metrics if name not in AXES]
        new = self._sent.missing(step, names) if self._resumed else names
        if not new:
            return
        axes: dict[str, float] = {}
        if at is not None:
            axes = {"epoch": at.epoch, "samples": at.samples}
            axes |= {} if at.tokens is None else {"tokens": at.tokens}
            axes["wall_s"] = round(self._wall_before_s + time.monotonic() - self._started, 3)
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
        import wandb

        aliases: dict[Path, list[str]] = {}
        for alias, path in checkpoints.items():
            aliases.setdefault(path.resolve(), []).append(alias)
        for path, names in aliases.items():
            artifact = wandb.Artifact(
                f"model-{self.run.id}", type="model", metadata={"path": str(path)}
            )
            # A checksum would read the whole file, of which W&B keeps nothing.
            artifact.add_reference(path.as_uri(), checksum=False)
            self.experiment.log_artifact(artifact, aliases=names)

    @rank_zero_only
    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set what the run is listed by, whatever the order of its rows; nothing once it is closed.

        Args:
            values: by name.
        """
        run = self._experiment
        if run is not None:
            self._try(lambda: run.summary.update(plain(dict(values))))

    @rank_zero_only
    def finish(self, *, how: Literal["finished", "failed", "preempted"] = "finished") -> None:
        """Flush and close the run. Call it when `fit` has returned, before any requeue.

        Args:
            how: ``preempted`` where another job takes over.
        """
        self._sent.close()
        if self._experiment is None:
            return
        run, self._experiment = self._experiment, None
        if how == "preempted":
            self._try(run.mark_preempting)
        self._try(lambda: run.finish(exit_code=0 if how == "finished" else 1))

    def _send(self, values: Mapping[str, Any], axes: Mapping[str, float], *, step: int) -> None:
        run = self.experiment
        self._sent.add(step, values)
        # W&B's own step is the number of the row. It is never the trainer's: a second row of a
        # step would be dropped.
        row = {**values, **axes, _STEP: step}
        self._try(lambda: run.log(row, step=self._next_row, commit=True))
        if self._next_row is not None:
            self._next_row += 1

    def _try(self, call: Callable[[], object]) -> None:
        """Tell W&B something, unless the job's end has ended W&B's own process.

        SLURM sends TERM to every process of a job. Training has to save nevertheless; what W&B no
        longer takes is sent when the run goes on.
        """
        try:
            call()
        except Exception:
            if not signals.noted():
                raise
