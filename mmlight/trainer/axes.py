"""How far a trainer is: the axes that every logged row carries."""

import lightning.pytorch as pl

from mmlight.trainer.token_count import TokenCount


class Axes:
    """How far a trainer is.

    Lightning numbers the rows of a step and of the validation right after it from 0 and those at
    an epoch's end from 1; here a row's step is the number of optimiser steps done.

    Args:
        trainer: the trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self._trainer.global_step

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return self._trainer.current_epoch

    @property
    def samples(self) -> int:
        """Training samples seen by all ranks; 0 where the data module does not say its batch."""
        data = getattr(self._trainer, "datamodule", None)
        return (
            self.step
            * getattr(data, "global_batch_size", 0)
            * self._trainer.accumulate_grad_batches
        )

    @property
    def tokens(self) -> int | None:
        """Text tokens trained on by all ranks; None where no text was seen."""
        callbacks: list[pl.Callback] = self._trainer.callbacks  # type: ignore[attr-defined]
        counts = [c.tokens for c in callbacks if isinstance(c, TokenCount)]
        return next((count for count in counts if count), None)
