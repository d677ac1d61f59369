"""Runs as W&B's own server has them, for comparing what lies in no folder here."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

from mmlight.compose import flatten
from mmlight.errors import UserError
from mmlight.runs.run.metrics_log import AXES, by_step
from mmlight.runs.show.compare.run import ComparedRun, recorded

_STEP = "trainer/global_step"
# Of an error that quotes a whole page.
_LONGEST = 300


def fetch(place: str, references: Sequence[str]) -> list[ComparedRun]:
    """Return runs with all that they logged, in the order in which they are named.

    Args:
        place: ``ENTITY/PROJECT``.
        references: an experiment (W&B's group), a run's id, or ``NAME/ID``.

    Raises:
        UserError: no such run, or W&B does not answer.
    """
    import wandb

    found: dict[str, ComparedRun] = {}
    try:
        api = wandb.Api(timeout=30)
        for reference in references:
            wanted = reference.rpartition("/")[2]
            runs = list(api.runs(place, filters={"$or": [{"group": reference}, {"name": wanted}]}))
            if not runs:
                raise UserError(f"no run '{reference}' in {place} at W&B")
            found |= {run.id: compared(run) for run in sorted(runs, key=lambda r: r.created_at)}
    except UserError:
        raise
    except Exception as error:
        # What W&B's API raises is told by no one class: requests' errors of all kinds, a page of
        # a proxy in place of JSON, keys and types that an answer lacks.
        raise UserError(f"--wandb {place}: {_said(error)}") from error
    return list(found.values())


def _said(error: Exception) -> str:
    """Return what went wrong on one short line."""
    text = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    return shorten(f"W&B does not answer as it should ({text})", _LONGEST, placeholder="...")


def compared(run: Any) -> ComparedRun:
    """Return what a run of W&B's API is compared by.

    Args:
        run: as `wandb.Api().runs` gives it, logged by
            `mmlight.trainer.wandb_run.WandbRun`.
    """
    config = dict(run.config)
    provenance = config.pop("provenance", None) or {}
    return ComparedRun(
        name=run.group or run.name,
        id=run.id,
        state={"crashed": "failed", "killed": "stopped"}.get(run.state, run.state),
        config=flatten({k: v for k, v in config.items() if not k.startswith("_")}),
        rows=_rows(run.scan_history()),
        **recorded(provenance),
    )


def _rows(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per step; pictures, tables and what W&B adds are left out."""
    entries = []
    for found in history:
        if _STEP not in found:
            continue
        entry = {name: found[name] for name in AXES if found.get(name) is not None}
        entry |= {
            name: float(value)
            for name, value in found.items()
            if "/" in name and name != _STEP and _is_number(value)
        }
        entries.append({"samples": 0, "wall_s": 0.0, **entry, "step": int(found[_STEP])})
    return list(by_step(entries).values())


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")
