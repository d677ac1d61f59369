"""Optuna proposes the combinations of a sweep; its journal file makes that resumable (no torch)."""

import math
import time
from pathlib import Path
from typing import Any

from mmlight.errors import UserError
from mmlight.runs.plan.results import Result, State
from mmlight.runs.plan.sweep import Choices, Sweep, as_argument, rounded

_FEW = 10  # as many are drawn by chance before the sampler has a model
_DRAWN_WITHIN_S = 60.0  # runs of a trial with several seeds may begin at once
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
        self._storage = JournalStorage(JournalFileBackend(str(journal)))
        self._study = optuna.create_study(
            storage=self._storage,
            study_name="sweep",
            direction="maximize" if sweep.direction == "max" else "minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_JUDGED),
        )
        self._trial: Any = None

    def trials(self) -> list[Result]:
        """Return all trials as Optuna remembers them, without their scores."""
        state = self._optuna.trial.TrialState
        words: dict[Any, State] = {
            state.WAITING: "new",
            state.RUNNING: "running",
            state.COMPLETE: "finished",
            state.PRUNED: "pruned",
            state.FAIL: "failed",
        }
        return [
            Result(number=t.number, values=self._values(t), state=words[t.state])
            for t in self._study.get_trials(deepcopy=False)
        ]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Return the number and the values of the next trial: first one that was broken off."""
        states = self._optuna.trial.TrialState
        trials = self._study.get_trials(deepcopy=False)
        begun = [t for t in trials if t.state == states.RUNNING]
        begun += [t for t in trials if t.state == states.WAITING]
        if begun:
            return begun[0].number, self.claim(begun[0].number)
        self._draw_from(len(trials))
        self._trial = self._study.ask()
        return self._trial.number, self._values(self._trial)

    def reserve(self, count: int) -> None:
        """Make sure that there are `count` trials; those without values get them when claimed."""
        for _ in range(len(self._study.get_trials(deepcopy=False)), count):
            self._study.enqueue_trial({})

    def claim(self, number: int) -> dict[str, Any]:
        """Return the values of one trial; the first process that asks draws them.

        Args:
            number: of a trial that there is (see `reserve`).
        """
        states = self._optuna.trial.TrialState
        trial = self._study.get_trials(deepcopy=False)[number]
        if trial.state.is_finished():
            return self._values(trial)
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        is_first = trial.state == states.WAITING and self._storage.set_trial_state_values(
            trial_id, state=states.RUNNING
        )
        until = time.monotonic() + _DRAWN_WITHIN_S
        while not is_first and time.monotonic() < until:
            drawn = self._study.get_trials(deepcopy=False)[number]
            if len(drawn.params) == len(self._sweep.parameters) or not self._sweep.seeds:
                break  # without seeds a trial has one process: one that was broken off
            time.sleep(0.5)
        self._draw_from(number)
        self._trial = self._optuna.trial.Trial(self._study, trial_id)
        return self._values(self._trial)

    def should_stop(self, values: dict[int, float]) -> bool:
        """Report the metric's values by step so far; return whether the trial is hopeless."""
        assert self._trial is not None
        for step, value in values.items():
            if math.isfinite(value):
                self._trial.report(value, step)
        return self._trial.should_prune()

    def tell(self, result: Result) -> None:
        """Say how a trial has ended; where that was said before, nothing changes."""
        states = self._optuna.trial.TrialState
        if self._study.get_trials(deepcopy=False)[result.number].state.is_finished():
            return
        if result.score is not None:
            self._study.tell(result.number, result.score, skip_if_finished=True)
        else:
            state = states.PRUNED if result.state == "pruned" else states.FAIL
            self._study.tell(result.number, state=state, skip_if_finished=True)

    def _draw_from(self, number: int) -> None:
        # Trials that run elsewhere count as bad: their neighbourhood is not tried a second time.
        self._study.sampler = self._optuna.samplers.TPESampler(
            seed=(self._sweep.seed * 1_000_003 + number) % 2**32,
            n_startup_trials=_FEW,
            constant_liar=True,
        )

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
        low, high, scale = parameter.low, parameter.high, parameter.scale
        if scale == "int":
            return int(trial.params[key] if frozen else trial.suggest_int(key, int(low), int(high)))
        log = scale == "log_uniform"
        return rounded(
            trial.params[key] if frozen else trial.suggest_float(key, low, high, log=log)
        )
