"""One run, as it is compared: its settings, its values over time, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmlight import compose
from mmlight.compose import flatten
from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import AXES
from mmlight.runs.run.signature import LEFT_OUT, SEED
from mmlight.runs.run.state import state_of
from mmlight.runs.run.summary import typical_samples_per_s
from mmlight.scores import direction, main_metric, parts


@dataclass(frozen=True)
class ComparedRun:
    """What one run is compared by.

    Attributes:
        name: the experiment's name.
        id: the run's id.
        state: in a word, such as ``finished`` or ``running``.
        config: the resolved configuration by dotted key.
        rows: of the log of metrics, one per step, in order.
        devices: what it ran on, such as ``cpu``.
        num_devices: how many of them.
        commit: of the code; None where it was in no git.
        patch: a hash of what was uncommitted, or a mark that something was; None for nothing.
        own_code: commit and hash of what was uncommitted, of each repository of the user's own.
        code_hashes: of the code that can be imported, ours and then the user's; None where a record
            has none.
        data: hashes of the data by split.
    """

    name: str
    id: str
    state: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    devices: tuple[str, ...] = ()
    num_devices: int = 1
    commit: str | None = None
    patch: str | None = None
    own_code: tuple[tuple[str, str | None], ...] = ()
    code_hashes: tuple[str | None, ...] = ()
    data: Mapping[str, str] | None = None

    @property
    def label(self) -> str:
        """What people call it: ``NAME/ID``."""
        return f"{self.name}/{self.id}"

    @property
    def is_finished(self) -> bool:
        """Whether it did all that it should."""
        return self.state == "finished"

    @property
    def seed(self) -> Any:
        """The seed of everything."""
        return self.config.get(SEED)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration but for seeds, where the run lives and what it runs on."""
        kept = {key: value for key, value in self.config.items() if not _is_left_out(key)}
        return _with_schedules(kept)

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all that was logged, as they first appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name not in AXES))

    @property
    def main_metric(self) -> str | None:
        """The metric that it is known by."""
        return main_metric(self.metrics, monitor=self.config.get("checkpoint.monitor"))

    @property
    def mode(self) -> tuple[Any, Any]:
        """Its monitored metric, and which value of it is better (see `direction`)."""
        return self.config.get("checkpoint.monitor"), self.config.get("checkpoint.monitor_mode")

    @property
    def steps(self) -> int:
        """Optimiser steps made."""
        return int(self._last("step"))

    @property
    def samples(self) -> int:
        """Training samples seen by all ranks."""
        return int(self._last("samples"))

    @property
    def device_hours(self) -> float:
        """Hours of training times the number of devices."""
        return self._last("wall_s") * self.num_devices / 3600

    @property
    def samples_per_s(self) -> float | None:
        """The median of the logged training speed, over all ranks."""
        return typical_samples_per_s([dict(row) for row in self.rows])

    @property
    def uses_gpu(self) -> bool:
        """Whether its devices are other than processors."""
        return any(device != "cpu" for device in self.devices)

    @property
    def code(self) -> str:
        """The commits in short, with a plus where something was uncommitted."""
        return self._commits(digits=0)

    @property
    def exact_code(self) -> str:
        """The commits in short, with the begin of a hash of what was uncommitted."""
        return self._commits(digits=4)

    def _commits(self, *, digits: int) -> str:
        states = [(self.commit, self.patch), *self.own_code]
        shown = [f"{c[:8]}+{patch[:digits]}" if patch else c[:8] for c, patch in states if c]
        return " ".join(dict.fromkeys(shown)) or "no git"

    @property
    def code_identity(self) -> str:
        """What tells one code from another: hashes of what can be imported, where all are known.

        Another commit, or something uncommitted, is the same code where only files differ that no
        run imports, such as experiments.
        """
        if self.code_hashes and all(self.code_hashes):
            return " ".join(str(known) for known in self.code_hashes)
        return self.exact_code

    def curve(self, metric: str) -> list[tuple[Mapping[str, Any], float]]:
        """Return the rows that have a metric, with its value; NaN is left in.

        Args:
            metric: its name, or ``stage/score`` for the mean of ``stage/PAIR/score`` over pairs
                (see `parts`).
        """
        names = parts(metric, self.metrics)
        found = []
        for row in self.rows:
            values = [float(row[name]) for name in names if name in row]
            if len(values) == len(names) > 0:
                found.append((row, sum(values) / len(values)))
        return found

    def final(self, metric: str) -> float | None:
        """Return the last value of a metric; None where it was never logged."""
        found = self.curve(metric)
        return found[-1][1] if found else None

    def best(self, metric: str) -> float | None:
        """Return the best value of a metric that is a number."""
        values = [value for _, value in self.curve(metric) if value == value]
        if not values:
            return None
        return max(values) if direction(metric, modes=[self.mode]) == "max" else min(values)

    def _last(self, axis: str) -> float:
        return max((float(row[axis]) for row in self.rows if axis in row), default=0.0)


def read_run(run: Run) -> ComparedRun:
    """Read a run from its folder, which may be one that is still written to.

    Raises:
        UserError: it holds no configuration, or one that cannot be read.
    """
    config = next((p for p in (run.config_yaml, run.submitted_yaml) if p.exists()), None)
    if config is None:
        raise UserError(f"run {run.path} has no config.yaml: it was never started")
    try:
        return ComparedRun(
            name=run.name,
            id=run.id,
            state=state_of(run, None).word,
            config=flatten(compose.read(config)),
            rows=run.rows(),
            **recorded(run.summary or run.provenance or {}),
        )
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        said = str(error) if isinstance(error, UserError) else "what it recorded is damaged"
        raise UserError(f"run {run.path} cannot be read: {said}") from error


def recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record of a run's provenance says of devices, code and data.

    Args:
        record: as in `provenance.json` and `summary.json`, and as W&B's config holds it.

    Returns:
        Fields of `ComparedRun`.
    """
    git = record.get("git") or {}
    # The user's own repositories, where the run had some.
    own = [one for one in record.get("own_code") or () if one.get("commit")]
    return {
        "devices": tuple(record.get("devices") or ()),
        "num_devices": int(record.get("num_devices") or 1),
        "commit": git.get("commit"),
        "code_hashes": tuple(one.get("code_sha256") for one in (git, *own)),
        "patch": git.get("patch_sha256") or ("dirty" if git.get("dirty") else None),
        "own_code": tuple((o["commit"], o.get("patch_sha256")) for o in own),
        "data": (record.get("data") or {}).get("fingerprint"),
    }


def _with_schedules(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with one for a mapping from steps, such as an unfreezing schedule.

    Each of its steps would be a setting, and a column, of its own.
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        above, _, last = key.rpartition(".")
        if last.isdigit():
            before = f"{found[above]}, " if above in found else ""
            found[above] = f"{before}{last}: {value}"
        else:
            found[key] = value
    return found


def _is_left_out(key: str) -> bool:
    if key.rpartition(".")[2] in ("seed", SEED):
        return True
    return any(key == name or key.startswith(f"{name}.") for name in LEFT_OUT)
