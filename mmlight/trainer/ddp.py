"""A whole model on each device, gradients averaged."""

from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from mmlight.tasks.task import Task


class Ddp(DDPStrategy):
    """DDP with gradients that live in the buckets they are sent in (`trainer.strategy: ddp`).

    DDP looks for parameters without gradients only where a task has some: a schedule that trains
    more parameters later on, or parts of a tower that it leaves out. Looking costs a walk through
    the graph in every step.

    Args:
        gradients: what gradients are sent as; `bfloat16` halves the traffic and rounds them to 8
            bits (torch's `bf16_compress_hook`).
        options: further arguments of Lightning's `DDPStrategy`.
    """

    def __init__(
        self, *, gradients: Literal["float32", "bfloat16"] = "float32", **options: Any
    ) -> None:
        options = {"gradient_as_bucket_view": True, **options}
        if gradients == "bfloat16":
            options["ddp_comm_hook"] = bf16_compress_hook
        super().__init__(**options)

    def setup(self, trainer: pl.Trainer) -> None:
        """Wrap the built task."""
        if (
            isinstance(self.lightning_module, Task)
            and self.lightning_module.has_unused_parameters()
        ):
            self._ddp_kwargs.setdefault("find_unused_parameters", True)
        super().setup(trainer)
