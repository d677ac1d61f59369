"""Optuna's trials shared by several processes through the journal."""

from multiprocessing import get_context

import pytest

from mmlight.runs.plan.optuna_search import OptunaSearch
from mmlight.runs.plan.results import Result
from mmlight.runs.plan.sweep import Choices, Range, Sweep

pytest.importorskip("optuna")
PARAMETERS = {"lr": Range(1e-5, 1e-1, "log_uniform"), "kind": Choices(("a", [1, 2]))}


def make_sweep(tmp_path, **changes):
    given = {
        "experiment": tmp_path / "x.yaml",
        "parameters": PARAMETERS,
        "metric": "val/loss",
        "direction": "min",
        "searcher": "optuna",
        "trials": 6,
    }
    return Sweep(**given | changes)


def claim(sweep, journal, number, queue):
    queue.put((number, OptunaSearch(sweep, journal=journal).claim(number)))


def test_processes_claim_trials_by_number_in_any_order(tmp_path):
    sweep, journal = make_sweep(tmp_path), tmp_path / "journal"
    search = OptunaSearch(sweep, journal=journal)
    search.reserve(4)
    search.reserve(4)
    assert [t.state for t in search.trials()] == ["new"] * 4
    context = get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=claim, args=(sweep, journal, n, queue)) for n in (3, 1, 0, 2)]
    for worker in workers:
        worker.start()
    claimed = dict(queue.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    trials = search.trials()
    assert {t.number: t.values for t in trials} == claimed
    assert [t.state for t in trials] == ["running"] * 4
    assert len({values["lr"] for values in claimed.values()}) == 4
    assert search.claim(2) == claimed[2]  # a job that is requeued goes on with its values


def test_runs_of_one_trial_that_begin_at_once_get_the_same_values(tmp_path):
    sweep, journal = make_sweep(tmp_path, seeds=(0, 1, 2)), tmp_path / "journal"
    OptunaSearch(sweep, journal=journal).reserve(1)
    context = get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=claim, args=(sweep, journal, 0, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    values = [queue.get(timeout=60)[1] for _ in workers]
    for worker in workers:
        worker.join()
    assert values[0] == values[1] == values[2] and values[0]["lr"] is not None


def test_a_trial_is_told_once_and_by_its_number(tmp_path):
    sweep, journal = make_sweep(tmp_path), tmp_path / "journal"
    search, other = (OptunaSearch(sweep, journal=journal) for _ in range(2))
    search.reserve(2)
    values = search.claim(1)
    done = Result(number=1, values=values, state="finished", scores=(0.5,))
    other.tell(done)
    search.tell(done)
    assert [t.state for t in search.trials()] == ["new", "finished"]
    assert search.ask()[0] == 0  # one that waits comes before a new one
    assert search.ask()[0] == 0  # and one that was broken off before that
