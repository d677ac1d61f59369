"""Writes down what ran and what came out: configuration, provenance, summary."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmlight import yaml_text
from mmlight.costs.meters import peak_resident_bytes
from mmlight.files import read_json, write_json, write_text
from mmlight.runs.code import provenance
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import final_values, read_entries, read_rows
from mmlight.runs.run.signature import setting
from mmlight.runs.run.summary import best_values, typical_samples_per_s
from mmlight.runs.show.final_scores import format_table
from mmlight.runs.show.report import write_report
from mmlight.runs.slurm.job import describe_job
from mmlight.signals import Interrupted
from mmlight.tasks.task import Task
from mmlight.terminal import Terminal
from mmlight.trainer.run_logger import RunLogger, TensorBoardRun, own_log
from mmlight.trainer.wandb_run import SentPatch, WandbRun

_LONGEST_PATCH = 20_000


class Record(pl.Callback):
    """Keeps a run folder complete, on rank 0; other ranks do nothing.

    When a stage is set up: `config.yaml`, `provenance.json`, the uncommitted patch, and all three
    as W&B's config. When training starts: the log of metrics goes back to the checkpoint's step,
    and W&B gets what it lacks of it. When a stage ends, in whatever way: `summary.json`.

    Args:
        run: the run's folder.
        verb: what is done: ``fit``, ``validate``, ``test`` or ``predict``.
        config: the resolved configuration as nested dictionaries, which runs again as it stands.
        wandb: W&B's logger, where W&B gets what the run folder gets.
        tensorboard: whether TensorBoard's event files are written too.
        ckpt_path: the checkpoint that this start goes on from.
    """

    def __init__(
        self,
        run: Run,
        *,
        verb: str,
        config: dict[str, Any],
        wandb: WandbRun | None = None,
        tensorboard: bool = False,
        ckpt_path: str | None = None,
    ) -> None:
        self.run = run
        self._ckpt_path = ckpt_path
        self._verb = verb
        self._config = config
        self._loggers: list[Logger] = [RunLogger(run)]
        if wandb is not None:
            self._loggers.append(wandb)
        if tensorboard:
            self._loggers.append(TensorBoardRun(run))
        self._provenance: dict[str, Any] = {}
        self._data: dict[str, Any] = {}
        self._described: dict[str, Any] = {}
        self._started = datetime.now(UTC)

    def loggers(self) -> list[Logger]:
        """Return the loggers to give to the trainer: the run's files, and W&B where it is on."""
        return list(self._loggers)

    def conclude(self, trainer: pl.Trainer) -> None:
        """Close W&B, write the report, and say where everything is. Call it after all stages.

        Every rank may call it; rank 0 acts.
        """
        if not trainer.is_global_zero:
            return
        summary = json.loads(self.run.summary_json.read_text())
        for logger in self._loggers:
            if isinstance(logger, WandbRun):
                if self._verb == "fit":
                    logger.refer_to(self._kept(summary["checkpoints"]))
                logger.finish(how="finished" if summary["status"] == "finished" else "failed")
        # Paths are not wrapped: broken ones can't be copied.
        console = Terminal(soft_wrap=True)
        if self._verb == "predict":
            for path in (self.run.embeddings, *sorted(self.run.path.glob("predictions.*"))):
                if path.exists():
                    console.print(f"{path.stem}: {path}")
            return
        report = write_report(self.run)
        console.print(format_table(summary))
        console.print(f"run: {self.run.path}", f"report: {report}", sep="\n")

    def hand_on(self, trainer: pl.Trainer) -> None:
        """Close W&B of a run that another job goes on with. Call it before that job is asked for.

        Every rank may call it; rank 0 acts.
        """
        if not trainer.is_global_zero:
            return
        for logger in self._loggers:
            logger.finalize("success")
            if isinstance(logger, WandbRun):
                logger.finish(how="preempted")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what is known before anything runs."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger | WandbRun | TensorBoardRun):
                logger.trainer = trainer
        if not trainer.is_global_zero:
            return
        write_text(self.run.config_yaml, yaml_text.dump(self._config))
        fingerprint = getattr(_data(trainer), "fingerprint", None)
        if fingerprint is not None:
            self._data["fingerprint"] = fingerprint()
        there = getattr(_data(trainer), "what_is_there", None)
        if there is not None:
            self._data["samples"] = there()
        self._provenance = provenance.collect(
            devices=_devices(trainer),
            num_threads=torch.get_num_threads(),
            patch=self.run.patch,
            config=self._config,
        )
        self._provenance["num_devices"] = trainer.world_size
        self._provenance["precision"] = str(trainer.precision)
        self._provenance["job"] = describe_job(os.environ)
        self._described = described = {
            "verb": self._verb,
            "ckpt_path": self._began_from(),
            **self._provenance,
            "data": self._data,
            "seed": self._config.get("seed_everything"),
            "setting": setting(self._config),
        }
        write_json(self.run.provenance_json, described)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.describe({**described, "patch": self._short_patch(logger.patch)})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget rows that this training will write again, and note that the data has changed."""
        if not trainer.is_global_zero:
            return
        if changed := getattr(_data(trainer), "changed", None):  # since the checkpoint
            self._data["changed"] = changed
            write_json(self.run.provenance_json, self._described)
        if (log := own_log(trainer)) is not None:
            log.rewind(trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardRun):
                logger.rewind(trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.catch_up(read_entries(self.run.metrics_jsonl))

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write the summary of a run that was stopped or has failed."""
        stopped = isinstance(
            exception, Interrupted | KeyboardInterrupt | SystemExit | SIGTERMException
        )
        error = " ".join(f"{type(exception).__name__}: {exception}".split())
        # The exception may be that nothing can be written, or that the folder was removed.
        if self.run.path.exists():
            with suppress(OSError):
                self._write(trainer, status="interrupted" if stopped else "failed", error=error)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Write the row of the step first: a run that goes on from it does not log it again."""
        if isinstance(pl_module, Task):
            pl_module.log_step()
        if (log := own_log(trainer)) is not None:
            log.sync()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the summary of a run that has done what it should."""
        if (log := own_log(trainer)) is not None:
            log.sync()
        self._write(trainer, status="finished", error=None)

    def _began_from(self) -> str | None:
        """Return the checkpoint of another run that this one began from, at its first start."""
        path = Path(self._ckpt_path).resolve() if self._ckpt_path else None
        if path is None or not path.is_relative_to(self.run.path.resolve()):
            return str(path) if path else None
        return (read_json(self.run.provenance_json) or {}).get("ckpt_path")

    def _write(self, trainer: pl.Trainer, *, status: str, error: str | None) -> None:
        if not trainer.is_global_zero:
            return
        log = own_log(trainer)
        rows = read_rows(self.run.metrics_jsonl)
        checkpoint = self._config.get("checkpoint") or {}
        monitor, mode = checkpoint.get("monitor"), checkpoint.get("monitor_mode")
        summary = {
            "name": self.run.name,
            "id": self.run.id,
            "verb": self._verb,
            "status": status,
            "error": error,
            "monitor": monitor,
            "notes": (self._config.get("run") or {}).get("notes"),
            "final": final_values(rows),
            "best": best_values(rows, known={monitor: mode} if monitor and mode else None),
            "steps": trainer.global_step,
            "epoch": trainer.current_epoch,
            "samples_seen": rows[-1].get("samples", 0) if rows else 0,
            "tokens_seen": rows[-1].get("tokens") if rows else None,
            "samples_per_s": typical_samples_per_s(rows),
            "wall_s": None if log is None else round(log.wall_s, 1),
            "started": self._started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_memory_mb": _peak_memory_mb(),
            "seed": self._config.get("seed_everything"),
            "data": {**self._data, "cursor": _cursor(trainer)},
            "parameters": _parameters(trainer),
            "checkpoints": _checkpoints(trainer, self.run),
            **self._provenance,
        }
        write_json(self.run.summary_json, summary)
        for logger in trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.summarise(_listed(summary))

    def _short_patch(self, wanted: SentPatch) -> str | None:
        """What the code had uncommitted, for W&B's config; the run folder has all of it."""
        if wanted == "none" or not self.run.patch.exists():
            return None
        # As git.patch was written: every byte, and every line's own end.
        patch = self.run.patch.read_bytes().decode(errors="surrogateescape")
        if wanted == "tracked":
            patch = patch[: self._provenance["git"]["patch_tracked"]]
        patch = patch.encode(errors="surrogateescape").decode(errors="replace")
        if len(patch) <= _LONGEST_PATCH:
            return patch or None
        return f"{patch[:_LONGEST_PATCH]}\n... {len(patch) - _LONGEST_PATCH} more characters"

    def _kept(self, checkpoints: Mapping[str, str | None]) -> dict[str, Path]:
        paths = {alias: self.run.path / path for alias, path in checkpoints.items() if path}
        return {alias: path for alias, path in paths.items() if path.exists()}


def _listed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what W&B lists a run by, which does not depend on the order of its rows."""
    values = {f"best/{name}": best["value"] for name, best in summary["best"].items()}
    keys = ("status", "wall_s", "samples_per_s")
    return {**summary["final"], **values, **{key: summary[key] for key in keys}}


def _data(trainer: pl.Trainer) -> Any:
    return getattr(trainer, "datamodule", None)  # set by the trainer, but not declared


def _cursor(trainer: pl.Trainer) -> dict[str, Any] | None:
    """Return where training stands in its data, without the list of what that is."""
    state = getattr(_data(trainer), "state_dict", None)
    return None if state is None else {k: v for k, v in state().items() if k != "sources"}


def _devices(trainer: pl.Trainer) -> list[str]:
    root = trainer.strategy.root_device
    return [torch.cuda.get_device_name(root)] if root.type == "cuda" else [root.type]


def _parameters(trainer: pl.Trainer) -> dict[str, int]:
    """Count the model's parameters, and those that are trained by now."""
    found = list(trainer.lightning_module.parameters())
    return {
        "total": sum(p.numel() for p in found),
        "trained": sum(p.numel() for p in found if p.requires_grad),
    }


def _peak_memory_mb() -> dict[str, float]:
    peak = {"process": round(peak_resident_bytes() / 2**20, 1)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["device"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def _checkpoints(trainer: pl.Trainer, run: Run) -> dict[str, str | None]:
    """Paths relative to the run folder, which may be moved."""

    def relative(path: str | Path | None) -> str | None:
        if not path:
            return None
        full, root = Path(path).resolve(), run.path.resolve()
        return str(full.relative_to(root) if full.is_relative_to(root) else full)

    best = None
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            best = best or callback.best_model_path
    return {"best": relative(best), "last": relative(run.newest_checkpoint())}
