"""Callbacks that jobs of the preemption tests load by name."""

import os
import signal
import time

from lightning.pytorch.callbacks import Callback


class Slow(Callback):
    """Makes steps last, so that a test can act between two of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_):
        time.sleep(self.seconds)


class Die(Callback):
    """Kills its process in a step, whenever training comes there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class DieWhere(Callback):
    """Kills its process in the first step, where a variable is set."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_start(self, *_):
        if self.name in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
