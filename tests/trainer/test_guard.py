"""A run that is told to stop is saved between two steps, and goes on bit for bit."""

import os
import signal

import cli_data
import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmlight import signals
from mmlight.runs.run.folder import Run
from mmlight.trainer.checkpoints import CheckpointSettings
from mmlight.trainer.ema import Ema
from mmlight.trainer.guard import Guard
from mmlight.trainer.owed_validation import OwedValidation

STEPS = 12  # 5 an epoch


class Send(Callback):
    """Sends this process a signal in the middle of a step, or of a validation."""

    def __init__(self, step, *, number=signal.SIGUSR1, validating=False):
        self.step, self.number, self.validating = step, number, validating

    def _send(self, trainer, validating):
        if trainer.global_step == self.step and validating == self.validating:
            os.kill(os.getpid(), self.number)

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self._send(trainer, False)

    def on_validation_batch_start(self, trainer, *_, **__):
        self._send(trainer, True)


class Validations(Callback):
    def __init__(self):
        self.by_step = {}

    def on_validation_end(self, trainer, pl_module):
        assert trainer.global_step not in self.by_step
        values = trainer.callback_metrics.items()
        self.by_step[trainer.global_step] = {k: float(v) for k, v in values if "val" in k}


@pytest.fixture(autouse=True)
def handlers_as_they_were():
    yield
    signals.stop_noting()


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    return cli_data.changed(
        cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs"),
        {
            "trainer.max_steps": STEPS,
            "model.init_args.towers.image.encoder.init_args.drop_path_rate": 0.2,
        },
    )


def train(values, run, *, send=None, every_n_steps=None):
    """Train from the newest checkpoint; return losses, validations and why it was handed on."""
    losses, validations = cli_data.Losses(), Validations()
    guard = Guard(run)
    callbacks = [losses, validations, Ema(decay=0.9), *([send] if send else [])]
    callbacks += [OwedValidation(), guard]
    callbacks += CheckpointSettings(every_n_steps=every_n_steps).callbacks(run.checkpoints)
    signals.stop_noting()
    newest = run.newest_checkpoint()
    try:
        cli_data.fit(values, run.path, callbacks=callbacks, ckpt_path=newest)
    except SIGTERMException:
        assert guard.handed_on
    return losses.by_batch, validations.by_step, guard.handed_on


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole"))
    losses, validations, reason = train(values, run)
    assert (len(losses), sorted(validations), reason) == (STEPS, [5, 10], None)
    return losses, validations


@pytest.mark.parametrize("every_n_steps", [None, 2])
@pytest.mark.parametrize("step", range(1, STEPS))
def test_run_told_to_stop_at_any_step_goes_on_bit_for_bit(
    values, whole, step, every_n_steps, tmp_path
):
    run = Run(tmp_path)
    losses, validations, reason = train(
        values, run, send=Send(step - 1), every_n_steps=every_n_steps
    )
    assert (len(losses), reason) == (step, "USR1")
    assert [p.name for p in run.checkpoints.glob("*.ckpt")] == [f"step-{step:08d}.ckpt"]
    rest, later, reason = train(values, run, every_n_steps=every_n_steps)
    assert reason is None
    assert {**losses, **rest} == whole[0]
    assert len(losses) + len(rest) == STEPS
    assert {**validations, **later} == whole[1]
    assert len(validations) + len(later) == len(whole[1])


@pytest.mark.parametrize("validating", [False, True])
def test_ctrl_c_saves_between_two_steps_and_goes_on_bit_for_bit(
    values, whole, validating, tmp_path
):
    run = Run(tmp_path)
    send = Send(5 if validating else 4, number=signal.SIGINT, validating=validating)
    losses, validations, reason = train(values, run, send=send)
    assert (len(losses), validations, reason) == (5, {}, "INT")
    assert [p.name for p in run.checkpoints.glob("*.ckpt")] == ["step-00000005.ckpt"]
    rest, later, reason = train(values, run)
    assert reason is None
    assert {**losses, **rest} == whole[0] and later == whole[1]


@pytest.mark.parametrize("every_n_steps", [None, 5])
@pytest.mark.parametrize("step", [5, 10])
def test_validation_that_is_broken_off_is_made_up_for(values, whole, step, every_n_steps, tmp_path):
    run = Run(tmp_path)
    send = Send(step, number=signal.SIGTERM, validating=True)
    losses, validations, reason = train(values, run, send=send, every_n_steps=every_n_steps)
    assert (len(losses), reason) == (step, "TERM")
    assert step not in validations
    assert [p.name for p in run.checkpoints.glob("*.ckpt")] == [f"step-{step:08d}.ckpt"]
    rest, later, reason = train(values, run, every_n_steps=every_n_steps)
    assert {**losses, **rest} == whole[0]
    assert len(losses) + len(rest) == STEPS
    assert {**validations, **later} == whole[1]
