"""Optuna proposes the combinations of a sweep; its journal file makes that resumable (no torch)."""

import math
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.sweep import Choices, Range, Sweep, as_argument, rounded
from mmlight.runs.sweep_results import Result

_FEW = 10  # as many are drawn by chance before the sampler has a model
_JUDGED = 3  # finished runs, with which the median means something


class OptunaSearch:
    """Asks Optuna's TPE sampler for combinations, and tells it their scores.

    The sampler draws from (the sweep's seed, the number of the trial), so that a sweep that was
    broken off goes on as it would have.

    Args:
        sweep: the settings.
        journal: Optuna's storage; continued where it exists.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, *, journal: Path) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "searcher: optuna needs a package that is missing: pip install 'mmlight[sweep]'"
            ) from error
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._sweep = sweep
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="sweep",
            direction="maximize" if sweep.direction == "max" else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_JUDGED),
        )
        self._trial: Any = None

    def known(self) -> list[Result]:
        """Return the trials that are over, as Optuna remembers them, without their scores."""
        state = self._optuna.trial.TrialState
        over = {state.COMPLETE: "finished", state.PRUNED: "pruned", state.FAIL: "failed"}
        return [
            Result(number=t.number, values=self._values(t), state=over[t.state])  # type: ignore[arg-type]
            for t in self._study.get_trials(deepcopy=False)
            if t.state in over
        ]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the values of the next trial: first one that was broken off."""
        running = self._study.get_trials(
            deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)
        )
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=(self._sweep.seed * 1_000_003 + number) % 2**32, n_startup_trials=_FEW
        )
        self._trial = (
            self._optuna.trial.Trial(self._study, running[0]._trial_id)
            if running
            else self._study.ask()
        )
        return self._trial.number, self._values(self._trial)

    def should_stop(self, values: dict[int, float]) -> bool:
        """Report the metric's values by step so far; return whether the trial is hopeless."""
        assert self._trial is not None
        for step, value in values.items():
            if math.isfinite(value):
                self._trial.report(value, step)
        return self._trial.should_prune()

    def tell(self, result: Result) -> None:
        """Say how the trial that was asked for last has ended."""
        assert self._trial is not None
        state = self._optuna.trial.TrialState
        if result.score is not None:
            self._study.tell(self._trial, result.score)
        else:
            pruned = result.state == "pruned"
            self._study.tell(self._trial, state=state.PRUNED if pruned else state.FAIL)

    def _values(self, trial: Any) -> dict[str, Any]:
        """Return the values of a trial, drawing those that it has not yet."""
        return {key: self._value(trial, key) for key in self._sweep.parameters}

    def _value(self, trial: Any, key: str) -> Any:
        parameter = self._sweep.parameters[key]
        frozen = isinstance(trial, self._optuna.trial.FrozenTrial)
        if frozen and key not in trial.params:
            return None  # it failed before it was drawn
        if isinstance(parameter, Choices):
            # Optuna stores plain values only; ours may be lists.
            options = {as_argument(value): value for value in parameter.values}
            name = trial.params[key] if frozen else trial.suggest_categorical(key, list(options))
            return options[name]
        if frozen:
            return _shown(trial.params[key], parameter)
        if parameter.scale == "int":
            return trial.suggest_int(key, int(parameter.low), int(parameter.high))
        drawn = trial.suggest_float(
            key, parameter.low, parameter.high, log=parameter.scale == "log_uniform"
        )
        return _shown(drawn, parameter)


def _shown(value: float, parameter: Range) -> float | int:
    return int(value) if parameter.scale == "int" else rounded(value)
