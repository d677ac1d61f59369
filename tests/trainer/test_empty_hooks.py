import json

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import LambdaCallback
from tiny_run import TinyData, TinyTask

from mmlight.trainer.empty_hooks import leave_out_empty_hooks

HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward")


@pytest.fixture
def called(monkeypatch):
    """Count the calls of hooks that nobody overrode."""
    calls = []
    for name in HOOKS:
        for base in (pl.Callback, pl.LightningModule):
            monkeypatch.setattr(base, name, lambda *args, name=name: calls.append(name))
    return calls


class Inherits(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_after_backward(self, trainer, pl_module):
        self.seen.append("on_after_backward")


class CallsSuper(Inherits):
    def on_after_backward(self, trainer, pl_module):
        super().on_after_backward(trainer, pl_module)
        pl.Callback.on_before_backward(self, trainer, pl_module, None)


class OwnHook(TinyTask):
    num_backwards = 0

    def on_after_backward(self):
        super().on_after_backward()
        self.num_backwards += 1


def fit(*callbacks, leave_out=True):
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=3,
        limit_val_batches=0,
    )
    task = OwnHook()
    if leave_out:
        leave_out_empty_hooks(trainer, task)
    trainer.fit(task, datamodule=TinyData())
    return task, json.dumps({k: v.tolist() for k, v in task.state_dict().items()})


def test_hooks_that_nobody_overrides_are_not_called(called):
    fit(Inherits(), leave_out=False)
    assert set(called) == set(HOOKS)
    called.clear()
    fit(Inherits())
    assert called == ["on_after_backward"] * 3  # by the task's own super()


def test_overridden_hooks_run_with_super_and_on_instances():
    seen, callback, inheriting = [], Inherits(), CallsSuper()
    by_instance = LambdaCallback(on_before_zero_grad=lambda *args: seen.append("lambda"))
    task, _ = fit(callback, inheriting, by_instance)
    assert task.num_backwards == len(callback.seen) == len(inheriting.seen) == len(seen) == 3


def test_training_is_the_same():
    assert fit(Inherits())[1] == fit(Inherits(), leave_out=False)[1]
