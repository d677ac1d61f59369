"""`--ckpt_path last` is the newest start of the experiment's own, and nothing else."""

import json
import os
import zipfile

import pytest

from mmlight.errors import UserError
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.ckpt_path import best_checkpoint, describe_last, last_run, own_starts
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import RUN_ID, agreed_id
from mmlight.saved.locate import locate


@pytest.fixture(autouse=True)
def no_id_of_the_surroundings(monkeypatch):
    for name in (RUN_ID, "MMLIGHT_RUN_OWNER", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name in (RUN_ID, "MMLIGHT_RUN_OWNER"):
        os.environ.pop(name, None)


def start(root, run_id, *, at, steps=(), name="tiny", status=None, best=()):
    """Leave what a training leaves that was started `at` seconds after the epoch."""
    run = Run(root / name / run_id)
    run.checkpoints.mkdir(parents=True)
    (run.path / "attempts.jsonl").write_text(
        json.dumps({"event": "start", "time": float(at), "step": 0}) + "\n"
    )
    for kind, numbers in (("step", steps), ("best", best)):
        for step in numbers:
            with zipfile.ZipFile(run.checkpoints / f"{kind}-{step:08d}.ckpt", "w") as file:
                file.writestr("data", "x")
    if status:
        run.summary_json.write_text(json.dumps({"status": status}))
    return run


def test_newest_start_is_taken_whichever_saved_last(tmp_path):
    start(tmp_path, "b", at=100, steps=[500], status="finished")
    new = start(tmp_path, "a", at=200, steps=[3])
    os.utime(new.checkpoints / "step-00000003.ckpt", (1, 1))
    assert last_run(tmp_path, name="tiny") == new
    assert agreed_id({RUN_ID: os.environ[RUN_ID]}) == "a"


def test_a_run_that_goes_on_is_the_newest_again(tmp_path):
    old = start(tmp_path, "old", at=100, steps=[5])
    start(tmp_path, "new", at=200, steps=[9])
    append_event(old.path, "end", step=5)
    append_event(old.path, "start", step=5)
    assert last_run(tmp_path, name="tiny") == old


@pytest.mark.parametrize("trace", ["start", "end", "provenance"])
def test_newest_start_without_a_checkpoint_is_named_and_no_older_one_taken(tmp_path, trace):
    start(tmp_path, "old", at=100, steps=[500], status="finished")
    new = start(tmp_path, "new", at=2e9)
    if trace == "end":  # Ctrl-C while it was built
        line = json.dumps({"event": "end", "time": 2e9, "step": 0, "reason": "INT"})
        (new.path / "attempts.jsonl").write_text(line + "\n")
    if trace == "provenance":  # of an earlier version
        (new.path / "attempts.jsonl").unlink()
        (new.path / "provenance.json").write_text('{"verb": "fit"}')
    with pytest.raises(UserError) as refused:
        last_run(tmp_path, name="tiny")
    said = str(refused.value)
    assert "the newest start of tiny, new of 20" in said and "\n" not in said
    assert said.endswith("mmlight resume tiny/old (step 500)")


def test_runs_that_are_parts_of_something_are_no_ones_last(tmp_path):
    own = start(tmp_path, "own", at=1, steps=[5])
    folds = tmp_path / "tiny" / "cv"
    folds.mkdir()
    (folds / "plan.json").write_text("{}")
    for fold in ("0", "ann-b"):
        (folds / f"{fold}.yaml").write_text("")
        start(tmp_path, f"cv-{fold}", at=9, steps=[7])
    for part in ("trial-000", "trial-012-seed3", "own-again-0f3e", "bench-x", "lr-find-x"):
        start(tmp_path, part, at=9, steps=[7])
    evaluation = start(tmp_path, "scored", at=9)
    (evaluation.path / "attempts.jsonl").unlink()
    (evaluation.path / "provenance.json").write_text('{"verb": "test"}')
    assert own_starts(tmp_path / "tiny") == [own]
    assert last_run(tmp_path, name="tiny") == own
    assert locate(tmp_path / "tiny", key="from_run").path.parent == own.checkpoints


def test_what_is_taken_is_told(tmp_path):
    run = start(tmp_path, "a", at=1, steps=[1500], status="finished")
    assert describe_last(run, run.newest_checkpoint()) == (
        "tiny/a, which has finished: step-00001500.ckpt, step 1,500"
    )


def scored(run, *, monitor="val/accuracy", mode="max", values=()):
    run.config_yaml.write_text(f"checkpoint:\n  monitor: {monitor}\n  monitor_mode: {mode}\n")
    rows = [{"step": step, "wall_s": 1.0, monitor: value} for step, value in values]
    run.metrics_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("monitor", "mode", "best", "told"),
    [("val/accuracy", "max", 4, "75.0 %"), ("val/loss", "min", 2, "0.25")],
)
def test_best_checkpoint_is_that_of_the_best_score(tmp_path, monitor, mode, best, told):
    run = start(tmp_path, "a", at=1, steps=[8], best=[2, 4, 6])
    scored(run, monitor=monitor, mode=mode, values=[(2, 0.25), (4, 0.75), (6, 0.5)])
    found = best_checkpoint(run)
    assert found.path.name == f"best-{best:08d}.ckpt"
    assert str(found) == f"{found.path.name}, the best by {monitor} {told}"
    assert locate(f"{run.path}/best", key="--ckpt_path").path == found.path
    assert locate(f"{run.path}/last", key="--ckpt_path").path.name == "step-00000008.ckpt"
    assert locate(f"{run.path.parent}/best", key="--ckpt_path").path == found.path


def test_best_of_a_run_that_keeps_none_is_one_line(tmp_path):
    run = start(tmp_path, "a", at=1, steps=[8])
    scored(run, monitor="null")
    with pytest.raises(UserError, match=r"tiny/a keeps no best.*checkpoint.monitor is not set"):
        best_checkpoint(run)
    scored(run)
    with pytest.raises(UserError, match="no complete best checkpoint: no validation gave val/acc"):
        best_checkpoint(Run(run.path))
